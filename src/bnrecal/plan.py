"""Choose threads per layer for a target speedup: `python -m bnrecal.plan model=resnet18 speedup=3.0 [key=value ...]`.

Every layer gets the number of threads, out of 1, 2 and 4, with which the network loses least at that speedup, with
recalibration. Only training images are looked at. The plan goes to `out`; use it with

  python -m bnrecal model=resnet18 smt.plan=PATH recal=true

  speedup=3.0            the least that is wanted, over all convolutions but the first
  slow=2                 threads of the slowed layers in the paper's way, which the plan is compared with
  search.images=2048 search.rounds=4 search.tries=6 search.sensitivity_images=512 search.threads=[1,2,4]
  out=FOLDER             default outputs/plan
  data=..., batch_size=..., recalibration.batch_size=..., ...   as for `python -m bnrecal`
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig

from bnrecal.cache import atomic_path
from bnrecal.command import run_command
from bnrecal.config import Config, experiment_part, parse
from bnrecal.errors import BnrecalError
from bnrecal.experiment import Setup, prepare, provenance
from bnrecal.kept import kept
from bnrecal.knapsack import Item, check_speedup, reachable
from bnrecal.operating_points import at_four_threads, slowest_prefix
from bnrecal.provenance import cell_key, content_hash
from bnrecal.search import MSE_FIRST, Choice, Search, SearchConfig, check_search
from bnrecal.sensitivity import FASTEST, Probe, fixed_macs, sensitivities, threadable

FRONT_POINTS = 9


@dataclass
class PlanConfig(Config):
    """An experiment's settings and the search's own."""

    speedup: float = 3.0
    slow: int = 2
    search: SearchConfig = field(default_factory=SearchConfig)
    out: str = "outputs/plan"


ConfigStore.instance().store(name="plan_schema", node=PlanConfig)


def main() -> None:
    """The command."""
    run_command("plan", make_plan, __doc__)


def make_plan(composed: DictConfig, overrides: Sequence[str]) -> Path:  # noqa: ARG001
    """Search, print and save; returns the path of the plan."""
    config = parse_plan(composed)
    out = Path(config.out)
    setup = prepare(experiment_part(config))
    free = [Item(layer.name, layer.macs, dict.fromkeys(config.search.threads, 0.0)) for layer in threadable(setup)]
    check_speedup(free, config.speedup, fixed_macs(setup))
    search = prepare_search(setup, config.search, out / "cells", resume=config.resume)
    order = at_four_threads(setup).order
    baseline = baseline_choice(search, order, config.slow, config.speedup)
    found = search.best(config.speedup, baseline)
    front = pareto_front(search, order, config.slow, found)
    path = save_plan(search, config, found, baseline, front, out)
    print(describe_plan(found, baseline, front))
    print(f"written to {path}; use it with: python -m bnrecal model={setup.model.name} smt.plan={path} recal=true")
    return path


def parse_plan(composed: DictConfig) -> PlanConfig:
    """The checked configuration.

    Raises:
        BnrecalError: naming the first value out of range.
    """
    config = parse(composed, PlanConfig)
    check_search(config.search)
    if config.slow not in (1, 2):
        raise BnrecalError(f"slow={config.slow}: choose 1 or 2")
    if config.smt.plan or config.smt.layers:
        raise BnrecalError("smt.layers and smt.plan are what the search finds: leave them out")
    return config


def prepare_search(setup: Setup, config: SearchConfig, folder: Path, *, resume: bool) -> Search:
    """A search with its sensitivities: measured, or read if an earlier run left them in `folder`."""
    key = content_hash({"cell": cell_key(setup.config), "images": config.sensitivity_images})
    path = folder / f"sensitivities-{setup.model.name}-{setup.source.name}-seed{setup.config.seed}-{key}.json"

    def measure() -> dict[str, Any]:
        rows = sensitivities(Probe(setup, config.sensitivity_images)).to_dict("records")
        return {"sensitivities": rows}

    rows = kept(path, measure, resume=resume)["sensitivities"]
    return Search(Probe(setup, config.images), pd.DataFrame(rows), config)


def baseline_choice(search: Search, order: Sequence[str], slow: int, speedup: float) -> Choice | None:
    """The paper's way at this speedup, if the search may use its thread counts."""
    if not {slow, FASTEST} <= set(search.config.threads):
        return None
    threads = slowest_prefix(threadable(search.probe.setup), order, slow, speedup, search.fixed)
    return None if threads is None else search.measure(threads, MSE_FIRST)


def pareto_front(search: Search, order: Sequence[str], slow: int, found: Choice) -> pd.DataFrame:
    """What a speedup costs: the integer program's choice, unrefined, at several speedups, next to the paper's way.

    Columns: speedup, loss, stderr (measured, nats), predicted (sum of sensitivities), mse_first_speedup,
    mse_first_loss, plan (whether this is the plan that was searched for).
    """
    lowest, highest = reachable(search.items, search.fixed)
    records = [_front_record(search, found, None, is_plan=True)]
    for speedup in np.linspace(max(lowest, 1.2), highest, FRONT_POINTS):
        usual = baseline_choice(search, order, slow, float(speedup))
        choice = search.program(float(speedup))
        records.append(_front_record(search, choice, usual, is_plan=False))
    return pd.DataFrame(records).sort_values("speedup").reset_index(drop=True)


def _front_record(search: Search, choice: Choice, usual: Choice | None, *, is_plan: bool) -> dict[str, Any]:
    return {
        "speedup": choice.speedup,
        "loss": choice.loss,
        "stderr": choice.stderr,
        "predicted": search.predicted(choice.threads),
        "mse_first_speedup": usual.speedup if usual else None,
        "mse_first_loss": usual.loss if usual else None,
        "plan": is_plan,
    }


def save_plan(
    search: Search, config: PlanConfig, found: Choice, baseline: Choice | None, front: pd.DataFrame, out: Path
) -> Path:
    """The plan as JSON, as `smt.plan` reads it, and the Pareto front beside it as CSV."""
    setup, search_images = search.probe.setup, search.probe.selection
    stem = f"{setup.model.name}-{setup.source.name}-{config.speedup:g}x"
    with atomic_path(out / f"{stem}-front.csv") as path:
        front.to_csv(path, index=False)
    content = {
        "layers": found.threads,
        **{key: value for key, value in asdict(found).items() if key != "threads"},
        "target": config.speedup,
        "baseline": asdict(baseline) if baseline else None,
        "search": asdict(config.search),
        "search_images": search_images.provenance(setup.source),
        "provenance": provenance(setup, setup.config),
    }
    target = out / f"{stem}.json"
    with atomic_path(target) as path:
        path.write_text(json.dumps(content, indent=2) + "\n")
    return target


def describe_plan(found: Choice, baseline: Choice | None, front: pd.DataFrame) -> str:
    """The plan, what it is compared with, and the Pareto front, for the terminal."""
    lines = [f"{'threads':>7}  layer"]
    lines += [f"{threads:7d}  {name}" for name, threads in found.threads.items()]
    lines.append(f"speedup {found.speedup:.3f}, loss {_told(found)} (from: {found.origin})")
    if baseline is not None:
        lines.append(f"the paper's way: speedup {baseline.speedup:.3f}, loss {_told(baseline)}")
    lines += ["", "Pareto front (loss: KL divergence from A8W8 on training images, recalibrated, millinats an image):"]
    lines.append(f"{'speedup':>8} {'loss':>9} {'stderr':>7} {'MSE first':>10}")
    for row in front.itertuples(index=False):
        usual = f"{1e3 * row.mse_first_loss:10.2f}" if pd.notna(row.mse_first_loss) else " " * 10
        mark = "  <- the plan" if row.plan else ""
        lines.append(f"{row.speedup:8.3f} {1e3 * row.loss:9.2f} {1e3 * row.stderr:7.2f} {usual}{mark}")
    return "\n".join(lines)


def _told(choice: Choice) -> str:
    return f"{1e3 * choice.loss:.2f} ± {1e3 * choice.stderr:.2f} millinats"


if __name__ == "__main__":
    main()
