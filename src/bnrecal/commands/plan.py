"""`bnrecal plan`: threads per layer for a target speedup."""

import re
import shlex
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

import pandas as pd

from bnrecal.commands.cli.compose import refuse
from bnrecal.commands.cli.schemas import PlanConfig
from bnrecal.config import Config, experiment_part
from bnrecal.experiment.setup import load, prepare
from bnrecal.search.error_order import at_four_threads
from bnrecal.search.knapsack import Item, check_speedup
from bnrecal.search.local_search import Choice, Search
from bnrecal.search.plans import baseline_choice, pareto_front, prepare_search, save_plan
from bnrecal.search.sensitivity import fixed_macs, threadable


def make_plan(config: PlanConfig, overrides: Sequence[str]) -> Path:
    """Search, print and save; returns the path of the plan."""
    refuse(
        overrides,
        "plan",
        ("smt.threads", "smt.layers", "smt.plan", "recal"),
        "searches for threads, with recalibration",
    )
    out = Path(config.out)
    wanted = replace(experiment_part(config), recal=True)  # what the search measures, and compares with
    experiment = prepare(load(wanted))
    free = [Item(layer.name, layer.macs, dict.fromkeys(config.search.threads, 0.0)) for layer in threadable(experiment)]
    check_speedup(free, config.speedup, fixed_macs(experiment))
    search = prepare_search(experiment, config.search, out / "cells", resume=config.resume)
    order = at_four_threads(experiment).order
    baseline = baseline_choice(search, order, config.slow, config.speedup)
    choice = search.best(config.speedup, baseline)
    tried = search.evaluations
    choice = search.judged(choice)
    baseline = search.judged(baseline) if baseline else None
    front = pareto_front(search, order, config.slow, choice)
    path = save_plan(search, config.speedup, choice, baseline, front, tried, out)
    print(describe_plan(search, tried, choice, baseline, front))
    print(f"written to {path}; use it with: {use_of_plan(config, overrides, path)}")
    return path


def use_of_plan(config: PlanConfig, overrides: Sequence[str], path: Path) -> str:
    """Return the command that runs the experiment which the plan was made for, with the plan."""
    keys = {f.name for f in fields(Config)}
    own = [override for override in overrides if re.split(r"[.=]", override.lstrip("+~"))[0] in keys]
    if not any(override.startswith("model=") for override in own):
        own.insert(0, f"model={config.model.name}")
    return shlex.join(["bnrecal", *own, f"smt.plan={path}", "recal=true"])


def describe_plan(search: Search, tried: int, choice: Choice, baseline: Choice | None, front: pd.DataFrame) -> str:
    """The plan, what it is compared with, and the Pareto front, for the terminal."""
    less, stderr = search.less_by(choice, baseline) if baseline else (0.0, 0.0)
    lines = [f"{'threads':>7}  layer"]
    lines += [f"{threads:7d}  {name}" for name, threads in choice.threads.items()]
    lines.append(f"speedup {choice.speedup:.3f}, loss {_describe_losses(choice)} (from: {choice.origin})")
    if baseline is not None:
        lines.append(f"highest-error order: speedup {baseline.speedup:.3f}, loss {_describe_losses(baseline)}")
        lines.append(f"the plan loses {1e3 * less:.2f} ± {1e3 * stderr:.2f} less (paired, held-out images)")
    lines.append(f"chosen out of {tried} measured choices, those of single layers included")
    lines += ["", "Pareto front (loss: KL divergence from A8W8 on the images that choices are made on, recalibrated,"]
    lines.append("millinats per image; lower than it would be on others):")
    lines.append(f"{'speedup':>8} {'loss':>9} {'stderr':>7} {'highest error':>14}")
    for row in front.itertuples(index=False):
        usual = f"{1e3 * row.highest_error_loss:14.2f}" if pd.notna(row.highest_error_loss) else " " * 14
        mark = "  <- the plan" if row.plan else ""
        lines.append(f"{row.speedup:8.3f} {1e3 * row.loss:9.2f} {1e3 * row.stderr:7.2f} {usual}{mark}")
    return "\n".join(lines)


def _describe_losses(choice: Choice) -> str:
    assert choice.heldout_loss is not None
    assert choice.heldout_stderr is not None
    held_out = f"{1e3 * choice.heldout_loss:.2f} ± {1e3 * choice.heldout_stderr:.2f} millinats on held-out images"
    return f"{held_out}, {1e3 * choice.loss:.2f} on those it was chosen on"
