"""Measure what the choices of `nbsmt/engines/cpu/cost_model.py` lose in whole networks, layer by layer.

    python scripts/measure_choices.py [--models resnet18] [--variants 1T 4T] [--batch 16] [--size 224] [--repeats 9]

A layer is timed with each share of its weights made dense, all workers at it, in evaluation. Columns: the time of one
image in these layers by the model's choices, by the quickest ones, their ratio, and by one choice for all. The shares
are timed one after the other and a layer's shortest time counts: a busy machine makes the ratio larger, never smaller.
"""

import argparse
import math
import time
from collections.abc import Callable, Mapping
from typing import Any
from unittest.mock import patch

import torch

from bnrecal.benchmark.bench import as_evaluated
from bnrecal.benchmark.networks import VARIANTS, Built, build, random_images
from bnrecal.commands.cli.errors import one_line_errors
from bnrecal.errors import BnrecalError
from bnrecal.memory import keep_freed_memory
from bnrecal.nbsmt.decompose.dense_sparse import DenseShare
from bnrecal.nbsmt.engines.cpu import dense_sparse
from bnrecal.nbsmt.engines.cpu.cost_model import CHOICES
from bnrecal.nbsmt.engines.cpu.dense_sparse import DenseSparseEngine, kernels_compile
from bnrecal.nbsmt.engines.engine import NO_NUMBA, unfolded

LOST = 1.07  # a layer that takes more than this of its quickest choice is printed

Shortest = dict[str, float]  # seconds of a layer


def describe_choices(model: str, variant: str, batch: int, size: int, repeats: int) -> list[str]:
    """Return the line of a network, and one for every layer whose choice is a slow one."""
    images = random_images(batch, size, "cpu")
    chosen = {name: engine.share for name, engine in _engines(build(model, VARIANTS[variant], images)).items()}
    shortest = {share: _time_layers(_forced(model, variant, share, images), images, repeats) for share in CHOICES}
    own = {name: shortest[share][name] for name, share in chosen.items()}
    best = {name: min(_of_layer(shortest, name)) for name in chosen}
    sums = [_milliseconds(times, batch) for times in (own, best, *shortest.values())]
    figures = [sums[0], sums[1], sums[0] / sums[1], *sums[2:]]
    columns = " ".join(f"{figure:8.2f}" for figure in figures)
    lines = [f"{model:14} {variant:8} {columns}"]
    for name, share in chosen.items():
        if own[name] > LOST * best[name]:
            times = [1e3 * seconds / batch for seconds in _of_layer(shortest, name)]
            each = ", ".join(f"{one.value} {took:.3f} ms" for one, took in zip(CHOICES, times, strict=True))
            lines.append(f"    {name}: {share.value} chosen; {each}")
    return lines


def _milliseconds(times: Shortest, batch: int) -> float:
    """Return the time of one image in all layers."""
    return 1e3 * sum(times.values()) / batch


def _of_layer(shortest: Mapping[DenseShare, Shortest], name: str) -> list[float]:
    """Return a layer's seconds with each share."""
    return [shortest[share][name] for share in CHOICES]


def _forced(model: str, variant: str, share: DenseShare, images: torch.Tensor) -> Built:
    """Build a network whose layers all make this share dense."""
    with patch.object(dense_sparse, "cheapest", lambda *_: share):
        return build(model, VARIANTS[variant], images)


def _engines(built: Built) -> dict[str, DenseSparseEngine]:
    """Return the engines that have a choice, by layer."""
    found = {}
    for name, layer in built.layers.items():
        (prepared,) = layer.packed.convolutions()
        engine = unfolded(prepared.engine)
        if isinstance(engine, DenseSparseEngine):
            found[name] = engine
    return found


def _time_layers(built: Built, images: torch.Tensor, repeats: int) -> Shortest:
    """Return the shortest time of every layer in some passes of the whole network."""
    shortest: Shortest = {}
    for name, engine in _engines(built).items():
        shortest[name] = math.inf
        timed: Any = engine  # its methods are replaced
        for method in ("convolve", "convolve_to_end"):
            setattr(timed, method, _timed(getattr(engine, method), name, shortest))
    network = as_evaluated(built, images.device)
    with torch.inference_mode():
        for _ in range(repeats + 1):
            network(images)
    return shortest


def _timed(call: Callable[..., object], name: str, shortest: Shortest) -> Callable[..., object]:
    def timed(*arguments: object, **settings: object) -> object:
        start = time.perf_counter()
        result = call(*arguments, **settings)
        shortest[name] = min(shortest[name], time.perf_counter() - start)
        return result

    return timed


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["resnet18", "resnet50", "mobilenet_v2"])
    threaded = [name for name, variant in VARIANTS.items() if variant.threads]
    parser.add_argument("--variants", nargs="+", default=threaded, choices=threaded)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--repeats", type=int, default=9)
    args = parser.parse_args()
    if not kernels_compile():
        raise BnrecalError(f"{NO_NUMBA}, so there are no choices to measure")
    keep_freed_memory()
    labels = ["chosen", "quickest", "ratio", *(share.value for share in CHOICES)]
    columns = " ".join(f"{label:>8}" for label in labels)
    print(f"{'ms an image':23} {columns}")
    for model in args.models:
        for variant in args.variants:
            print(*describe_choices(model, variant, args.batch, args.size, args.repeats), sep="\n", flush=True)


if __name__ == "__main__":
    with one_line_errors():
        main()
