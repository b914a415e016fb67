"""Amounts that the search measures."""

from dataclasses import dataclass

from bnrecal.checks import at_least
from bnrecal.config import setting
from bnrecal.errors import BnrecalError
from bnrecal.options import THREADS


@dataclass
class SearchConfig:
    """The search for threads per layer."""

    sensitivity_images: int = setting(512, "training images behind the sensitivity of each layer")
    images: int = setting(2048, "training images that whole choices are compared on")
    heldout_images: int = setting(2048, "further training images that the result is judged on, and none is chosen on")
    rounds: int = setting(4, "greedy rounds; each takes the best of its swaps, or ends the search")
    tries: int = setting(6, "swaps measured per round")
    threads: list[int] = setting(list(THREADS), "the counts to choose from")


def check_search(search: SearchConfig) -> None:
    """Raise BnrecalError at the first value out of range."""
    for key in ("sensitivity_images", "images", "heldout_images"):
        at_least(f"search.{key}", getattr(search, key), 2)
    at_least("search.rounds", search.rounds, 0)
    at_least("search.tries", search.tries, 1)
    if not search.threads or not set(search.threads) <= set(THREADS):
        raise BnrecalError(f"search.threads={search.threads}: choose some of {', '.join(map(str, THREADS))}")
