"""Cells of Table 1 as `bnrecal table1` keeps them, made up, for tests of what is made of them."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from bnrecal.evaluation.packed import pack
from bnrecal.reports.rows import Row

IMAGES = 1000
TOPS = {"a8w8": 69.0, "a8w8_w": 69.1, "2t_wo": 68.0, "2t_w": 68.5, "4t_wo": 60.3, "4t_w": 66.2}
REORDERED = {**TOPS, "4t_r_wo": 61.3, "4t_r_w": 66.1}  # with reorder=true
ROWS = [Row("PyTorch", "ResNet-18", "resnet18"), Row("my_own", "A<b>&_1%", "mine")]  # the paper has the first


def layer(name: str, collide: float | None, error: float | None) -> dict[str, Any]:
    """A layer's record: shares of steps with 0..4 active threads, and its error; None where nothing was measured."""
    shares = {f"active_{p}": None if collide is None else collide / 3 for p in (2, 3, 4)}
    shares |= {"active_0": None if collide is None else 1 - collide, "active_1": None if collide is None else 0.0}
    return {"name": name, "threads": 4, "steps": 1000, **shares, "relative_mse_wo": error, "relative_mse": error}


LAYERS = [layer("stem", None, None), layer("conv2", 0.6, 0.01), layer("conv3", 0.3, 0.0)]


def cells_of(
    row: Row, tops: Mapping[str, float] = TOPS, *, seed: int = 0, data: str = "glyphs", layers: bool = True
) -> list[dict[str, Any]]:
    """The cells of a row whose float32 top-1 is 70 %; the first images are the right ones."""
    made = []
    for name, top in tops.items():
        recal, threads = name.endswith("_w"), {"a": 1, "2": 2, "4": 4}[name[0]]
        without = tops[name.removesuffix("_w") if threads == 1 else name.replace("_w", "_wo").replace("_woo", "_wo")]
        own = {"source": row.source, "label": row.label, "cell": name, "model": row.model, "data": data, "seed": seed}
        own |= {"threads": threads, "recal": recal, "policy": "A", "images": IMAGES, "top1": top, "top5": 91.25}
        own |= {"stderr": 1.43, "fp32_top1": 70.0, "fp32_top5": 92.5, "a8w8_top1": 69.0, "a8w8_top5": 92.0}
        own |= {"drop": 70.0 - top, "top1_wo_recal": without, "gain": top - without, "gain_p": 0.01 if recal else None}
        own |= {"control_gain": 0.1 if recal else None, "loss_p": 0.02, "restricted_top1": None}
        own |= {"recovered": 0.5, "recovered_low": 0.4, "recovered_high": 0.6}
        own |= {
            "skipped": 0,
            "speedup": float(threads),
            "cycles": 1234,
            "exceptions": {},
            "seconds": 10.0 if "_r_" in name else 71.5,
        }
        own["right"] = pack(np.arange(IMAGES) < round(top * IMAGES / 100))
        own["provenance"] = _provenance(name)
        if name == "a8w8":
            own["fp32_right"] = pack(np.arange(IMAGES) < 700)
        if name == "4t_w" and layers:
            own["layers"] = LAYERS
        made.append(own)
    return made


def _provenance(cell: str) -> dict[str, Any]:
    smt = {"threads": 4, "policy": "A", "plan": None, "reorder": "bits" if "_r_" in cell else "none"}
    config = {"model": {"name": "x"}, "smt": smt, "seed": 0, "recal": True}
    images = {"validation": {"split": "val", "images": IMAGES, "fingerprint": "f00d"}}
    versions = {"bnrecal": "9.9.9", "torch": "2.14.1"}
    device = "cpu, AVX2, 2 threads"
    return {
        "cell": f"hash-{cell}",
        "weights_hash": "beef",
        "config": config,
        "images": images,
        "versions": versions,
        "device": device,
    }
