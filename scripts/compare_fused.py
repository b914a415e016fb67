"""Compare fused and unfused evaluation: the largest difference of a logit, and predictions that differ.

    python scripts/compare_fused.py key=value ...

takes the settings of `bnrecal`, and prints a line for float32 and for each number of threads, with recalibrated
statistics: over the networks of Table 1, or (with model=NAME) for one of them. The exit status is 1 if a logit differs
where the device promises equal bits. `data.val_images` says on how many images; all of the embedded set are 5,000.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from bnrecal.commands.cli.compose import compose_config, read_config
from bnrecal.commands.cli.errors import one_line_errors
from bnrecal.commands.cli.schemas import Table1Config
from bnrecal.config import parse
from bnrecal.experiment.networks import prepare_variants
from bnrecal.experiment.setup import load, prepare
from bnrecal.experiment.variant import Variant
from bnrecal.nbsmt.engines.apply_end import Ending, ending
from bnrecal.options import THREADS
from bnrecal.quantization.fused import describe_fusion, fuse


@dataclass(frozen=True)
class Row:
    """A network both ways: on so many images, the largest difference of a logit and how many predictions differ.

    Attributes:
        fused: BatchNorm layers that are.
        equal: the device promises equal bits.
    """

    name: str
    fused: int
    images: int
    largest: float
    predictions: int
    equal: bool


def main() -> int:
    """Print a line for each network as soon as it is known; return 1 if one differs that should not."""
    overrides = sys.argv[1:]
    one = [override.partition("=")[2] for override in overrides if override.startswith("model=")]
    status = 0
    for model in one or list(dict.fromkeys(row.model for row in read_config(Table1Config, []).rows)):
        for row in compare([*overrides, f"model={model}", "recal=true"]):
            print(
                f"{row.name}: {row.fused} BatchNorm layers fused, {row.images} images, largest difference of a logit "
                f"{row.largest:g}, {row.predictions} predictions differ",
                flush=True,
            )
            if row.largest > 0 and row.equal:
                status = 1
    return status


def compare(overrides: list[str], threads: Sequence[int] = THREADS) -> Iterator[Row]:
    """Yield a row for float32 and each of these numbers of threads of one network."""
    experiment = prepare(load(parse(compose_config("config", overrides))))
    prepared = prepare_variants(experiment, [Variant(number, True) for number in threads])
    networks = {"float32": experiment.model.network}
    networks |= {f"{v.threads}T, recalibrated": p.network for v, p in prepared.items() if v.recal}
    for name, network in networks.items():
        short = fuse(network)
        assert short is not None
        images = predictions = 0
        largest = 0.0
        with torch.no_grad():
            for batch, _ in experiment.loader.batches(experiment.validation, experiment.batch_size):
                plain = network(batch)
                other = short(batch)
                images += len(batch)
                largest = max(largest, float((plain - other).abs().max()))
                predictions += int((plain.argmax(1) != other.argmax(1)).sum())
        fused = describe_fusion(network, experiment.device).fused
        equal = ending(experiment.device) is Ending.EQUAL
        yield Row(f"{experiment.model.name}, {name}", fused, images, largest, predictions, equal)


if __name__ == "__main__":
    with one_line_errors():
        sys.exit(main())
