"""One cell after the other, in this process."""

from collections.abc import Iterator, Sequence

from bnrecal.commands.launchers.cells import Cell, Outcome, run_cell


def run_serially(cells: Sequence[Cell]) -> Iterator[tuple[Cell, Outcome]]:
    """A `Runner`."""
    for cell in cells:
        try:
            outcome = run_cell(cell)
        except SystemExit as error:  # somebody's network or factory called sys.exit
            outcome = Outcome(error=f"the job called sys.exit({error.code})")
        yield cell, outcome
