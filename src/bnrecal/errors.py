"""The one exception that is the user's to fix: it names the bad value and what would do."""


class BnrecalError(Exception):
    """Bad input or an impossible request, told in one line.

    The command line prints the message without a traceback and exits with a non-zero status.
    """


def first_line(error: BaseException) -> str:
    """The first line of an exception's message, at most 160 characters; the exception's type where it has none."""
    text = str(error).strip()
    return text.splitlines()[0][:160] if text else type(error).__name__
