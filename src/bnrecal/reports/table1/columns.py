"""Rows and columns of Table 1. A new column is one line in `COLUMNS`; everything that is measured or shown follows."""

from dataclasses import dataclass


@dataclass
class Row:
    """One row of the table.

    Attributes:
        spare_worst: run the one layer of highest error with one thread (the paper's dagger).
    """

    source: str
    label: str
    model: str
    spare_worst: bool = False


@dataclass(frozen=True)
class Column:
    """One column of the table: the network at some threads, without or with recalibration.

    Attributes:
        key: its name in the CSV files, and the `cell` of a record.
        label: its heading.
        group: heading of the columns that differ from this one in recalibration alone.
        threads: of every layer that can run several and is not in `layers`; 1 is plain A8W8, 0 float32.
        recal: whether BatchNorm statistics are re-estimated.
        layers: (name or glob, threads) pairs over `threads`.
        shown: whether it stands in `table1.csv` and in what is made of it; else in the other CSV files alone.
    """

    key: str
    label: str
    group: str
    threads: int
    recal: bool = False
    layers: tuple[tuple[str, int], ...] = ()
    shown: bool = True


FLOAT32 = Column("fp32", "FP32", "FP32", 0)
A8W8 = Column("a8w8", "A8W8", "A8W8", 1)
CONTROL = Column("a8w8_w", "A8W8 w/", "A8W8", 1, recal=True, shown=False)  # gains of recalibration without NB-SMT

COLUMNS: tuple[Column, ...] = (
    FLOAT32,
    A8W8,
    CONTROL,
    Column("2t_wo", "2T w/o", "2T", 2),
    Column("2t_w", "2T w/", "2T", 2, recal=True),
    Column("4t_wo", "4T w/o", "4T", 4),
    Column("4t_w", "4T w/", "4T", 4, recal=True),
)


@dataclass(frozen=True)
class Pair:
    """Two columns that differ in recalibration alone."""

    without: Column
    recalibrated: Column

    @property
    def columns(self) -> tuple[Column, Column]:
        """Without and with recalibration."""
        return self.without, self.recalibrated

    @property
    def threads(self) -> int:
        return self.without.threads

    @property
    def group(self) -> str:
        return self.without.group

    @property
    def gain_key(self) -> str:
        """Name of what recalibration gains, as a quantity of `table1_paper.csv`."""
        return f"{self.group.lower()}_gain"

    @property
    def gain_label(self) -> str:
        """Heading of what recalibration gains."""
        return f"{self.group} gain"

    @property
    def title(self) -> str:
        """Heading of a chart."""
        return f"{self.threads} threads ({self.group})"


def measured() -> tuple[Column, ...]:
    """Columns with cells of their own: all but float32, which every cell is compared with."""
    return tuple(column for column in COLUMNS if column.threads > 0)


def shown() -> tuple[Column, ...]:
    """Columns of `table1.csv`, in their order."""
    return tuple(column for column in COLUMNS if column.shown)


def header() -> list[str]:
    """Names of the columns of `table1.csv`."""
    return ["source", "model", *(column.key for column in shown())]


def pairs() -> tuple[Pair, ...]:
    """Pairs of measured columns, in the order of the table; the first is A8W8 and its control."""
    found = []
    for without in measured():
        partners = [c for c in measured() if c.recal and (c.threads, c.layers) == (without.threads, without.layers)]
        if not without.recal and partners:
            found.append(Pair(without, partners[0]))
    return tuple(found)


def threaded_pairs() -> tuple[Pair, ...]:
    """Pairs that run several threads, in the order of the table."""
    return tuple(pair for pair in pairs() if pair.threads > 1)


def fastest_pair() -> Pair:
    """The pair with most threads."""
    return max(threaded_pairs(), key=lambda pair: pair.threads)
