"""Compare fused and unfused evaluation: the largest difference of a logit, and predictions that differ.

    python scripts/compare_fused.py key=value ...

takes the settings of `bnrecal`, and prints a line for float32 and for each number of threads, with recalibrated
statistics: over the networks of Table 1, or (with model=NAME) for one of them. The exit status is 1 if a logit differs.
`data.val_images` says on how many images; all of the embedded set are 5,000. On a GPU, where evaluation has a BatchNorm
of its own, a second part of each line compares that with PyTorch's.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bnrecal.commands.cli.compose import compose_config, read_config
from bnrecal.commands.cli.errors import one_line_errors
from bnrecal.commands.cli.schemas import Table1Config
from bnrecal.config import parse
from bnrecal.experiment.networks import prepare_variants
from bnrecal.experiment.setup import load, prepare
from bnrecal.experiment.variant import Variant
from bnrecal.nbsmt.engines.apply_end import Ending, ending
from bnrecal.options import THREADS
from bnrecal.quantization.eval_norm import evaluation_norm
from bnrecal.quantization.fused import describe_fusion, fuse


@dataclass
class Difference:
    """The largest difference of a logit between two ways to compute a network, and predictions that differ."""

    largest: float = 0.0
    predictions: int = 0

    def add(self, one: Tensor, other: Tensor) -> None:
        """Count the logits (N, classes) of a batch."""
        self.largest = max(self.largest, float((one - other).abs().max()))
        self.predictions += int((one.argmax(1) != other.argmax(1)).sum())

    def __str__(self) -> str:
        return f"largest difference of a logit {self.largest:g}, {self.predictions} predictions differ"


@dataclass(frozen=True)
class Row:
    """A network on so many images.

    Attributes:
        batchnorms: BatchNorm layers that are fused.
        fused: the fused network and the unfused one.
        torchs: the unfused one and with PyTorch's own BatchNorm; None where that is the same thing.
    """

    name: str
    batchnorms: int
    images: int
    fused: Difference
    torchs: Difference | None

    def __str__(self) -> str:
        line = f"{self.name}: {self.batchnorms} BatchNorm layers fused, {self.images} images, {self.fused}"
        return line if self.torchs is None else f"{line}; against PyTorch's BatchNorm {self.torchs}"


def main() -> int:
    """Print a line for each network as soon as it is known; return 1 if one differs."""
    overrides = sys.argv[1:]
    one = [override.partition("=")[2] for override in overrides if override.startswith("model=")]
    status = 0
    for model in one or list(dict.fromkeys(row.model for row in read_config(Table1Config, []).rows)):
        for row in compare([*overrides, f"model={model}", "recal=true"]):
            print(row, flush=True)
            if row.fused.largest > 0:
                status = 1
    return status


def compare(overrides: list[str], threads: Sequence[int] = THREADS) -> Iterator[Row]:
    """Yield a row for float32 and each of these numbers of threads of one network."""
    experiment = prepare(load(parse(compose_config("config", overrides))))
    prepared = prepare_variants(experiment, [Variant(number, True) for number in threads])
    networks = {"float32": experiment.model.network}
    networks |= {f"{v.threads}T, recalibrated": p.network for v, p in prepared.items() if v.recal}
    own = ending(experiment.device) is Ending.OWN
    for name, network in networks.items():
        short = fuse(network)
        assert short is not None
        images = 0
        fused = Difference()
        torchs = Difference() if own else None
        norm = evaluation_norm(experiment.device)
        with torch.no_grad():
            for batch, _ in experiment.loader.batches(experiment.validation, experiment.batch_size):
                images += len(batch)
                with norm:
                    plain = network(batch)
                    fused.add(plain, short(batch))
                if torchs is not None:
                    torchs.add(plain, network(batch))
        batchnorms = describe_fusion(network, experiment.device).fused
        yield Row(f"{experiment.model.name}, {name}", batchnorms, images, fused, torchs)


if __name__ == "__main__":
    with one_line_errors():
        sys.exit(main())
