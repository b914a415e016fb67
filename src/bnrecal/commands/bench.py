"""`bnrecal bench`: speed of the NB-SMT engine."""

from collections.abc import Sequence
from pathlib import Path

from bnrecal.benchmark.bench import run
from bnrecal.benchmark.imagenet_time import describe_estimates
from bnrecal.commands.cli.schemas import BenchConfig
from bnrecal.device import choose_device
from bnrecal.nbsmt.engines.gpu.choose import triton_trouble

# Images per forward pass. A GPU computes small batches quicker than Python can start their kernels.
BATCH = {"cpu": 8, "cuda": 256}


def run_bench(config: BenchConfig, overrides: Sequence[str]) -> None:  # noqa: ARG001
    """Check, time, print and write."""
    device = choose_device(config.device, engine_trouble=triton_trouble)
    batch = BATCH[device.type] if config.batch is None else config.batch
    rows = run(str(device), config.models, batch, config.repeats, config.size, Path(config.out))
    if config.imagenet_time:
        print(f"\n{describe_estimates(rows, beside=device.type == 'cuda')}")
