"""The rows of Table 1."""

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
