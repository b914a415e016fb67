"""The numbers of Table 1: averages, and tests over seeds and images."""

from pathlib import Path

import pandas as pd
import pytest
from helpers.table1_cells import IMAGES, PAPERS, ROWS, TOPS, cells_of, packed

from bnrecal.evaluation.standard_error import of_share
from bnrecal.reports.table1.columns import Row, header
from bnrecal.reports.table1.gains import Gain, gains, gains_table, right_by_row
from bnrecal.reports.table1.numbers import long_table, make_tables, wide_table, write_tables
from bnrecal.reports.table1.records import CellRecord

NET = Row("PyTorch", "Net", "net")
LEVELS = {"a8w8": [69.0, 69.0], "a8w8_w": [69.2, 69.2], "2t_wo": [68.0, 69.0], "2t_w": [68.6, 68.8]}
LEVELS |= {"4t_wo": [60.8, 61.2], "4t_w": [59.8, 60.0]}


def seeds_of(row: Row, levels: dict[str, list[float]], count: int = 2) -> list[CellRecord]:
    """Cells of one row, whose top-1 (%) per seed is given."""
    made = []
    for seed in range(count):
        made += cells_of(row, {name: tops[seed] for name, tops in levels.items()}, seed=seed)
    return made


def by_threads(found: list[Gain]) -> dict[int, Gain]:
    return {one.pair.threads: one for one in found}


def test_seeds_are_averaged() -> None:
    tables = make_tables(seeds_of(NET, LEVELS), [NET])
    assert tables.wide["4t_wo"].tolist() == [61.0]
    assert tables.wide["fp32"].tolist() == [70.0]
    assert tables.paper is None


def test_gains_are_tested_over_all_seeds_and_counted_net_of_the_control() -> None:
    found = by_threads(gains(seeds_of(NET, LEVELS)))
    assert {(one.seeds, one.images) for one in found.values()} == {(2, IMAGES)}
    assert found[2].gain.points == pytest.approx(0.2)
    assert found[2].control_gain == pytest.approx(0.2)
    assert found[2].net_gain.points == pytest.approx(0.0)
    assert found[2].net_gain.p == 1.0
    # seed 0 alone gains 6 of 1,000 images and loses none: McNemar's p is 0.03, but seed 1 loses 2
    alone = by_threads(gains(seeds_of(NET, LEVELS, count=1)))
    assert alone[2].gain.p < 0.05 < found[2].gain.p
    assert found[2].recovered is None  # a loss of half a point is not significant
    assert found[4].loss.points == pytest.approx(8.0)
    assert found[4].loss.p < 0.05
    assert found[4].recovered is not None
    assert found[4].recovered.share is None  # the gain is not significant
    assert found[4].recovered.low < 0 < found[4].recovered.high


def test_a_share_is_reported_with_its_interval_where_it_is_known() -> None:
    levels = {**LEVELS, "4t_wo": [50.8, 51.2], "4t_w": [59.8, 60.0]}
    found = by_threads(gains(seeds_of(NET, levels)))
    share = found[4].recovered
    assert share is not None
    assert share.share is not None
    assert share.share == pytest.approx((8.9 - 0.2) / 18.0)
    assert share.low < share.share < share.high
    row = gains_table(list(found.values())).set_index("threads").loc[4]
    assert (row["recovered"], row["recovered_low"], row["recovered_high"]) == (share.share, share.low, share.high)
    assert share.in_percent() == f"48 % ({100 * share.low:.0f} to {100 * share.high:.0f} %)"


def test_the_table_of_gains_has_one_row_a_pair_and_names_each_number() -> None:
    found = gains(seeds_of(NET, LEVELS))
    table = gains_table(found)
    assert table["threads"].tolist() == [1, 2, 4]
    last = table.iloc[2]
    assert (last["loss"], last["gain"], last["net_gain"]) == pytest.approx((8.0, -1.1, -1.3))
    assert last["net_gain_p"] == found[2].net_gain.p
    assert last["gain_stderr"] == found[2].gain.stderr


def test_rows_stand_in_their_order_and_not_in_that_of_the_cells() -> None:
    cells = [*cells_of(ROWS[1]), *cells_of(ROWS[0])]
    assert wide_table(long_table(cells), ROWS)["source"].tolist() == ["PyTorch", "my_own"]


def test_float32_is_a_row_of_its_own_with_its_binomial_error() -> None:
    long = long_table(cells_of(NET))
    assert len(long) == len(TOPS) + 1
    row = long.set_index("cell").loc["fp32"]
    assert row["stderr"] == pytest.approx(100 * of_share(0.7, IMAGES))
    assert (row["top1"], row["drop"], row["speedup"]) == (70.0, 0.0, 1.0)
    assert pd.isna(row["threads"])


def test_layers_with_one_thread_and_those_that_a_row_spares_are_reported_apart_by_kind() -> None:
    cells = cells_of(NET)
    for cell in cells:
        cell["layer_exceptions"] = {
            "stem": {"kind": "first convolution", "threads": 0},
            "dw": {"kind": "depthwise", "threads": 1},
            "half": {"kind": "smt.layers", "threads": 2},
            "worst": {"kind": "smt.layers", "threads": 1},
        }
        cell["exceptions"] = dict.fromkeys(cell["layer_exceptions"], "smt.layers: 1 thread")  # words decide nothing
    row = long_table(cells).set_index("cell").loc["4t_wo"]
    assert row["one_thread"] == "dw worst"
    assert row["spared"] == "half worst"


def test_files_hold_four_decimals_and_p_values_four_digits(tmp_path: Path) -> None:
    cells = cells_of(NET)
    cells[-1]["right"] = packed(69.0)  # 87 of 1,000 images gained
    write_tables(make_tables(cells, [NET]), tmp_path)
    assert (tmp_path / "table1.csv").read_text().splitlines() == [
        ",".join(header()),
        "PyTorch,Net,70.0000,69.0000,68.0000,68.5000,60.3000,66.2000",
    ]
    last = (tmp_path / "table1_gains.csv").read_text().splitlines()[-1].split(",")
    assert last[:5] == ["PyTorch", "Net", "4", "1", "1000"]
    assert last[11] == f"{2 / 2**87:.4g}"


def test_what_is_not_known_is_empty_in_the_files(tmp_path: Path) -> None:
    cells = cells_of(NET)
    cells[0]["gain_p"] = None
    write_tables(make_tables(cells, [NET]), tmp_path)
    rows = pd.read_csv(tmp_path / "table1_long.csv", dtype=str, keep_default_na=False).set_index("cell")
    assert list(rows.loc[["fp32", "a8w8"], "gain_p"]) == ["", ""]
    assert rows.loc["fp32", "loss_p"] == ""
    assert float(rows.loc["4t_w", "gain_p"]) == float(f"{cells[-1]['gain_p']:.4g}")
    for path in tmp_path.glob("*.csv"):
        assert "nan" not in path.read_text().lower(), path.name


def test_the_comparison_of_an_earlier_table_is_removed(tmp_path: Path) -> None:
    write_tables(make_tables(cells_of(ROWS[0], data="imagenet"), ROWS), tmp_path)
    assert (tmp_path / "table1_paper.csv").exists()
    write_tables(make_tables(cells_of(ROWS[0]), ROWS), tmp_path)
    assert not (tmp_path / "table1_paper.csv").exists()


def test_no_more_images_count_than_were_seen() -> None:
    cells = cells_of(ROWS[0])
    for cell in cells:
        cell["images"] = 11
        cell["right"] = packed(50.0, 11)
        if "fp32_right" in cell:
            cell["fp32_right"] = packed(50.0, 11)
    (right,) = right_by_row(cells).values()
    assert set(right) == {column.key for column in PAPERS}
    assert all(len(seeds) == 1 and len(seeds[0]) == 11 for seeds in right.values())
