"""`bnrecal export`: hand a network over to hardware."""

from collections.abc import Sequence
from pathlib import Path

from bnrecal.commands.cli.schemas import ExportConfig
from bnrecal.config import experiment_part
from bnrecal.errors import some_of
from bnrecal.experiment.chance import refuse_chance
from bnrecal.experiment.networks import prepare_variants
from bnrecal.experiment.setup import load, prepare
from bnrecal.experiment.variant import Variant
from bnrecal.export.bundle import Export, export


def make_export(config: ExportConfig, overrides: Sequence[str]) -> Export:  # noqa: ARG001
    """Write, compare and print."""
    experiment = prepare(load(experiment_part(config)))
    refuse_chance(experiment, None)
    variant = Variant.of(experiment.config)
    made = export(experiment, prepare_variants(experiment, [variant])[variant], config.vectors, Path(config.out))
    print(f"{experiment.model.name} on {experiment.source.name}, {variant}")
    print(describe_export(made))
    return made


def describe_export(made: Export) -> str:
    """Say for the terminal which layers were folded, how the network compares, and where the files are."""
    folding = made.folding
    lines = [f"  folded      {len(folding.into)} of {len(folding.into) + len(folding.kept)} BatchNorm layers"]
    lines += _kept(folding.kept)
    for name, agreement in made.agreements.items():
        lines.append(
            f"  {name:<11} {agreement.percent(agreement.equal):.2f} % equal predictions on {agreement.images} images, "
            f"top-1 {agreement.percent(agreement.top1):.2f} % unfolded, "
            f"{agreement.percent(agreement.folded_top1):.2f} % folded; one last bit of noise changes "
            f"{agreement.noisy} predictions, folding {agreement.images - agreement.equal}"
        )
    if made.last_bits:
        worst = max(made.last_bits, key=lambda name: made.last_bits[name])
        lines.append(
            f"  rounding    folded layers differ by {made.last_bits[worst]:.1f} last bits of float32 or less ({worst})"
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
    by_reason: dict[str, list[str]] = {}
    for name, reason in kept.items():
        by_reason.setdefault(reason, []).append(name)
    lines = []
    for reason, names in list(by_reason.items())[:most]:
        lines.append(f"  not folded  {some_of(names, most)}: {reason}")
    rest = sum(len(names) for names in list(by_reason.values())[most:])
    return lines + ([f"              and {rest} more (plan.json)"] if rest else [])
