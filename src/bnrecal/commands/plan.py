"""`bnrecal plan`: threads per layer for a target speedup."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from bnrecal.commands.schemas import PlanConfig
from bnrecal.config import experiment_part
from bnrecal.experiment.setup import prepare
from bnrecal.search.error_order import at_four_threads
from bnrecal.search.knapsack import Item, check_speedup
from bnrecal.search.local_search import Choice
from bnrecal.search.plans import baseline_choice, pareto_front, prepare_search, save_plan
from bnrecal.search.sensitivity import fixed_macs, threadable


def make_plan(config: PlanConfig, overrides: Sequence[str]) -> Path:  # noqa: ARG001
    """Search, print and save; returns the path of the plan."""
    out = Path(config.out)
    setup = prepare(experiment_part(config))
    free = [Item(layer.name, layer.macs, dict.fromkeys(config.search.threads, 0.0)) for layer in threadable(setup)]
    check_speedup(free, config.speedup, fixed_macs(setup))
    search = prepare_search(setup, config.search, out / "cells", resume=config.resume)
    order = at_four_threads(setup).order
    baseline = baseline_choice(search, order, config.slow, config.speedup)
    found = search.best(config.speedup, baseline)
    front = pareto_front(search, order, config.slow, found)
    path = save_plan(search, config.speedup, found, baseline, front, out)
    print(describe_plan(found, baseline, front))
    print(f"written to {path}; use it with: python -m bnrecal model={setup.model.name} smt.plan={path} recal=true")
    return path


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
