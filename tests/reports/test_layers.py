import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bnrecal.errors import BnrecalError
from bnrecal.reports.layers import _title, draw_folder, draw_layers

NAMES = ["stem", "conv2", "depthwise"]


def layers() -> pd.DataFrame:
    """A table of `describe_layers`: nothing is measured of the first convolution, one runs one thread."""
    table = pd.DataFrame({"name": NAMES, "threads": [0, 4, 1], "range": [np.nan, 2.0, 3.0]})
    for active, (four, one) in enumerate([(0.1, 0.6), (0.4, 0.4), (0.25, 0.0), (0.15, 0.0), (0.1, 0.0)]):
        table[f"active_{active}"] = [np.nan, four, one]
    for column in ("mse", "mse_wo", "relative_mse", "relative_mse_wo", "input_range", "input_range_wo"):
        table[column] = [np.nan, 0.01, 0.0]
    return table


def norms() -> pd.DataFrame:
    return pd.DataFrame({"name": ["bn1", "bn2"], "mean_shift": [0.0, 0.1], "variance_ratio": [1.0, 0.95]})


def write(folder: Path) -> Path:
    layers().to_csv(folder / "layers.csv", index=False)
    norms().to_csv(folder / "batchnorm.csv", index=False)
    return folder


def test_both_files_are_drawn_and_the_png_is_the_same_every_time(tmp_path: Path) -> None:
    paths = draw_folder(write(tmp_path))
    assert [path.name for path in paths] == ["layers.png", "layers.svg"]
    first = [path.read_bytes() for path in paths]
    assert first[0].startswith(b"\x89PNG")
    assert b"<svg" in first[1]
    assert draw_folder(tmp_path)[0].read_bytes() == first[0]


@pytest.mark.parametrize(("recal", "word"), [(True, "with"), (False, "without")])
def test_the_title_is_the_experiment_or_the_folder_where_there_is_no_result(
    tmp_path: Path, recal: bool, word: str
) -> None:
    assert _title(tmp_path) == tmp_path.name
    result = {"model": "resnet18", "data": "glyphs", "threads": 4, "recal": recal, "top1": 50.0, "provenance": {}}
    (tmp_path / "result.json").write_text(json.dumps(result))
    assert _title(tmp_path) == f"resnet18 on glyphs, 4 threads, {word} recalibration"


def test_every_axis_is_labelled_and_the_shares_fill_it() -> None:
    figure = draw_layers(layers(), norms(), "title")
    assert len(figure.axes) == 5
    assert all(axis.get_ylabel() for axis in figure.axes)
    shares = figure.axes[0]
    heights = [bar.get_height() for bars in shares.containers for bar in bars if bar.get_x() > 0.5]  # not the stem
    assert sum(heights) == pytest.approx(200)
    assert [text.get_text() for text in figure.axes[2].get_xticklabels()] == NAMES


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        (
            "layers.csv",
            None,
            r"^no .*layers.csv: give the folder of a finished experiment \(python -m bnrecal model=...\)$",
        ),
        (
            "batchnorm.csv",
            "name\nbn1\n",
            r"^.*batchnorm.csv is not a table of bnrecal: it has no mean_shift, variance_ratio$",
        ),
        ("layers.csv", "", "^.*layers.csv cannot be read as a table: No columns to parse from file$"),
        ("batchnorm.csv", "name,mean_shift,variance_ratio\n", "^.*batchnorm.csv is .*: it has no rows$"),
        ("layers.csv", "threads,range\n", "^.*layers.csv is .*: it has no name, active_0, mse, mse_wo$"),
    ],
)
def test_wrong_folders_are_reported(tmp_path: Path, file: str, content: str | None, message: str) -> None:
    write(tmp_path)
    if content is None:
        (tmp_path / file).unlink()
    else:
        (tmp_path / file).write_text(content)
    with pytest.raises(BnrecalError, match=message):
        draw_folder(tmp_path)


@pytest.mark.parametrize("name", ["layers.csv", "batchnorm.csv"])
def test_a_table_that_is_cut_off_or_holds_words_for_numbers_is_not_drawn(name: str, tmp_path: Path) -> None:
    path = write(tmp_path) / name
    content = path.read_text()
    for cut in (2, 5, 12):
        path.write_text(content[:-cut])
        with pytest.raises(BnrecalError, match=f"{name} is cut off in its last line"):
            draw_folder(tmp_path)
    path.write_text(content.replace("0.1", "0.x", 1))
    with pytest.raises(BnrecalError, match="must hold numbers alone"):
        draw_folder(tmp_path)


def test_a_result_of_an_earlier_version_is_no_title(tmp_path: Path) -> None:
    (write(tmp_path) / "result.json").write_text('{"top1": 1.0, "provenance": {}}')
    with pytest.raises(BnrecalError, match=r"result.json has no 'recal': it is damaged or of an earlier version"):
        draw_folder(tmp_path)
