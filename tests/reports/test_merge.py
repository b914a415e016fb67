import json
from pathlib import Path
from typing import Any

import pytest
from helpers.command_line import run

from bnrecal.errors import BnrecalError
from bnrecal.reports.merge import merge


def result(cell: str = "a", threads: int = 4, **settings: Any) -> dict[str, Any]:
    smt = {"threads": threads, "rounding": "half_even", "layers": {}, "array": {"rows": 16}, **settings}
    provenance = {"content": cell, "weights_hash": "w", "device": "cpu", "versions": {"torch": "2"}}
    config = {"model": {"name": "net", "kwargs": {}}, "smt": smt, "seed": 0}
    own = {"model": "net", "data": "glyphs", "threads": threads, "recal": True, "seed": 0, "top1": 50.0}
    return {**own, "exceptions": {"stem": "float32"}, "provenance": {**provenance, "config": config}}


def write(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def test_a_whole_outputs_folder_is_merged(tmp_path: Path) -> None:
    write(tmp_path / "runs" / "1" / "result.json", result("a"))
    write(tmp_path / "sweep" / "cell" / "result.json", result("b", threads=2))
    write(tmp_path / "table1" / "cells" / "net.json", {"results": [result("a"), {**result("c", 1), "right": "AA=="}]})
    # what is no result: pieces of the figure and of a search, a plan, half-written files, the error of a failed cell
    write(tmp_path / "figure1" / "cells" / "net.json", {"points": [{"top1": 1.0}]})
    write(tmp_path / "plan" / "cells" / "sensitivities-net.json", {"sensitivities": []})
    write(tmp_path / "plan" / "net-3x.json", {"layers": {}})
    write(tmp_path / "table1" / "cells" / ".net.abc.json", '{"results": [')
    write(tmp_path / "sweep" / "failed" / "error.txt", "out of memory")
    merged = merge([tmp_path])
    assert merged.table["content"].tolist() == ["c", "b", "a"]
    assert merged.unreadable == []
    assert "right" not in merged.table


@pytest.mark.parametrize("content", ["", '{"top1": 5', "[]", '{"top1": 5}'])
def test_what_a_killed_run_left_is_named_and_left_out(content: str, tmp_path: Path) -> None:
    write(tmp_path / "good" / "result.json", result())
    write(tmp_path / "bad" / "result.json", content)
    done = run("merge", str(tmp_path), "--out", "all.csv", folder=tmp_path)
    assert done.returncode == 0
    assert done.stdout == "1 results written to all.csv\n"
    assert done.stderr.startswith(f"bnrecal: left out: {tmp_path / 'bad' / 'result.json'} ")


def test_rows_are_reported_apart_by_every_setting_that_differs_and_by_no_other(tmp_path: Path) -> None:
    write(tmp_path / "1" / "result.json", result("a"))
    write(tmp_path / "2" / "result.json", result("b", rounding="floor"))
    write(tmp_path / "3" / "result.json", result("c", layers={"conv": 2}, array={"rows": 8}))
    table = merge([tmp_path]).table
    assert table["smt.rounding"].tolist() == ["half_even", "floor", "half_even"]
    assert table["smt.layers"].tolist() == ["{}", "{}", '{"conv": 2}']
    assert table["smt.array.rows"].tolist() == [16, 16, 8]
    assert not {"version.torch", "model.kwargs", "smt.threads"} & set(table.columns)
    assert {"threads", "device", "weights_hash", "exceptions"} <= set(table.columns)


def test_the_same_cell_on_another_device_is_another_row(tmp_path: Path) -> None:
    other = result("a")
    other["provenance"]["device"] = "cuda"
    write(tmp_path / "1" / "result.json", result("a"))
    write(tmp_path / "2" / "result.json", other)
    assert merge([tmp_path]).table["device"].tolist() == ["cpu", "cuda"]


def test_a_folder_without_results_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        BnrecalError, match=rf"^{tmp_path} holds no result\.json: give a folder that runs or sweeps wrote to$"
    ):
        merge([tmp_path])
    write(tmp_path / "result.json", "")
    with pytest.raises(BnrecalError, match=r"holds no result\.json that can be read \(.*cannot be read"):
        merge([tmp_path])
    write(tmp_path / "other" / "result.json", "")
    with pytest.raises(BnrecalError, match=r"that can be read \([^;]*; [^;]*\): give"):
        merge([tmp_path])
    with pytest.raises(BnrecalError, match="is not a folder"):
        merge([tmp_path / "nowhere"])


@pytest.mark.parametrize(
    "content", [{"results": None}, {"results": [1]}, {"results": [{"top1": 2.0}]}, {"results": {"a": 1}}]
)
def test_cells_of_another_shape_are_named_and_the_rest_is_merged(content: object, tmp_path: Path) -> None:
    write(tmp_path / "runs" / "result.json", result("a"))
    write(tmp_path / "cells" / "net.json", content)
    merged = merge([tmp_path])
    assert merged.table["content"].tolist() == ["a"]
    assert [line.split(":")[0] for line in merged.unreadable] == [
        f"{tmp_path}/cells/net.json is damaged or of an earlier version"
    ]


@pytest.mark.parametrize("provenance", [{}, [], {"content": "a", "weights_hash": "w", "device": "cpu"}])
def test_a_result_of_an_earlier_version_alone_is_one_line(provenance: object, tmp_path: Path) -> None:
    write(tmp_path / "result.json", {**result(), "provenance": provenance})
    with pytest.raises(BnrecalError, match=r"holds no result.json that can be read.*of an earlier version"):
        merge([tmp_path])
