"""Configs composed from `key=value` arguments, checked and typed."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Quote, QuotedString
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bnrecal.commands.cli.schemas import CommandConfig, register
from bnrecal.config import Config, parse
from bnrecal.errors import BnrecalError
from bnrecal.experiment.provenance import content_hash, settings_key

S = TypeVar("S", bound=CommandConfig)


def config_dir() -> Path:
    """The folder of YAML files: inside an installed wheel, or at the top of a checkout."""
    packaged = Path(__file__).parents[2] / "configs"
    return packaged if packaged.is_dir() else Path(__file__).parents[4] / "configs"


def register_all() -> None:
    """Make schemas and resolvers known to Hydra; safe to call again."""
    register()
    OmegaConf.register_new_resolver("bnrecal.cell", _cell_name, replace=True)


def parse_experiment(root: DictConfig) -> Config:
    """The checked settings of the experiment in a composed config that holds Hydra's own keys too.

    Raises:
        BnrecalError: naming the first value out of range.
        OmegaConfBaseException: for a value of another type.
    """
    typed = OmegaConf.merge(OmegaConf.structured(Config), _without_hydra(root))
    assert isinstance(typed, DictConfig)
    return parse(typed)


def _without_hydra(root: DictConfig) -> DictConfig:
    return OmegaConf.masked_copy(root, [str(key) for key in root if key != "hydra"])


def _cell_name(*, _root_: DictConfig) -> str:
    """A readable, unique folder name for the experiment that a composed config describes."""
    try:
        config = parse_experiment(_root_)
    except (BnrecalError, OmegaConfBaseException):  # the cell itself reports what is wrong
        return f"invalid-{content_hash(OmegaConf.to_container(_without_hydra(_root_), resolve=False))[:10]}"
    recal = "recal" if config.recal else "plain"
    return f"{config.model.name}-{config.data.name}-{config.smt.threads}T-{recal}-{settings_key(config)[:10]}"


def compose_config(name: str, overrides: Sequence[str]) -> DictConfig:
    """The composed config `configs/<name>.yaml` with overrides, as Hydra's command line would make it."""
    register_all()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        return compose(name, quoted_paths(overrides))


_PATH = re.compile(r"([+~]*(?:data\.root|model\.checkpoint|smt\.plan|p40|out|hydra\.\w+\.dir)=)(.*)", re.DOTALL)
_PLAIN = re.compile(r"[\w./~:@%+-]*", re.ASCII)


def quoted_paths(arguments: Sequence[str]) -> list[str]:
    """The arguments, paths quoted for Hydra's grammar, so that they may hold any character.

    What is in quotes already, an interpolation `${...}`, and (in a sweep) a list with commas stay as they are.
    """
    sweep = any(argument in ("-m", "--multirun") for argument in arguments)

    def quoted(argument: str) -> str:
        match = _PATH.fullmatch(argument)
        if match is None:
            return argument
        key, path = match.groups()
        if _PLAIN.fullmatch(path) or path[0] in "\"'" or "${" in path or (sweep and "," in path):
            return argument
        return key + QuotedString(path, Quote.single).with_quotes()

    return [quoted(argument) for argument in arguments]


def refuse(overrides: Sequence[str], command: str, keys: Sequence[str], why: str) -> None:
    """Raise BnrecalError at an argument that sets one of the keys, which the command itself decides."""
    for override in overrides:
        key = override.lstrip("+~").partition("=")[0]
        if key in keys or any(key.startswith(f"{one}.") for one in keys):
            raise BnrecalError(f"{override}: {command} {why}; leave it out")


def refuse_other_model(overrides: Sequence[str], command: str, measured: Sequence[str], where: str) -> None:
    """Raise BnrecalError at a `model=NAME`, which a command that measures a list of models would not look at."""
    for override in overrides:
        key, _, name = override.partition("=")
        if key == "model" and {name} != set(measured):
            raise BnrecalError(f"{override}: {command} measures {', '.join(measured)}; for another choice give {where}")


def read_config(schema: type[S], overrides: Sequence[str]) -> S:
    """The checked settings of a command.

    Raises:
        BnrecalError: naming the first value out of range, and what would do.
        HydraException, OmegaConfBaseException: for keys that there are not and values of another type.
    """
    config = OmegaConf.to_object(compose_config(schema.command, overrides))
    assert isinstance(config, schema)
    config.check()
    return config
