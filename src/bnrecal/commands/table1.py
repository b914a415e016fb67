"""`bnrecal table1`: Table 1 of the paper, row by row."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bnrecal.commands.common import raise_failed, read_config, refuse, refuse_other_model
from bnrecal.commands.jobs import attempt_all, side_by_side
from bnrecal.commands.schemas import Table1Config
from bnrecal.config import Config, experiment_part
from bnrecal.evaluation.packed import pack
from bnrecal.experiment.identity import Identity
from bnrecal.experiment.provenance import cell_key, content_hash
from bnrecal.experiment.results import Result
from bnrecal.experiment.run import run_variants
from bnrecal.experiment.setup import A8W8, Setup, Variant, identify, prepare
from bnrecal.experiment.store import Store
from bnrecal.reports.common.terminal import print_markdown
from bnrecal.reports.table1.columns import Row
from bnrecal.reports.table1.layers import layer_records, write_layers
from bnrecal.reports.table1.numbers import long_table, wide_table, write_report
from bnrecal.reports.table1.page import write_table1_page
from bnrecal.reports.table1.picture import write_table1_pictures
from bnrecal.search.error_order import at_four_threads

CELLS = {  # name in the long table -> variant; A8W8 with recalibration is the control
    "a8w8": A8W8,
    "a8w8_w": Variant(1, True),
    "2t_wo": Variant(2, False),
    "2t_w": Variant(2, True),
    "4t_wo": Variant(4, False),
    "4t_w": Variant(4, True),
}
LAYER_IMAGES = 16  # calibration images behind the statistics of layers: few, for the table is to take no longer
OWN = ("smt.threads", "smt.layers", "smt.plan", "recal")  # what the cells differ in


def make_table1(table: Table1Config, overrides: Sequence[str]) -> None:
    """Measure whatever is missing, model by model and seed by seed, and write the table after each."""
    refuse(overrides, "table1", OWN, "measures its own cells of it")
    one = "rows=[{source: SOURCE, label: LABEL, model: NAME}]"
    refuse_other_model(overrides, "table1", _models(table.rows), one)
    out = Path(table.out)
    seeds = range(table.seed, table.seed + table.seeds)
    jobs = [(f"{model} (seed {seed})", (seed, model)) for seed in seeds for model in _models(table.rows)]
    measured: dict[tuple[int, str], list[dict[str, Any]]] = {}

    def measure(job: tuple[int, str]) -> list[dict[str, Any]]:
        seed, model = job
        rows = [row for row in table.rows if row.model == model]
        config = read_config(Table1Config, [*overrides, f"model={model}", f"seed={seed}"])
        return measure_model(config, rows, out / "cells")

    def ordered() -> list[dict[str, Any]]:
        return [cell for _, job in jobs for cell in measured.get(job, [])]

    def take(job: tuple[int, str], cells: list[dict[str, Any]]) -> None:
        measured[job] = cells
        tables = write_report(ordered(), table.rows, out)
        write_layers(ordered(), out)
        write_table1_page(tables, ordered(), out)

    failed = attempt_all(jobs, "table1", "model", measure, take, side_by_side(table, table.jobs, len(jobs)))
    cells = ordered()
    if cells:
        write_table1_pictures(wide_table(long_table(cells), table.rows), out)
        print_markdown((out / "table1.md").read_text())
        print(f"written to {out}/; report.html there shows it in a browser")
    raise_failed(failed, len(jobs), "models")


def _models(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(row.model for row in rows))


def measure_model(config: Table1Config, rows: Sequence[Row], folder: Path) -> list[dict[str, Any]]:
    """The cells of all rows of one model: rows that were finished earlier are read, the others measured in one pass."""
    experiment = replace(experiment_part(config), recal=True)  # half of the cells are, so the images must suffice
    store = Store(folder)
    identity = identify(experiment)

    def piece(row: Row) -> tuple[str, Identity]:
        """Name and identity of what is kept of a row, whatever it is called."""
        own = {"spare_worst": row.spare_worst}
        name = f"{config.model.name}-{config.data.name}-seed{config.seed}-{content_hash([cell_key(experiment), own])}"
        return name, {**identity, **own}

    pieces = [piece(row) for row in rows]
    found = [store.find(*one) if config.resume else None for one in pieces]
    missing = [place for place, content in enumerate(found) if content is None]
    for place, content in zip(missing, _measure(experiment, [rows[place] for place in missing]), strict=True):
        store.keep(*pieces[place], content)
        found[place] = content
    kept = [(row, content) for row, content in zip(rows, found, strict=True) if content is not None]
    return [{**cell, "source": row.source, "label": row.label} for row, content in kept for cell in content["results"]]


def _measure(config: Config, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """What is kept of each row; all are of one model."""
    if not rows:
        return []
    setup = prepare(config)
    cells = [_variants(setup, row) for row in rows]
    variants = [variant for row_cells in cells for variant in row_cells.values()]
    described = {CELLS["4t_w"]} & set(variants)
    measured = run_variants(setup, variants, describe=described, layer_images=LAYER_IMAGES)
    results = dict(zip(variants, measured, strict=True))
    return [{"results": [_cell(name, results[variant]) for name, variant in row_cells.items()]} for row_cells in cells]


def _cell(name: str, result: Result) -> dict[str, Any]:
    return {"cell": name, **result.to_json(), **_beside(name, result)}


def _beside(cell: str, result: Result) -> dict[str, Any]:
    """What a cell keeps besides its numbers."""
    layers = layer_records(result.layers)
    return {**_right(cell, result), **({"layers": layers} if layers else {})}


def _right(cell: str, result: Result) -> dict[str, str]:
    """Which images were right, for tests over seeds and images; float32's beside A8W8's."""
    assert result.outcome is not None
    assert result.fp32_outcome is not None
    own = {"right": pack(result.outcome.top1)}
    return {**own, "fp32_right": pack(result.fp32_outcome.top1)} if cell == "a8w8" else own


def _variants(setup: Setup, row: Row) -> dict[str, Variant]:
    """The cells of a row by the name of their column."""
    if not row.spare_worst:
        return CELLS
    spared = ((at_four_threads(setup).order[0], 1),)
    return {
        name: variant if variant.threads == 1 else replace(variant, layers=spared) for name, variant in CELLS.items()
    }
