"""`bnrecal figure1`: Figure 1 of the paper, network by network."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

from bnrecal.commands.cli.compose import read_config, refuse, refuse_other_model
from bnrecal.commands.cli.schemas import Figure1Config, Network
from bnrecal.commands.parallel.local import attempt_all, raise_failed, side_by_side
from bnrecal.config import experiment_part
from bnrecal.device import describe_device
from bnrecal.experiment.measured_on import kind_here, warn_of_another_device
from bnrecal.experiment.provenance import content_hash, settings_key
from bnrecal.experiment.setup import Experiment, load, prepare
from bnrecal.experiment.store import Store
from bnrecal.models.base import PRUNED
from bnrecal.reports.figure1.page import write_figure1_page
from bnrecal.reports.figure1.picture import write_figure1_pictures
from bnrecal.reports.figure1.points import FigurePoint, write_points
from bnrecal.search.curves import measure_curves
from bnrecal.search.records import CurveRecord

# Of 32 x 32 pixels, 200 images at a time took 8 to 21 % less time each than 100, with the same logits.
GLYPH_BATCH = 250


def make_figure1(figure: Figure1Config, overrides: Sequence[str]) -> None:
    """Measure whatever is missing, network by network, and draw the figure after each."""
    refuse(overrides, "figure1", ("smt.threads", "smt.layers", "smt.plan", "recal"), "varies it")
    one = "networks=[{panel: a, label: LABEL, model: NAME}]"
    refuse_other_model(overrides, "figure1", [network.model for network in figure.networks], one)
    out = Path(figure.out)
    networks = [n for n in figure.networks if not _left_out(n, figure)]
    tasks = [(network.label, number) for number, network in enumerate(networks)]
    measured: dict[int, list[FigurePoint]] = {}

    def measure(number: int) -> list[FigurePoint]:
        network = networks[number]
        config = _own(read_config(Figure1Config, [*overrides, f"model={network.model}"]), network)
        return measure_network(config, network, out / "cells")

    def take(number: int, points: list[FigurePoint]) -> None:
        measured[number] = points
        write_figure(_in_order(measured), out)

    failed = attempt_all(tasks, "figure1", "network", measure, take, side_by_side(figure, figure.jobs, len(tasks)))
    if measured:
        print(f"written to {out}/figure1.csv, figure1.png, figure1.svg; report.html there shows it in a browser")
    raise_failed(failed, len(networks), "networks")


def _in_order(measured: Mapping[int, list[FigurePoint]]) -> list[FigurePoint]:
    """The points of all networks that are measured, in the order of the networks."""
    return [point for number in sorted(measured) for point in measured[number]]


def write_figure(points: Sequence[FigurePoint], out: Path) -> None:
    """Write table, pictures and page into `out`."""
    write_points(points, out)
    write_figure1_pictures(points, out)
    write_figure1_page(points, out)


def _left_out(network: Network, figure: Figure1Config) -> bool:
    """Nobody publishes pruned weights for other data sets: without a checkpoint of the user's, go on without them."""
    missing = network.model in PRUNED and figure.data.name != "glyphs" and figure.p40 is None
    if missing:
        print(f"{network.label} is left out: give p40=PATH, a checkpoint made by bnrecal prune")
    return missing


def _own(figure: Figure1Config, network: Network) -> Figure1Config:
    """The figure's settings as they are for one network."""
    model = figure.model
    data = figure.data
    if network.model in PRUNED and figure.p40:
        model = replace(model, checkpoint=figure.p40)
    if data.name == "glyphs" and data.val_images is None:
        data = replace(data, val_images=figure.glyph_images)
    return replace(figure, model=model, data=data)


def measure_network(config: Figure1Config, network: Network, folder: Path) -> list[FigurePoint]:
    """The points of one network's curves: measured, or read if they were finished earlier."""
    wanted = replace(experiment_part(config), recal=True)  # some of the cells are, so the images must suffice
    experiment = load(wanted)
    own = {"network": asdict(network), "points": config.points, "search": asdict(config.search)}
    name = f"{network.model}-{config.data.name}-seed{config.seed}-{content_hash([settings_key(wanted), own])}"

    def measure() -> dict[str, Any]:
        started = time.perf_counter()
        prepared = with_small_images(prepare(experiment))
        search = config.search if network.plan else None
        records = measure_curves(prepared, config.points, network.slow, search, folder)
        seconds = round(time.perf_counter() - started, 2)
        device = describe_device(prepared.device)
        points = [_point(network, record, seconds, device, config.smt.policy) for record in records]
        return {"points": points, "device_kind": kind_here(config)}

    kept = Store(folder).get(name, {**experiment.identity, **own}, measure, resume=config.resume)
    warn_of_another_device(config, kept.get("device_kind"))
    return cast(list[FigurePoint], kept["points"])


def with_small_images(experiment: Experiment) -> Experiment:
    """Evaluate the small images of the embedded data set more at a time, once calibrated, unless a number is given."""
    config = experiment.config
    if config.batch_size is not None or experiment.source.name != "glyphs" or experiment.device.type != "cpu":
        return experiment
    size = min(GLYPH_BATCH, len(experiment.validation.indices))
    return replace(experiment, config=replace(config, batch_size=size))


def _point(network: Network, record: CurveRecord, seconds: float, device: str, policy: str) -> FigurePoint:
    return {
        "panel": network.panel,
        "label": network.label,
        "pruned": network.pruned,
        "policy": policy,
        "slow_threads": network.slow,
        **record,
        "seconds": seconds,
        "device": device,
    }
