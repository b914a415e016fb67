"""Points of Figure 1 as `bnrecal figure1` keeps them, made up."""

from typing import Any

from bnrecal.reports.figure1 import CURVES

PANELS = (("a", ["ResNet-18", "ResNet-18 P40"], 2), ("b", ["ResNet-50"], 2), ("c", ["GoogLeNet"], 1))


def points() -> list[dict[str, Any]]:
    """Three points on each curve of each panel."""
    made = []
    for panel, labels, slow in PANELS:
        for label in labels:
            for key in CURVES:
                if key[0] == ("P40" in label):
                    made += [_point(panel, label, slow, key, speedup) for speedup in (2.0, 3.0, 4.0)]
    return made


def _point(panel: str, label: str, slow: int, key: tuple[bool, str, bool], speedup: float) -> dict[str, Any]:
    _, method, recal = key
    planned = method != "highest_error"
    own = {"panel": panel, "label": label, "slow_threads": slow, "model": "net", "data": "glyphs", "method": method}
    own |= {"curve": f"{method} {'w/' if recal else 'w/o'}", "recal": recal, "target": speedup, "speedup": speedup}
    own |= {"slowed": 4 - int(speedup), "layers": "conv1:4 conv2:2", "images": 1000, "seed": 0, "top1": 80.0 - speedup}
    own |= {"fp32_top1": 80.0 + recal, "drop": speedup - recal, "drop_stderr": 0.1, "collisions_4t": 0.5}
    own |= {"gain": 0.75 if recal else 0.0, "gain_p": 0.0321 if recal else None, "weights_hash": "0123456789abcdef"}
    own |= {"above_highest_error": (0.5 if method == "plan" else -0.1) * planned, "above_highest_error_stderr": 0.125}
    spent = {"plan": (78, 50_688), "random": (50, 51_200)}.get(method, (0, 0))
    own |= {"evaluations": spent[0], "evaluated_images": spent[1]}
    own["reorder"] = "bits" if method == "reordered" else "none"
    return {**own, "seconds": 750.0, "device": "cpu, AVX2, 2 threads"}
