"""What a few cells of the shipped MobileNet-v1 answered when they were recorded."""

from pathlib import Path
from typing import TypedDict

from helpers import shipped

FILE = Path(__file__).parents[1] / "experiment" / "golden.json"

CELLS: dict[str, tuple[str, ...]] = {
    "A8W8": ("smt.threads=1",),
    "A8W8, max": ("smt.threads=1", "quant.act_range=max"),
    "2T": ("smt.threads=2",),
    "2T, S+Aw": ("smt.threads=2", "smt.policy=Aw"),
    "2T, S+W": ("smt.threads=2", "smt.policy=W"),
    "2T, S+aW": ("smt.threads=2", "smt.policy=aW"),
    "4T": ("smt.threads=4",),
    "4T, no sparsity": ("smt.threads=4", "smt.sparsity=false"),
    "4T, floor": ("smt.threads=4", "smt.rounding=floor"),
    "4T, one layer 1T": ("smt.threads=4", "smt.layers={model.13.4: 1}"),
    "4T, seed 1": ("smt.threads=4", "seed=1"),
    "4T, recalibrated": ("smt.threads=4", "recal=true"),
    "4T, recalibrated, momentum": ("smt.threads=4", "recal=true", "recalibration.momentum=0.3"),
    "4T, recalibrated, cumulative": ("smt.threads=4", "recal=true", "recalibration.method=cumulative"),
    "4T, recalibrated, pooled": ("smt.threads=4", "recal=true", "recalibration.method=pooled"),
}


class Golden(TypedDict):
    """The answers of one cell to 64 images.

    Attributes:
        classes: the most likely class of each; highest: its logit; margin: by how much it leads.
    """

    classes: list[int]
    highest: list[float]
    margin: list[float]


def record(*overrides: str) -> Golden:
    """The answers that the code gives now."""
    top = shipped.logits(*overrides).topk(2, dim=1)
    highest = [round(value, 3) for value in top.values[:, 0].tolist()]
    margin = [round(value, 3) for value in (top.values[:, 0] - top.values[:, 1]).tolist()]
    return {"classes": top.indices[:, 0].tolist(), "highest": highest, "margin": margin}
