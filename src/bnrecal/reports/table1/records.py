"""Records that Table 1 is made of, as they lie in the JSON files of `cells/`."""

from typing import NotRequired, TypedDict

from bnrecal.experiment.records import ResultRecord


class LayerRecord(TypedDict):
    """The part of a row of `Result.layers` that charts show; None where nothing was measured.

    Attributes:
        active_0: share of steps with no active thread; active_1 to active_4 likewise.
        relative_mse: squared error of the output relative to its square; relative_mse_wo before recalibration.
    """

    name: str
    threads: int
    steps: int
    active_0: float | None
    active_1: float | None
    active_2: float | None
    active_3: float | None
    active_4: float | None
    relative_mse: float | None
    relative_mse_wo: float | None


class MeasuredCell(ResultRecord):
    """A cell as it is kept, whatever its row is called.

    Attributes:
        cell: `Column.key`.
        right: which images were right, `evaluation.packed.pack`.
        fp32_right: the same of float32, in the cells of A8W8 alone.
        layers: one record a convolution, in the cells of the fastest network with recalibration alone.
    """

    cell: str
    right: str
    fp32_right: NotRequired[str]
    layers: NotRequired[list[LayerRecord]]


class CellRecord(MeasuredCell):
    """A cell of a row of the table.

    Attributes:
        source, label: of its row.
    """

    source: str
    label: str
