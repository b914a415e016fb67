"""Help on settings: each key with its default and meaning, from the schema and configs/."""

import shutil
import textwrap
from collections.abc import Iterator
from dataclasses import Field, fields, is_dataclass
from inspect import cleandoc
from typing import Any, get_type_hints

from omegaconf import OmegaConf

from bnrecal.commands.cli.compose import compose_config, config_dir
from bnrecal.commands.cli.schemas import SCHEMAS
from bnrecal.config import Config

WIDEST = 120  # characters of a line, on terminals that are wider still
INDENT = 34  # where the meanings start


def describe_keys(name: str, usage: str) -> str:
    """The help of the command `name`: its own keys first, then those of every experiment.

    Args:
        name: of a file in configs/; `config` is a plain run.
    """
    schema: type[Any] = SCHEMAS.get(name, Config)
    defaults = OmegaConf.to_container(compose_config(name, []), resolve=False)
    assert isinstance(defaults, dict)
    shared = {f.name for f in fields(Config)} if issubclass(schema, Config) else set()
    parts = [f"usage: {usage}"]
    if schema is not Config:
        own = [f for f in fields(schema) if f.name not in shared]
        parts += [cleandoc(schema.__doc__ or ""), _section("Keys, with their defaults:", schema, own, defaults)]
    if shared:
        every = [f for f in fields(schema) if f.name in shared]
        parts.append(_section("Keys of every experiment, with their defaults:", schema, every, defaults))
    return "\n\n".join(parts)


def _section(title: str, schema: type[Any], own: list[Field[Any]], defaults: dict[Any, Any]) -> str:
    return "\n".join([title, *_lines(schema, own, defaults, "")])


def _lines(schema: type[Any], own: list[Field[Any]], defaults: dict[Any, Any], prefix: str) -> Iterator[str]:
    """Plain keys first, then each group of keys below its title."""
    hints = get_type_hints(schema)
    groups = [f for f in own if is_dataclass(hints[f.name])]
    for f in own:
        if f not in groups:
            yield _entry(f"{prefix}{f.name}={_value(defaults[f.name])}", f.metadata["help"])
    for f in groups:
        group = hints[f.name]
        title = textwrap.wrap(cleandoc(group.__doc__ or ""), _width() - 2)
        yield from ["", *textwrap.indent("\n".join(title), "  ").split("\n")]
        if not prefix and (files := sorted(path.stem for path in (config_dir() / f.name).glob("*.yaml"))):
            yield _entry(f"{f.name}={defaults[f.name]['name']}", f"one of {', '.join(files)}")
        yield from _lines(group, list(fields(group)), defaults[f.name], f"{prefix}{f.name}.")


def _entry(key: str, meaning: str) -> str:
    head = f"    {key}"
    wrapped = textwrap.wrap(meaning, _width() - INDENT)
    first = f"{head:<{INDENT}}" if len(head) < INDENT - 1 else f"{head}\n{' ' * INDENT}"
    return first + f"\n{' ' * INDENT}".join(wrapped)


def _width() -> int:
    return max(2 * INDENT, min(WIDEST, shutil.get_terminal_size((100, 24)).columns))


def _value(value: object) -> str:
    """Write a value as on the command line."""
    if isinstance(value, list):
        return "[...]" if value and isinstance(value[0], dict) else f"[{','.join(map(str, value))}]"
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    return str(value)
