"""Hand a network over to hardware: `bnrecal export model=resnet18 smt.threads=4 recal=true out=FOLDER [key=value ...]`

Folds BatchNorm into the convolutions where the graph allows, and writes integer weights, scales, biases, the thread
plan with cycles, and golden vectors for one processing element; docs/hardware.md describes every file. The folder
appears only after the folded network was found to answer like the unfolded one on the validation images, and the
vectors were recomputed by the golden model.

  out=FOLDER             default outputs/export; an earlier export there is replaced
  vectors.outputs=16     outputs of each layer with golden vectors
  vectors.layers=[GLOB]  layers with golden vectors, default all
  data=..., smt.plan=..., recalibration.batch_size=..., ...   as for `bnrecal`
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig

from bnrecal.commands.common import run_command
from bnrecal.config import Config, experiment_part, parse
from bnrecal.errors import BnrecalError
from bnrecal.experiment.setup import Variant, prepare, prepare_variants
from bnrecal.export.bundle import Export, VectorsConfig, export


@dataclass
class ExportConfig(Config):
    """An experiment's settings and the export's own."""

    out: str = "outputs/export"
    vectors: VectorsConfig = field(default_factory=VectorsConfig)


ConfigStore.instance().store(name="export_schema", node=ExportConfig)


def main() -> None:
    """The command."""
    run_command("export", make_export, __doc__)


def make_export(composed: DictConfig, overrides: Sequence[str]) -> Export:  # noqa: ARG001
    """Write, compare and print."""
    config = parse_export(composed)
    setup = prepare(experiment_part(config))
    variant = Variant.of(setup.config)
    made = export(setup, prepare_variants(setup, [variant])[variant], config.vectors, Path(config.out))
    print(f"{setup.model.name} on {setup.source.name}, {variant}")
    print(describe_export(made))
    return made


def parse_export(composed: DictConfig) -> ExportConfig:
    """The checked configuration.

    Raises:
        BnrecalError: naming the first value out of range.
    """
    config = parse(composed, ExportConfig)
    if config.vectors.outputs < 1:
        raise BnrecalError(f"vectors.outputs={config.vectors.outputs}: must be at least 1")
    return config


def describe_export(made: Export) -> str:
    """What was folded, how it compares, and what was written, for the terminal."""
    folding = made.folding
    lines = [f"  folded      {len(folding.into)} of {len(folding.into) + len(folding.kept)} BatchNorm layers"]
    lines += _kept(folding.kept)
    for name, agreement in made.agreements.items():
        lines.append(
            f"  {name:<11} {agreement.percent(agreement.equal):.2f} % equal predictions on {agreement.images} images, "
            f"top-1 {agreement.percent(agreement.top1):.2f} % unfolded, "
            f"{agreement.percent(agreement.folded_top1):.2f} % folded"
        )
    outputs = sum(made.vectors.values())
    lines.append(f"  vectors     {outputs} outputs of {len(made.vectors)} layers, equal to the golden model")
    lines.append(f"  speedup     {made.plan['speedup']:.2f} x, {made.plan['cycles']:,} array cycles an image")
    return "\n".join([*lines, f"  written to  {made.folder}"])


def _kept(kept: dict[str, str], most: int = 3) -> list[str]:
    lines = [f"  not folded  {name}: {reason}" for name, reason in list(kept.items())[:most]]
    return lines + ([f"              and {len(kept) - most} more (plan.json)"] if len(kept) > most else [])


if __name__ == "__main__":
    main()
