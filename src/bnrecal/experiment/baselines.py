"""Float32, A8W8 and control outcomes, kept so that a sweep over thread counts measures them once per model.

An outcome is found again only if everything it depends on is the same, the processor or GPU included.
"""

from typing import Any

from bnrecal.device import describe_kind
from bnrecal.evaluation.accuracy import Correctness
from bnrecal.evaluation.packed import pack, unpack
from bnrecal.experiment.identity import Identity, content_key
from bnrecal.experiment.setup import Experiment
from bnrecal.experiment.store import Store
from bnrecal.experiment.variant import A8W8, CONTROL, Variant
from bnrecal.files import cache_path

Baseline = Variant | None  # None: float32


def load(experiment: Experiment) -> dict[Baseline, Correctness]:
    """The outcomes that are known for just this experiment."""
    entries = {key: _store().find(content_key(identity), identity) for key, identity in _identities(experiment).items()}
    return {key: _correctness(content) for key, content in entries.items() if content is not None}


def save(experiment: Experiment, outcomes: dict[Baseline, Correctness]) -> None:
    """Keep the baselines among these outcomes."""
    for key, identity in _identities(experiment).items():
        if key in outcomes:
            _store().keep(content_key(identity), identity, _content(outcomes[key]))


def _store() -> Store:
    return Store(cache_path("baselines"), best_effort=True)


def _identities(experiment: Experiment) -> dict[Baseline, Identity]:
    whole = experiment.identity
    float32 = {
        "network": whole["network"],
        "images": {"validation": whole["images"]["validation"]},
        "settings": {
            **{key: whole["settings"][key] for key in ("data", "tf32") if key in whole["settings"]},
            "batch_size": experiment.batch_size,
            "device": describe_kind(experiment.device),
        },
        **{key: whole[key] for key in ("code", "versions")},
    }
    images, quant = whole["images"], whole["settings"]["quant"]
    a8w8 = {
        **float32,
        "images": {**float32["images"], "calibration": images["calibration"]},
        "settings": {**float32["settings"], "quant": quant},
    }
    if not experiment.config.recal:  # then nothing says what the control would be recalibrated on
        return {None: float32, A8W8: a8w8}
    control = {
        **a8w8,
        "images": {**a8w8["images"], "recalibration": images["recalibration"]},
        "settings": {**a8w8["settings"], **{key: whole["settings"][key] for key in ("recalibration", "seed")}},
    }
    return {None: float32, A8W8: a8w8, CONTROL: control}


def _content(outcome: Correctness) -> dict[str, Any]:
    restricted = None if outcome.restricted is None else pack(outcome.restricted)
    right = {"top1": pack(outcome.top1), "top5": pack(outcome.top5), "restricted": restricted}
    return {**right, "images": outcome.images, "skipped": outcome.skipped}


def _correctness(content: dict[str, Any]) -> Correctness:
    images = content["images"]
    restricted = None if content["restricted"] is None else unpack(content["restricted"], images)
    top1, top5 = (unpack(content[key], images) for key in ("top1", "top5"))
    return Correctness(top1, top5, restricted, content["skipped"])
