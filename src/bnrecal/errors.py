"""The one exception that is the user's to fix, and exceptions of any kind in one line."""

import traceback
from collections.abc import Sequence


class BnrecalError(Exception):
    """Bad input or an impossible request, in one line: it names the bad value and what would do.

    The command line prints the message without a traceback and exits with a non-zero status.

    Examples:
        >>> import bnrecal
        >>> try:
        ...     bnrecal.evaluate({}, [])
        ... except bnrecal.BnrecalError as error:
        ...     print(error)
        evaluate got no models: give a mapping, as in {'float32': model}
    """


def one_line(text: object) -> str:
    """The text with its line breaks and runs of blanks replaced by single blanks."""
    return " ".join(str(text).split())


def some_of(names: Sequence[str], most: int) -> str:
    """The first of the names, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def first_line(error: BaseException) -> str:
    """The first line of an exception's message; the name of its type where the message is empty."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def with_type(error: BaseException) -> str:
    """Type and message of an exception, in one line."""
    message = one_line(error)
    name = type(error).__name__
    return f"{name}: {message}" if message else name


def with_place(error: BaseException) -> str:
    """Type, message, and the file and line that raised an exception, in one line."""
    raised = traceback.extract_tb(error.__traceback__)[-1]
    return f"{with_type(error)} ({raised.filename}, line {raised.lineno})"
