"""Figure 1 as a page: `report.html` beside `figure1.csv`, with the value of every point under the pointer."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from bnrecal.reports.common.page import Axis, Tick, never_fatal, number, p_value, write_page
from bnrecal.reports.common.tables import PrintedTable, custom_policies
from bnrecal.reports.figure1.curves import CURVES, HIGHEST_ERROR, PLAN, RANDOM, Choice, Curve, present
from bnrecal.reports.figure1.points import FigurePoint, by_network, by_panel, panel_title, points_table

PAGE = "report.html"
TOP = 14  # free space above the field of a chart, pixels
HEIGHT = 250  # height of the field, pixels
SURE = 2.0  # standard errors from which a difference between two ways to choose layers counts


@dataclass(frozen=True)
class Fact:
    """Top-1 of one network at its highest speedup, in points from float32.

    Attributes:
        wo, w: without and with recalibration.
        collisions: percent of steps with two or more active threads, where all layers run four.
    """

    label: str
    speedup: float
    wo: float
    w: float
    collisions: float


@dataclass(frozen=True)
class Beside:
    """Operating points at which another choice of threads is better, or worse, than the highest-error order."""

    name: str
    points: int
    better: int
    worse: int


@dataclass(frozen=True)
class Spent:
    """Choices that were measured on training images for one curve, and over how many images."""

    evaluations: int
    evaluated_images: int


@dataclass(frozen=True)
class Budget:
    """The choices of one network that the search and random orders measured."""

    label: str
    plan: Spent
    random: Spent


@dataclass(frozen=True)
class LegendEntry:
    """A curve's name and look."""

    name: str
    shape: str
    look: str


@dataclass(frozen=True)
class Mark:
    """A point with its error bar; x in percent of the width, the rest in pixels from the top."""

    x: float
    y: float
    low: float
    high: float
    tip: str


@dataclass(frozen=True)
class DrawnCurve:
    """Marks, and the lines between neighbours."""

    shape: str
    look: str
    marks: list[Mark]
    lines: list[tuple[Mark, Mark]]


@dataclass(frozen=True)
class Height:
    """A labelled line across a chart, in pixels from the top."""

    y: float
    label: str


@dataclass(frozen=True)
class TextRow:
    """A point as a row of text."""

    label: str
    cells: list[str]


@dataclass(frozen=True)
class Panel:
    """A chart: axes, curves with their points, and the same values as rows of a table."""

    title: str
    curves: list[DrawnCurve]
    height: int
    across: list[Tick]
    up: list[Height]
    zero: float
    rows: list[TextRow]


@dataclass(frozen=True)
class NetworkRun:
    """The run behind the curves of one network."""

    label: str
    model: str
    points: int
    images: int
    seed: int
    weights: str
    seconds: float
    device: str


@dataclass(frozen=True)
class Content:
    """All that the template shows."""

    data: str
    policy: str
    images: int
    facts: list[Fact]
    others: list[Beside]
    budgets: list[Budget]
    legend: list[LegendEntry]
    panels: list[Panel]
    runs: list[NetworkRun]
    files: list[PrintedTable]


def write_figure1_page(points: Sequence[FigurePoint], out: Path) -> None:
    """Write `report.html` into `out`; a failure is reported in one line."""
    with never_fatal(out / PAGE):
        write_page(out / PAGE, "figure1.html.j2", content(points))


def content(points: Sequence[FigurePoint]) -> Content:
    """All that the template shows."""
    networks = by_network(points)
    others = [beside_usual(points, choice) for choice in (PLAN, RANDOM)]
    return Content(
        data=points[0]["data"],
        policy=custom_policies(point["policy"] for point in points),
        images=max(point["images"] for point in points),
        facts=[fact(own) for own in networks.values()],
        others=[other for other in others if other.points],
        budgets=[found for found in map(budget, networks.values()) if found is not None],
        legend=[LegendEntry(curve.name(own), curve.shape, curve.style) for curve, own in present(points)],
        panels=[panel(own) for own in by_panel(points).values()],
        runs=[network_run(own) for own in networks.values()],
        files=[points_table(points)],
    )


def fact(points: Sequence[FigurePoint]) -> Fact:
    """Top-1 of one network at its highest speedup, without and with recalibration."""
    usual = [point for point in points if point["method"] == HIGHEST_ERROR.method]
    top = max(point["speedup"] for point in usual)
    drops = {point["recal"]: point["drop"] for point in usual if point["speedup"] == top}
    return Fact(points[0]["label"], top, -drops[False], -drops[True], 100 * points[0]["collisions_4t"])


def beside_usual(points: Sequence[FigurePoint], choice: Choice) -> Beside:
    """Points of another choice of threads that are better, or worse, than the highest-error order."""
    own = [point for point in points if point["method"] == choice.method]
    better = sum(_surely_positive(point["above_highest_error"], point) for point in own)
    worse = sum(_surely_positive(-point["above_highest_error"], point) for point in own)
    return Beside(choice.beside, len(own), better, worse)


def budget(points: Sequence[FigurePoint]) -> Budget | None:
    """Return what the search and random orders of one network measured; None without a search."""
    spent = {point["method"]: Spent(point["evaluations"], point["evaluated_images"]) for point in points}
    if PLAN.method not in spent or RANDOM.method not in spent:
        return None
    return Budget(points[0]["label"], spent[PLAN.method], spent[RANDOM.method])


def _surely_positive(difference: float, point: FigurePoint) -> bool:
    return difference > max(0.0, SURE * point["above_highest_error_stderr"])


def panel(points: Sequence[FigurePoint]) -> Panel:
    """The chart of one panel, and its values as text."""
    across = Axis.over([point["speedup"] for point in points], zero=False)
    lows = [-point["drop"] - point["drop_stderr"] for point in points]
    highs = [-point["drop"] + point["drop_stderr"] for point in points]
    up = Axis.over([*lows, *highs], ticks=6)
    ordered = sorted(points, key=lambda point: (point["label"], point["speedup"], point["curve"]))
    return Panel(
        title=panel_title(points),
        curves=[_drawn(curve, own, across, up) for curve, own in present(points)],
        height=TOP + HEIGHT,
        across=across.marks,
        up=[Height(_y(up, tick.value), tick.label) for tick in up.marks],
        zero=_y(up, 0.0),
        rows=[_text_row(point) for point in ordered],
    )


def _y(axis: Axis, value: float) -> float:
    """Pixels from the top."""
    return round(TOP + HEIGHT * (1 - axis.share(value)), 1)


def _drawn(curve: Curve, own: Sequence[FigurePoint], across: Axis, up: Axis) -> DrawnCurve:
    marks = []
    for point in own:
        loss = -point["drop"]
        low = _y(up, loss - point["drop_stderr"])
        high = _y(up, loss + point["drop_stderr"])
        marks.append(Mark(across.x(point["speedup"]), _y(up, loss), low, high, _tip(point, curve.name(own))))
    return DrawnCurve(curve.shape, curve.style, marks, list(pairwise(marks)))


def _tip(point: FigurePoint, name: str) -> str:
    """The values that the pointer shows at a point."""
    lines = [
        f"{point['label']}: {name}",
        f"{number(point['speedup'])} × faster, {point['slowed']} layers slowed",
        f"top-1 {number(point['top1'])} %, {_difference(point)}",
    ]
    if point["recal"]:
        lines.append(f"recalibration gains {number(point['gain'], signed=True)} (p = {p_value(point['gain_p'])})")
    return "\n".join(lines)


def _difference(point: FigurePoint) -> str:
    return f"{number(-point['drop'], signed=True)} ± {number(point['drop_stderr'])}"


def _text_row(point: FigurePoint) -> TextRow:
    curve = next(curve for curve in CURVES if curve.matches(point))
    cells = [
        number(point["speedup"]),
        curve.choice.cell,
        "with" if point["recal"] else "without",
        str(point["slowed"]),
        number(point["top1"]),
        _difference(point),
    ]
    return TextRow(point["label"], cells)


def network_run(points: Sequence[FigurePoint]) -> NetworkRun:
    """The run behind the curves of one network."""
    first = points[0]
    return NetworkRun(
        label=first["label"],
        model=first["model"],
        points=len(points),
        images=first["images"],
        seed=first["seed"],
        weights=first["weights_hash"][:12],
        seconds=first["seconds"],
        device=first["device"],
    )
