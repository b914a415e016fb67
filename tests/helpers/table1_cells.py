"""Cells of Table 1 as `bnrecal table1` keeps them, made up, for tests of what is made of them."""

from collections.abc import Mapping

import numpy as np

from bnrecal.evaluation.packed import pack
from bnrecal.experiment.records import ProvenanceRecord
from bnrecal.reports.table1.columns import A8W8, COLUMNS, Column, Row, fastest_pair, measured, pairs
from bnrecal.reports.table1.records import CellRecord, LayerRecord

IMAGES = 1000
FP32 = 70.0
TOPS = {"a8w8": 69.0, "a8w8_w": 69.1, "2t_wo": 68.0, "2t_w": 68.5, "4t_wo": 60.3, "4t_w": 66.2}
ROWS = [Row("PyTorch", "ResNet-18", "resnet18"), Row("my_own", "A<b>&_1%", "mine")]  # the paper has the first
PAPERS = tuple(column for column in COLUMNS if column.key in ("fp32", *TOPS))  # without what has been added since


def layer(name: str, collide: float | None, error: float | None) -> LayerRecord:
    """A layer's record: shares of steps with 0..4 active threads, and its error; None where nothing was measured."""
    share = None if collide is None else collide / 3
    return {
        "name": name,
        "threads": 4,
        "steps": 1000,
        "active_0": None if collide is None else 1 - collide,
        "active_1": None if collide is None else 0.0,
        "active_2": share,
        "active_3": share,
        "active_4": share,
        "relative_mse_wo": error,
        "relative_mse": error,
    }


LAYERS = [layer("stem", None, None), layer("conv2", 0.6, 0.01), layer("conv3", 0.3, 0.0)]


def cells_of(
    row: Row, tops: Mapping[str, float] = TOPS, *, seed: int = 0, data: str = "glyphs", layers: bool = True
) -> list[CellRecord]:
    """The cells of a row whose float32 top-1 is 70 %; the first images are the right ones."""
    made = []
    for column in measured():
        cell = _cell(row, column, tops, seed, data)
        if column == A8W8:
            cell["fp32_right"] = packed(FP32)
        if column == fastest_pair().recalibrated and layers:
            cell["layers"] = LAYERS
        made.append(cell)
    return made


def packed(top: float, images: int = IMAGES) -> str:
    """Pack the images that are right at a top-1 in percent: the first."""
    return pack(np.arange(images) < round(top * images / 100))


def _cell(row: Row, column: Column, tops: Mapping[str, float], seed: int, data: str) -> CellRecord:
    without = next(pair.without for pair in pairs() if column in pair.columns)
    top = tops[column.key]
    return {
        "source": row.source,
        "label": row.label,
        "cell": column.key,
        "model": row.model,
        "data": data,
        "seed": seed,
        "threads": column.threads,
        "recal": column.recal,
        "policy": "A",
        "images": IMAGES,
        "top1": top,
        "top5": 91.25,
        "stderr": 1.43,
        "fp32_top1": FP32,
        "fp32_top5": 92.5,
        "a8w8_top1": 69.0,
        "a8w8_top5": 92.0,
        "drop": FP32 - top,
        "top1_wo_recal": tops[without.key],
        "gain": top - tops[without.key],
        "gain_p": 0.01 if column.recal else None,
        "control_gain": 0.1 if column.recal else None,
        "loss_p": 0.02,
        "recovered": 0.5,
        "recovered_low": 0.4,
        "recovered_high": 0.6,
        "restricted_top1": None,
        "skipped": 0,
        "speedup": float(column.threads),
        "cycles": 1234,
        "cycle_speedup": 1.5,
        "exceptions": {},
        "layer_exceptions": {},
        "seconds": 71.5,
        "right": packed(top),
        "provenance": _provenance(column),
    }


def _provenance(column: Column) -> ProvenanceRecord:
    smt = {"threads": 4, "policy": "A", "plan": None, "reorder": "none"}
    return {
        "content": f"hash-{column.key}",
        "identity": {},
        "weights": "w.pth",
        "weights_hash": "beef",
        "config": {"model": {"name": "x"}, "smt": smt, "seed": 0, "recal": True},
        "images": {"validation": {"split": "val", "images": IMAGES, "seed": None, "fingerprint": "f00d"}},
        "versions": {"bnrecal": "9.9.9", "torch": "2.14.1"},
        "device": "cpu, AVX2, 2 threads",
        "device_kind": "cpu, AVX2",
        "engine": "onednn-int8",
        "fusion": {"batchnorms": 20, "fused": 20, "why_not": ""},
    }
