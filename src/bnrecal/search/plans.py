"""The search for one speedup or several, and the files it leaves: sensitivities, plan, Pareto front."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bnrecal.experiment import baselines
from bnrecal.experiment.chance import refuse_chance
from bnrecal.experiment.identity import content_key
from bnrecal.experiment.provenance import settings_key
from bnrecal.experiment.run import result_provenance
from bnrecal.experiment.setup import Experiment
from bnrecal.experiment.store import Store
from bnrecal.experiment.variant import Variant
from bnrecal.files import atomic_path
from bnrecal.search.config import SearchConfig
from bnrecal.search.error_order import slowest_prefix
from bnrecal.search.knapsack import reachable
from bnrecal.search.local_search import HIGHEST_ERROR, Choice, Search
from bnrecal.search.sensitivity import FASTEST, Probe, sensitivities, threadable

FRONT_POINTS = 9


def prepare_search(experiment: Experiment, config: SearchConfig, folder: Path, *, resume: bool) -> Search:
    """A search with its sensitivities: measured, or read if an earlier run left them in `folder`.

    Raises:
        BnrecalError: if the float32 network answers by chance.
    """
    refuse_chance(experiment, baselines.load(experiment).get(None))
    wanted = experiment.config
    name = f"sensitivities-{experiment.model.name}-{experiment.source.name}-seed{wanted.seed}-{settings_key(wanted)}"
    probe = {"search": {"images": config.sensitivity_images}}

    def measure() -> dict[str, Any]:
        rows = sensitivities(Probe(experiment, config.sensitivity_images)).to_dict("records")
        return {"sensitivities": rows}

    kept = Store(folder).get(
        f"{name}-{config.sensitivity_images}", {**experiment.identity, **probe}, measure, resume=resume
    )
    rows = kept["sensitivities"]
    heldout = Probe(experiment, config.heldout_images, after=config.images)
    return Search(Probe(experiment, config.images), pd.DataFrame(rows), config, heldout)


def baseline_choice(search: Search, order: Sequence[str], slow: int, speedup: float) -> Choice | None:
    """The highest-error order at this speedup, if the search may use its thread counts."""
    if not {slow, FASTEST} <= set(search.config.threads):
        return None
    threads = slowest_prefix(threadable(search.probe.experiment), order, slow, speedup, search.fixed)
    return None if threads is None else search.measure(threads, HIGHEST_ERROR)


def pareto_front(search: Search, order: Sequence[str], slow: int, choice: Choice) -> pd.DataFrame:
    """The cost of a speedup: the integer program's choice, unrefined, at several speedups, next to the
    highest-error order. A choice that answers several of them is one row.

    Columns: speedup, loss, stderr (measured, nats), predicted (sum of sensitivities),
    highest_error_speedup, highest_error_loss, plan (whether this is the plan that was searched for).
    """
    lowest, highest = reachable(search.items, search.fixed)
    records = [_front_record(search, choice, None, is_plan=True)]
    for speedup in np.linspace(max(lowest, 1.2), highest, FRONT_POINTS):
        usual = baseline_choice(search, order, slow, float(speedup))
        cheapest = search.program(float(speedup))
        records.append(_front_record(search, cheapest, usual, is_plan=False))
    return pd.DataFrame(records).drop_duplicates().sort_values("speedup").reset_index(drop=True)


def _front_record(search: Search, choice: Choice, usual: Choice | None, *, is_plan: bool) -> dict[str, Any]:
    return {
        "speedup": choice.speedup,
        "loss": choice.loss,
        "stderr": choice.stderr,
        "predicted": search.predicted(choice.threads),
        "highest_error_speedup": usual.speedup if usual else None,
        "highest_error_loss": usual.loss if usual else None,
        "plan": is_plan,
    }


def save_plan(
    search: Search,
    target: float,
    choice: Choice,
    baseline: Choice | None,
    front: pd.DataFrame,
    evaluations: int,
    out: Path,
) -> Path:
    """The plan as JSON, as `smt.plan` reads it, and the Pareto front beside it as CSV.

    Args:
        choice, baseline: as `Search.judged` gives them.
        evaluations: how many choices had been measured when this one was chosen.
    """
    experiment, search_images, heldout = search.probe.experiment, search.probe.selection, search.heldout
    assert heldout is not None
    key = content_key({**experiment.identity, "search": asdict(search.config)})
    names = f"{experiment.model.name}-{experiment.source.name}"
    stem = f"{names}-{target:g}x-{experiment.config.smt.policy}-seed{experiment.config.seed}-{key}"
    with atomic_path(out / f"{stem}-front.csv") as path:
        front.to_csv(path, index=False)
    content = {
        "layers": choice.threads,
        **{key: value for key, value in asdict(choice).items() if key != "threads"},
        "target": target,
        "baseline": asdict(baseline) if baseline else None,
        "evaluations": evaluations,
        "search": asdict(search.config),
        "search_images": search_images.provenance(experiment.source),
        "heldout_images": heldout.selection.provenance(experiment.source),
        "provenance": result_provenance(experiment, Variant(FASTEST, True, tuple(choice.threads.items()))),
    }
    written = out / f"{stem}.json"
    with atomic_path(written) as path:
        path.write_text(json.dumps(content, indent=2) + "\n")
    return written
