"""`bnrecal export`: hand a network over to hardware."""

from collections.abc import Sequence
from pathlib import Path

from bnrecal.commands.schemas import ExportConfig
from bnrecal.config import experiment_part
from bnrecal.experiment.setup import Variant, prepare, prepare_variants
from bnrecal.export.bundle import Export, export


def make_export(config: ExportConfig, overrides: Sequence[str]) -> Export:  # noqa: ARG001
    """Write, compare and print."""
    setup = prepare(experiment_part(config))
    variant = Variant.of(setup.config)
    made = export(setup, prepare_variants(setup, [variant])[variant], config.vectors, Path(config.out))
    print(f"{setup.model.name} on {setup.source.name}, {variant}")
    print(describe_export(made))
    return made


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
    plan = made.plan
    lines.append(
        f"  speedup     {plan['speedup']:.2f} x by products, {plan['cycle_speedup']:.2f} x by array cycles "
        f"({plan['cycles']:,} per image)"
    )
    return "\n".join([*lines, f"  written to  {made.folder}"])


def _kept(kept: dict[str, str], most: int = 3) -> list[str]:
    lines = [f"  not folded  {name}: {reason}" for name, reason in list(kept.items())[:most]]
    return lines + ([f"              and {len(kept) - most} more (plan.json)"] if len(kept) > most else [])
