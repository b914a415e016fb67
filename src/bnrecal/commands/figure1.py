"""Figure 1 of the paper: `make figure1`, or `python -m bnrecal.commands.figure1 [key=value ...]`.

Accuracy against speedup, without and with recalibration: all layers run four threads, but for the k layers of highest
error. Next to it, at the same speedups, the threads that `bnrecal.commands.plan` chooses, from training images alone. A
finished network is kept in `out/cells/` and not measured again; the figure in `out/` grows with each.

  points=9               operating points a curve
  glyph_images=10000     validation images of the embedded data set, which can draw as many as are asked for: curves lie
                         closer together than cells of Table 1 (data.val_images wins)
  p40=PATH               checkpoint of the pruned ResNet-18, for data sets that none is shipped for
  out=FOLDER             where the figure goes (default outputs/figure1)
  search.images=... search.rounds=...        how much the search measures, as for `python -m bnrecal.commands.plan`
  data=..., batch_size=..., recalibration.method=..., ...   as for `python -m bnrecal`
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig

from bnrecal.commands.common import attempt_all, compose_config, raise_failed, run_command
from bnrecal.config import Config, experiment_part, parse
from bnrecal.errors import BnrecalError
from bnrecal.experiment.provenance import cell_key, content_hash
from bnrecal.experiment.resume import cached_json
from bnrecal.experiment.setup import prepare
from bnrecal.models.table1 import PRUNED
from bnrecal.reports.figure1 import write_figure
from bnrecal.search.curves import measure_curves
from bnrecal.search.local_search import SearchConfig, check_search


@dataclass
class Network:
    """One network of one panel.

    Attributes:
        panel: a, b, c.
        slow: threads of the layers that are slowed down.
        plan: whether the search gets a curve too.
    """

    panel: str
    label: str
    model: str
    slow: int = 2
    plan: bool = True


@dataclass
class Figure1Config(Config):
    """An experiment's settings, shared by all curves, and the figure's own."""

    points: int = 9
    glyph_images: int = 10_000
    p40: str | None = None
    search: SearchConfig = field(default_factory=SearchConfig)
    networks: list[Network] = field(default_factory=list)
    out: str = "outputs/figure1"


ConfigStore.instance().store(name="figure1_schema", node=Figure1Config)


def main() -> None:
    """The command; exits with 1 if a network failed, after all others were measured."""
    run_command("figure1", make_figure1, __doc__)


def make_figure1(composed: DictConfig, overrides: Sequence[str]) -> None:
    """Measure whatever is missing, network by network, and draw the figure after each."""
    figure = _parse(composed)
    out = Path(figure.out)
    points: list[dict[str, Any]] = []
    networks = [(n.label, n) for n in figure.networks if not _left_out(n, figure)]

    def measure(network: Network) -> None:
        config = _parse(compose_config("figure1", [*overrides, *_own(network, figure)]))
        points.extend(measure_network(config, network, out / "cells"))
        write_figure(points, out)

    failed = attempt_all(networks, "figure1", "network", measure)
    if points:
        print(f"written to {out}/figure1.csv, figure1.png, figure1.svg")
    raise_failed(failed, len(networks), "networks")


def _parse(composed: DictConfig) -> Figure1Config:
    figure = parse(composed, Figure1Config)
    check_search(figure.search)
    if figure.points < 2:
        raise BnrecalError(f"points={figure.points}: must be at least 2")
    for network in figure.networks:
        if network.slow not in (1, 2):
            raise BnrecalError(f"networks: slow={network.slow} of {network.label}: choose 1 or 2")
    if figure.smt.plan or figure.smt.layers:
        raise BnrecalError("smt.layers and smt.plan are what the figure varies: leave them out")
    return figure


def _left_out(network: Network, figure: Figure1Config) -> bool:
    """Nobody publishes pruned weights for other data sets: without a checkpoint of the user's, go on without them."""
    missing = network.model in PRUNED and figure.data.name != "glyphs" and figure.p40 is None
    if missing:
        print(f"{network.label} is left out: give p40=PATH, a checkpoint made by python -m bnrecal.training.prune")
    return missing


def _own(network: Network, figure: Figure1Config) -> list[str]:
    checkpoint = [f"model.checkpoint={figure.p40}"] if network.model in PRUNED and figure.p40 else []
    draw = figure.data.name == "glyphs" and figure.data.val_images is None
    images = [f"data.val_images={figure.glyph_images}"] if draw else []
    return [f"model={network.model}", *checkpoint, *images]


def measure_network(config: Figure1Config, network: Network, folder: Path) -> list[dict[str, Any]]:
    """The points of one network's curves: measured, or read if they were finished earlier."""
    content = {
        "cell": cell_key(experiment_part(config)),
        "network": asdict(network),
        "points": config.points,
        "search": asdict(config.search),
    }
    path = folder / f"{network.model}-{config.data.name}-seed{config.seed}-{content_hash(content)}.json"

    def measure() -> dict[str, Any]:
        setup = prepare(experiment_part(config))
        records = measure_curves(setup, config.points, network.slow, config.search if network.plan else None, folder)
        own = {"panel": network.panel, "label": network.label, "slow_threads": network.slow}
        return {"points": [{**own, **record} for record in records]}

    points: list[dict[str, Any]] = cached_json(path, measure, resume=config.resume)["points"]
    return points


if __name__ == "__main__":
    main()
