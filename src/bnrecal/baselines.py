"""Float32 and A8W8 outcomes, kept so that a sweep over thread counts measures them once a model.

An outcome is found again only if everything it depends on is the same: weights, images (names, sizes, times),
preprocessing, quantization, device, batch size, code and library versions.
"""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bnrecal.cache import atomic_path, cache_dir
from bnrecal.device import describe_device
from bnrecal.evaluate import Outcome
from bnrecal.provenance import content_hash, versions

if TYPE_CHECKING:
    from bnrecal.experiment import Setup, Variant


def load(setup: "Setup", key: "Variant | None") -> Outcome | None:
    """The kept outcome of float32 (None) or of A8W8, if there is one for just this setup."""
    path = _path(setup, key)
    if not path.exists():
        return None
    with np.load(path, allow_pickle=False) as kept:
        restricted = kept.get("restricted")
        return Outcome(kept["top1"], kept["top5"], restricted, int(kept["skipped"]))


def save(setup: "Setup", key: "Variant | None", outcome: Outcome) -> None:
    """Keep an outcome."""
    arrays: dict[str, Any] = {"top1": outcome.top1, "top5": outcome.top5, "skipped": outcome.skipped}
    if outcome.restricted is not None:
        arrays["restricted"] = outcome.restricted
    with atomic_path(_path(setup, key)) as path, path.open("wb") as file:
        np.savez_compressed(file, **arrays)


def _path(setup: "Setup", key: "Variant | None") -> Path:
    config, source = setup.config, setup.source
    content: dict[str, Any] = {
        "variant": str(key),
        "weights": setup.model.weights_hash,
        "preprocessing": asdict(setup.model.preprocessing),
        "label_offset": setup.model.label_offset,
        "data": asdict(config.data),
        "validation": source.version(setup.validation.split, setup.validation.indices),
        "batch_size": setup.batch_size,
        "device": describe_device(setup.device),
        "versions": versions(),
    }
    if key is not None:
        content["quant"] = asdict(config.quant)
        content["calibration"] = source.version(setup.calibration.split, setup.calibration.indices)
    return cache_dir("baselines") / f"{content_hash(content)}.npz"
