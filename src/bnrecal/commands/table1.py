"""`bnrecal table1`: Table 1 of the paper, row by row."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from bnrecal.commands.cli.compose import read_config, refuse, refuse_other_model
from bnrecal.commands.cli.schemas import Table1Config
from bnrecal.commands.parallel.local import attempt_all, raise_failed, side_by_side
from bnrecal.config import experiment_part
from bnrecal.evaluation.packed import pack
from bnrecal.experiment.identity import Identity
from bnrecal.experiment.measured_on import kind_here, warn_of_another_device
from bnrecal.experiment.provenance import content_hash, settings_key
from bnrecal.experiment.results import Result
from bnrecal.experiment.run import run_variants
from bnrecal.experiment.setup import Experiment, load, prepare
from bnrecal.experiment.store import Store
from bnrecal.experiment.variant import Variant
from bnrecal.reports.common.terminal import print_document
from bnrecal.reports.table1.columns import A8W8, Column, Row, fastest_pair, measured
from bnrecal.reports.table1.layers import layer_records
from bnrecal.reports.table1.markdown import document, write_markdown
from bnrecal.reports.table1.numbers import Tables, make_tables, write_tables
from bnrecal.reports.table1.page import write_table1_page
from bnrecal.reports.table1.picture import write_table1_pictures
from bnrecal.reports.table1.records import CellRecord, MeasuredCell
from bnrecal.search.error_order import at_four_threads

LAYER_IMAGES = 16  # calibration images behind the statistics of layers: few, for the table is to take no longer
OWN = ("smt.threads", "smt.layers", "smt.plan", "recal")  # what the cells differ in

Task = tuple[int, str]  # seed and model


def make_table1(table: Table1Config, overrides: Sequence[str]) -> None:
    """Measure whatever is missing, model by model and seed by seed, and write the table after each."""
    refuse(overrides, "table1", OWN, "measures its own cells of it")
    one = "rows=[{source: SOURCE, label: LABEL, model: NAME}]"
    refuse_other_model(overrides, "table1", _models(table.rows), one)
    out = Path(table.out)
    seeds = range(table.seed, table.seed + table.seeds)
    tasks = [(f"{model} (seed {seed})", (seed, model)) for seed in seeds for model in _models(table.rows)]
    finished: dict[Task, list[CellRecord]] = {}

    def measure(task: Task) -> list[CellRecord]:
        seed, model = task
        rows = [row for row in table.rows if row.model == model]
        config = read_config(Table1Config, [*overrides, f"model={model}", f"seed={seed}"])
        return measure_model(config, rows, out / "cells")

    def take(task: Task, cells: list[CellRecord]) -> None:
        finished[task] = cells
        write_report(_in_order(tasks, finished), table.rows, out)

    failed = attempt_all(tasks, "table1", "model", measure, take, side_by_side(table, table.jobs, len(tasks)))
    if finished:
        tables = make_tables(_in_order(tasks, finished), table.rows)
        write_table1_pictures(tables.wide, out)
        print_document(document(tables))
        print(f"written to {out}/; report.html there shows it in a browser")
    raise_failed(failed, len(tasks), "models")


def _models(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(row.model for row in rows))


def _in_order(tasks: Sequence[tuple[str, Task]], finished: Mapping[Task, list[CellRecord]]) -> list[CellRecord]:
    """The cells of all finished tasks, in the order of the tasks."""
    return [cell for _, task in tasks for cell in finished.get(task, [])]


def write_report(cells: Sequence[CellRecord], rows: Sequence[Row], out: Path) -> Tables:
    """Write tables and page, and return what they say; rows whose model is not measured yet are left out."""
    tables = make_tables(cells, rows)
    write_tables(tables, out)
    write_markdown(tables, out)
    write_table1_page(tables, cells, out)
    return tables


def measure_model(config: Table1Config, rows: Sequence[Row], folder: Path) -> list[CellRecord]:
    """The cells of all rows of one model: rows that were finished earlier are read, the others measured in one pass."""
    wanted = replace(experiment_part(config), recal=True)  # half of the cells are, so the images must suffice
    store = Store(folder)
    experiment = load(wanted)

    def entry(row: Row) -> tuple[str, Identity]:
        """Name and identity of the cells that are kept of a row, whatever it is called."""
        own = {"spare_worst": row.spare_worst}
        name = f"{config.model.name}-{config.data.name}-seed{config.seed}-{content_hash([settings_key(wanted), own])}"
        return name, {**experiment.identity, **own}

    entries = [entry(row) for row in rows]
    kept = [store.find(*one) if config.resume else None for one in entries]
    missing = [place for place, content in enumerate(kept) if content is None]
    for place, results in zip(missing, _measure(experiment, [rows[place] for place in missing]), strict=True):
        measured_now = {"results": results, "device_kind": kind_here(config)}
        kept[place] = measured_now
        store.keep(*entries[place], measured_now)
    cells: list[CellRecord] = []
    for row, content in zip(rows, kept, strict=True):
        assert content is not None
        warn_of_another_device(config, content.get("device_kind"))
        kept_cells = cast(list[MeasuredCell], content["results"])
        cells += [{**cell, "source": row.source, "label": row.label} for cell in kept_cells]
    return cells


def _measure(experiment: Experiment, rows: Sequence[Row]) -> list[list[MeasuredCell]]:
    """The cells of each row; all are of one model."""
    if not rows:
        return []
    prepared = prepare(experiment)
    wanted = [row_variants(prepared, row) for row in rows]
    variants = [variant for of_row in wanted for variant in of_row.values()]
    described = {plain_variants()[fastest_pair().recalibrated]} & set(variants)
    measured_results = run_variants(prepared, variants, describe=described, layer_images=LAYER_IMAGES)
    results = dict(zip(variants, measured_results, strict=True))
    cells = []
    for of_row in wanted:
        cells.append([_cell(column, results[variant]) for column, variant in of_row.items()])
    return cells


def plain_variants() -> dict[Column, Variant]:
    """The cells of a row that spares no layer."""
    return {column: Variant(column.threads, column.recal, column.layers) for column in measured()}


def row_variants(experiment: Experiment, row: Row) -> dict[Column, Variant]:
    """The cells of a row by their column; a row that spares the layer of highest error gives it one thread."""
    variants = plain_variants()
    if not row.spare_worst:
        return variants
    worst = (at_four_threads(experiment).order[0], 1)
    spared = {}
    for column, variant in variants.items():
        layers = (*variant.layers, worst) if variant.threads > 1 else variant.layers
        spared[column] = replace(variant, layers=layers)
    return spared


def _cell(column: Column, result: Result) -> MeasuredCell:
    """The record of a cell: besides its numbers the images that were right, for tests over seeds and images."""
    assert result.outcome is not None
    assert result.fp32_outcome is not None
    cell: dict[str, Any] = {"cell": column.key, **result.to_json(), "right": pack(result.outcome.top1)}
    if column == A8W8:
        cell["fp32_right"] = pack(result.fp32_outcome.top1)
    if result.layers is not None:
        cell["layers"] = layer_records(result.layers)
    return cast(MeasuredCell, cell)
