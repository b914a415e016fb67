"""The curves of Figure 1: what belongs to each, its name and how it is drawn."""

from collections.abc import Sequence
from dataclasses import dataclass

from bnrecal.reports.common.style import Look
from bnrecal.reports.figure1.points import FigurePoint
from bnrecal.search.records import Method


@dataclass(frozen=True)
class Choice:
    """A way to choose the layers that are slowed.

    Attributes:
        cell: its name in a table.
        suffix: of a curve's name.
        beside: how it is named where it is compared with the highest-error order; empty for that order itself.
    """

    method: Method
    cell: str
    suffix: str = ""
    beside: str = ""


# The order that needs least thought: the paper leaves open which layers it slowed.
HIGHEST_ERROR = Choice("highest_error", "highest error first")
RANDOM = Choice(
    "random",
    "best of random",
    ", best of random orders",
    "The best of random orders, on as many images",
)
PLAN = Choice("plan", "searched", ", searched threads", "Threads found by the search")


@dataclass(frozen=True)
class Curve:
    """Points of dense or pruned networks whose slowed layers are chosen in one way, without or with recalibration.

    Attributes:
        look: in the picture.
        shape: of a mark in the page (`m-...` in base.html.j2), as in the picture.
        style: its classes in page.css.
    """

    pruned: bool
    choice: Choice
    recal: bool
    look: Look
    shape: str
    style: str

    def of(self, points: Sequence[FigurePoint]) -> list[FigurePoint]:
        """Its points, slowest first."""
        own = [point for point in points if self.matches(point)]
        return sorted(own, key=lambda point: point["speedup"])

    def matches(self, point: FigurePoint) -> bool:
        """Return whether a point belongs to it."""
        kind = (point["pruned"] > 0, point["method"], point["recal"])
        return kind == (self.pruned, self.choice.method, self.recal)

    def name(self, points: Sequence[FigurePoint]) -> str:
        """Its name in a legend.

        Args:
            points: its own, one or more.
        """
        shares = sorted({point["pruned"] for point in points})
        network = f"{' or '.join(map(str, shares))} % pruned" if self.pruned else "dense"
        return f"{network}, {'w/' if self.recal else 'w/o'} recalibration{self.choice.suffix}"


CURVES = (  # in the order of the legend
    Curve(False, HIGHEST_ERROR, False, Look("#56B4E9", "o", "--", filled=False), "circle", "dense without"),
    Curve(False, HIGHEST_ERROR, True, Look("#0072B2", "o", "-"), "circle", "dense with"),
    Curve(True, HIGHEST_ERROR, False, Look("#E69F00", "^", "--", filled=False), "triangle", "pruned without"),
    Curve(True, HIGHEST_ERROR, True, Look("#D55E00", "^", "-"), "triangle", "pruned with"),
    Curve(False, RANDOM, True, Look("#009E73", "x", ":"), "cross", "dense random"),
    Curve(True, RANDOM, True, Look("#CC79A7", "+", ":"), "lines", "pruned random"),
    Curve(False, PLAN, True, Look("black", "*", ":"), "star", "dense searched"),
    Curve(True, PLAN, True, Look("#666666", "P", ":"), "plus", "pruned searched"),
)


def present(points: Sequence[FigurePoint]) -> list[tuple[Curve, list[FigurePoint]]]:
    """The curves that have points, with their points, in the order of the legend."""
    found = [(curve, curve.of(points)) for curve in CURVES]
    return [(curve, own) for curve, own in found if own]


def curve_names(panels: Sequence[Sequence[FigurePoint]]) -> list[str]:
    """The names of the curves of all panels, each once, in the order of the legend."""
    names: dict[str, None] = {}
    for curve in CURVES:
        for points in panels:
            own = curve.of(points)
            if own:
                names[curve.name(own)] = None
    return list(names)
