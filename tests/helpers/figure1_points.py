"""Points of Figure 1 as `bnrecal figure1` keeps them, made up."""

from bnrecal.reports.figure1.curves import CURVES, HIGHEST_ERROR, PLAN, RANDOM, Curve
from bnrecal.reports.figure1.points import FigurePoint

# panel, networks with the percent of their weights that are pruned, threads of the slowed layers
PANELS = (
    ("a", {"ResNet-18": 0, "ResNet-18 P40": 40}, 2),
    ("b", {"ResNet-50": 0}, 2),
    ("c", {"GoogLeNet": 0}, 1),
)


def points() -> list[FigurePoint]:
    """Three points on each curve of each panel."""
    made = []
    for panel, networks, slow in PANELS:
        for label, pruned in networks.items():
            for curve in CURVES:
                if curve.pruned == (pruned > 0):
                    made += [point(panel, label, pruned, slow, curve, speedup) for speedup in (2.0, 3.0, 4.0)]
    return made


def point(panel: str, label: str, pruned: int, slow: int, curve: Curve, speedup: float) -> FigurePoint:
    """A point that loses one point of top-1 for each unit of speedup, and one less with recalibration."""
    ahead = 0.0 if curve.choice == HIGHEST_ERROR else 0.5 if curve.choice == PLAN else -0.1
    spent = (0, 0)
    if curve.choice == PLAN:
        spent = (78, 50_688)
    elif curve.choice == RANDOM:
        spent = (50, 51_200)
    return {
        "panel": panel,
        "label": label,
        "pruned": pruned,
        "policy": "A",
        "slow_threads": slow,
        "model": "net",
        "data": "glyphs",
        "curve": f"{curve.choice.method} {'w/' if curve.recal else 'w/o'}",
        "method": curve.choice.method,
        "recal": curve.recal,
        "reorder": "none",
        "target": speedup,
        "speedup": speedup,
        "cycles": 4321,
        "slowed": 4 - int(speedup),
        "layers": "conv1:4 conv2:2",
        "images": 1000,
        "top1": 80.0 - speedup,
        "stderr": 1.25,
        "fp32_top1": 80.0 + curve.recal,
        "a8w8_top1": 79.75,
        "drop": speedup - curve.recal,
        "drop_stderr": 0.1,
        "gain": 0.75 if curve.recal else 0.0,
        "gain_p": 0.0321 if curve.recal else None,
        "above_highest_error": ahead,
        "above_highest_error_stderr": 0.125,
        "origin": None,
        "search_loss": None,
        "search_loss_stderr": None,
        "heldout_loss": None,
        "heldout_loss_stderr": None,
        "evaluations": spent[0],
        "evaluated_images": spent[1],
        "seed": 0,
        "weights_hash": "0123456789abcdef",
        "content": "fedcba9876543210",
        "collisions_4t": 0.5,
        "seconds": 750.0,
        "device": "cpu, AVX2, 2 threads",
    }
