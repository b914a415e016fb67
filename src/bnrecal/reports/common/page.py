"""Pages that open anywhere: one HTML file each, nothing in it that is fetched from elsewhere."""

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import jinja2
from matplotlib.ticker import MaxNLocator

from bnrecal.errors import BnrecalError
from bnrecal.files import atomic_path

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

log = logging.getLogger("bnrecal")

# Percent of a chart's width that is left free, for ticks and for the labels of points at its ends.
LEFT = 11.0
RIGHT = 8.0
MINUS = "\N{MINUS SIGN}"

# What can go wrong with a page that is made after its numbers are safe: the disk, the template, a value that a cell of
# another version lacks. Programming errors of other kinds still show.
FAILURES = (OSError, BnrecalError, jinja2.TemplateError, LookupError, ValueError, TypeError)


@contextmanager
def never_fatal(what: Path) -> Iterator[None]:
    """One line of warning instead of an exception: a page or a picture must not cost the results behind it."""
    try:
        yield
    except FAILURES as error:
        kind = type(error).__name__
        log.warning("bnrecal: %s was not written (%s: %s); the tables beside it are whole", what, kind, error)


@dataclass(frozen=True)
class Tick:
    """A labelled mark of an axis.

    Attributes:
        x: percent of the chart's width.
    """

    value: float
    x: float
    label: str


@dataclass(frozen=True)
class Axis:
    """A linear axis from `low` to `high` with round ticks; positions are percent of the chart's width."""

    low: float
    high: float
    ticks: tuple[float, ...]

    @staticmethod
    def over(values: Sequence[float], *, ticks: int = 5, zero: bool = True) -> "Axis":
        """An axis that holds all values, and 0 where asked for, and ends at ticks."""
        known = [value for value in values if math.isfinite(value)] + ([0.0] if zero else [])
        low = min(known, default=0.0)
        high = max(known, default=1.0)
        places = MaxNLocator(ticks, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high if high > low else low + 1)
        return Axis(float(places[0]), float(places[-1]), tuple(float(place) for place in places))

    def share(self, value: float) -> float:
        """0 at `low`, 1 at `high`; what lies outside is put on the edge."""
        return min(max((value - self.low) / (self.high - self.low), 0.0), 1.0)

    def x(self, value: float) -> float:
        """Percent of the width, from the left."""
        return round(LEFT + (100 - LEFT - RIGHT) * self.share(value), 2)

    @property
    def marks(self) -> list[Tick]:
        """The ticks with their places and labels."""
        return [Tick(tick, self.x(tick), label) for tick, label in zip(self.ticks, self.labels(), strict=True)]

    def labels(self) -> list[str]:
        """The ticks as text, all with as many decimals as the finest needs."""
        step = min((b - a for a, b in pairwise(self.ticks)), default=1.0)
        decimals = next((d for d in range(6) if abs(round(step, d) - step) < 1e-9), 6)
        return [f"{tick:.{decimals}f}".replace("-", MINUS) for tick in self.ticks]


def number(value: float | None, decimals: int = 2, *, signed: bool = False) -> str:
    """A number for people: a real minus sign, a dash where there is none."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:{'+' if signed else ''}.{decimals}f}".replace("-", MINUS)


def p_value(value: float | None) -> str:
    """A p-value to two digits."""
    return "–" if value is None or not math.isfinite(value) else f"{value:.2g}"


def duration(seconds: float) -> str:
    """12 s, 3 min 11 s, 1 h 02 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    return (
        f"{whole // 60} min {whole % 60:02d} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    )


def write_page(path: Path, template: str, content: "DataclassInstance") -> None:
    """Render a template of `templates/` into one file, whole or not at all.

    Args:
        content: a dataclass, whose fields the template knows by name.
    """
    loader = jinja2.PackageLoader("bnrecal.reports", "templates")
    env = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    env.filters |= {"number": number, "p_value": p_value, "duration": duration}
    written = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
    shown = {f.name: getattr(content, f.name) for f in fields(content)}
    text = env.get_template(template).render(written=written, **shown)
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
