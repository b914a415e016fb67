"""Choose threads per layer for a target speedup: `bnrecal plan model=resnet18 speedup=3.0 [key=value ...]`.

Every layer gets the number of threads, out of 1, 2 and 4, with which the network loses least at that speedup, with
recalibration. Only training images are looked at. The plan goes to `out`; use it with

  python -m bnrecal model=resnet18 smt.plan=PATH recal=true

  speedup=3.0            the least that is wanted, over all convolutions but the first
  slow=2                 threads of the slowed layers in the paper's way, which the plan is compared with
  search.images=2048 search.rounds=4 search.tries=6 search.sensitivity_images=512 search.threads=[1,2,4]
  out=FOLDER             default outputs/plan
  data=..., batch_size=..., recalibration.batch_size=..., ...   as for `python -m bnrecal`
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig

from bnrecal.commands.common import run_command
from bnrecal.config import Config, experiment_part, parse
from bnrecal.errors import BnrecalError
from bnrecal.experiment.setup import prepare
from bnrecal.search.error_order import at_four_threads
from bnrecal.search.knapsack import Item, check_speedup
from bnrecal.search.local_search import Choice, SearchConfig, check_search
from bnrecal.search.plans import baseline_choice, pareto_front, prepare_search, save_plan
from bnrecal.search.sensitivity import fixed_macs, threadable


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
    path = save_plan(search, config.speedup, found, baseline, front, out)
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
