"""Functions and objects of the user's own, named on the command line."""

import importlib
import os
import sys

from bnrecal.errors import BnrecalError, with_place


def find_object(key: str, text: str, what: str) -> object:
    """The object that `package.module:attribute` names, with the current folder on the path.

    Args:
        key: the setting, for messages.
        text: its value; dots after the colon work.
        what: it is to name, for messages.

    Raises:
        BnrecalError: if the text has another form, the module cannot be imported, or it has no such attribute.
    """
    module_name, _, attribute = text.partition(":")
    if not module_name or not attribute:
        raise BnrecalError(f"{key}={text}: write package.module:{what}")
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)
    try:
        value: object = importlib.import_module(module_name)
    except Exception as error:  # whatever the user's code raises, reported with its place
        if isinstance(error, ModuleNotFoundError) and error.name and module_name.startswith(error.name):
            raise BnrecalError(f"{key}={text}: no module {error.name} here ({here}) or installed") from error
        raise BnrecalError(f"{key}={text}: importing {module_name} failed: {with_place(error)}") from error
    for part in attribute.split("."):
        if not hasattr(value, part):
            raise BnrecalError(f"{key}={text}: {module_name} has no {what} {attribute}")
        value = getattr(value, part)
    return value
