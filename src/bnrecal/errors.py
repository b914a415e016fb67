"""The one exception that is the user's to fix: it names the bad value and what would do."""


class BnrecalError(Exception):
    """Bad input or an impossible request, told in one line.

    The command line prints the message without a traceback and exits with a non-zero status.
    """
