"""Checks that every configuration shares: each raises BnrecalError that names the key, its value and what would do."""

import math
from dataclasses import fields, is_dataclass
from typing import Any

from bnrecal.errors import BnrecalError

LARGEST = 2**63 - 1


def one_of(key: str, value: object, choices: tuple[object, ...]) -> None:
    """Raise unless the value is among the choices."""
    if value not in choices:
        raise BnrecalError(f"{key}={value}: choose one of {', '.join(map(str, choices))}")


def at_least(key: str, value: int, least: int) -> None:
    """Raise if the value is below `least`."""
    if value < least:
        raise BnrecalError(f"{key}={value}: must be at least {least}")


def mapping(key: str, value: object) -> dict[str, Any]:
    """The value as a mapping of names; an empty one for None."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise BnrecalError(f"{key}={value}: give a mapping, as in {key}={{name: value}}")
    return {str(name): item for name, item in value.items()}


def sane_values(config: Any, prefix: str = "") -> None:
    """Raise at the first value anywhere in a dataclass of settings that its `setting` does not allow.

    Numbers are finite and fit 64 bits, no text is empty. Mappings are left to those who know what they may hold.
    """
    for field in fields(config):
        key = f"{prefix}{field.name}"
        value = getattr(config, field.name)
        _sane(key, value)
        least = field.metadata.get("least")
        choices = field.metadata.get("choices")
        if value is not None and least is not None:
            at_least(key, value, least)
        if value is not None and choices:
            one_of(key, value, choices)


def _sane(key: str, value: Any) -> None:
    if is_dataclass(value):
        sane_values(value, f"{key}.")
    elif isinstance(value, list):
        for item in value:
            _sane(key, item)
    elif isinstance(value, float) and not math.isfinite(value):
        raise BnrecalError(f"{key}={value}: give a finite number")
    elif isinstance(value, int) and abs(value) > LARGEST:
        raise BnrecalError(f"{key}={value}: give a number within 64 bits")
    elif value == "":
        raise BnrecalError(f"{key}= is empty: give a value, or leave it out")
