"""`bnrecal bench`: how fast the NB-SMT engine is."""

from collections.abc import Sequence
from pathlib import Path

from bnrecal.benchmark.bench import run
from bnrecal.commands.schemas import BenchConfig


def run_bench(config: BenchConfig, overrides: Sequence[str]) -> None:  # noqa: ARG001
    """Check, time, print and write."""
    run(config.device, config.models, config.batch, config.repeats, config.size, Path(config.out))
