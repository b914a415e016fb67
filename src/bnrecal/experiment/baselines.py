"""Float32 and A8W8 outcomes, kept so that a sweep over thread counts measures them once a model.

An outcome is found again only if everything it depends on is the same: weights, images (names, sizes, times),
preprocessing, quantization, device, batch size, code and library versions.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from bnrecal.device import describe_device
from bnrecal.evaluation.accuracy import Correctness
from bnrecal.experiment.provenance import content_hash, versions
from bnrecal.experiment.setup import A8W8, Setup, Variant
from bnrecal.files import atomic_path, cache_dir


def load(path: Path) -> Correctness | None:
    """The outcome kept at one of `paths`, if there is one."""
    if not path.exists():
        return None
    with np.load(path, allow_pickle=False) as kept:
        restricted = kept.get("restricted")
        return Correctness(kept["top1"], kept["top5"], restricted, int(kept["skipped"]))


def save(path: Path, outcome: Correctness) -> None:
    """Keep an outcome at one of `paths`."""
    arrays: dict[str, Any] = {"top1": outcome.top1, "top5": outcome.top5, "skipped": outcome.skipped}
    if outcome.restricted is not None:
        arrays["restricted"] = outcome.restricted
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)


def paths(setup: Setup) -> dict[Variant | None, Path]:
    """Where the outcomes of float32 (None) and of A8W8 are kept for just this setup."""
    config, source = setup.config, setup.source
    content: dict[str, Any] = {
        "variant": str(None),
        "weights": setup.model.weights_hash,
        "preprocessing": asdict(setup.model.preprocessing),
        "label_offset": setup.model.label_offset,
        "data": asdict(config.data),
        "validation": source.version(setup.validation.split, setup.validation.indices),
        "batch_size": setup.batch_size,
        "device": describe_device(setup.device),
        "versions": versions(),
    }
    quantized = {
        **content,
        "variant": str(A8W8),
        "quant": asdict(config.quant),
        "calibration": source.version(setup.calibration.split, setup.calibration.indices),
    }
    folder = cache_dir("baselines")
    return {key: folder / f"{content_hash(c)}.npz" for key, c in ((None, content), (A8W8, quantized))}
