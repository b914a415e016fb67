"""What every command shares: configs composed from `key=value` arguments, and errors told in one line."""

import difflib
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from bnrecal.commands.interrupt import ctrl_c_noted
from bnrecal.commands.schemas import CommandConfig, register
from bnrecal.config import Config, parse
from bnrecal.errors import BnrecalError
from bnrecal.experiment.provenance import cell_key, content_hash

J = TypeVar("J")
S = TypeVar("S", bound=CommandConfig)
FULL_ERROR = "HYDRA_FULL_ERROR"  # set by someone who wants the traceback of an error
_ONE_LINE = "BNRECAL_ONE_LINE"  # says that FULL_ERROR was set by `pass_errors_through`, here or in the parent process


def config_dir() -> Path:
    """The folder of YAML files: inside an installed wheel, or at the top of a checkout."""
    packaged = Path(__file__).parents[1] / "configs"
    return packaged if packaged.is_dir() else Path(__file__).parents[3] / "configs"


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
    except (BnrecalError, OmegaConfBaseException):  # the job itself tells what is wrong
        return f"invalid-{content_hash(OmegaConf.to_container(_without_hydra(_root_), resolve=False))[:10]}"
    recal = "recal" if config.recal else "plain"
    return f"{config.model.name}-{config.data.name}-{config.smt.threads}T-{recal}-{cell_key(config)[:10]}"


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
        found = _PATH.fullmatch(argument)
        if found is None:
            return argument
        key, path = found.groups()
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


def one_line(error: Exception) -> str:
    """The message of an error without line breaks, hints at Hydra's internals or full-key footers."""
    if isinstance(error, OverrideParseException):
        return f"cannot read the argument {error.override}: write key=value, with quotes around special characters"
    if unknown := _unknown_key(error.__cause__):
        return unknown
    parts = [_first_paragraphs(str(error))]
    if error.__cause__ is not None and not isinstance(error, BnrecalError):
        parts.append(_first_paragraphs(str(error.__cause__)))
    return ": ".join(part for part in parts if part)


def _unknown_key(cause: BaseException | None) -> str | None:
    """What to say where a key is set that there is not; None of any other error."""
    if not isinstance(cause, (ConfigAttributeError, ConfigKeyError)) or not isinstance(cause.parent_node, DictConfig):
        return None
    own, path = str(cause.key), str(cause.full_key)
    known = [str(key) for key in cause.parent_node if key != "hydra"]
    if not known:  # a mapping, whose keys are the user's
        return f"there is no key {path}: write {path.rpartition('.')[0]}={{{own}: VALUE}}"
    deeper = [f"{group}.{own}" for group in known if own in _keys_below(cause.parent_node, group)]
    if deeper:
        return f"there is no key {path}: did you mean {' or '.join(deeper)}?"
    return f"there is no key {path}: {choices(own, known)}"


def _keys_below(parent: DictConfig, group: str) -> list[str]:
    """The keys of a group of settings; none of a key that is no group."""
    node = parent._get_node(group)
    is_group = isinstance(node, DictConfig) and not node._is_none() and not node._is_missing()
    return [str(key) for key in node] if is_group and isinstance(node, DictConfig) else []


def choices(word: str, known: Sequence[str]) -> str:
    """What to choose instead of a wrong word: first the one that begins with it, else the nearest, if there is one."""
    near = [one for one in known if one.startswith(word)] or difflib.get_close_matches(word, known, 1)
    guess = f"did you mean {near[0]}? " if near else ""
    return f"{guess}choose one of {', '.join(known)}"


def _first_paragraphs(message: str) -> str:
    for footer in ("Config search path", "full_key:", "To append to your config", "See https://"):
        message = message.split(footer)[0]
    return " ".join(message.split())


def tracebacks_wanted() -> bool:
    """Whether the user set HYDRA_FULL_ERROR=1."""
    return os.environ.get(FULL_ERROR, "0") not in ("", "0") and _ONE_LINE not in os.environ


def pass_errors_through() -> None:
    """Let Hydra pass exceptions on, for `one_line_errors` to word, instead of wording them itself."""
    if not tracebacks_wanted():
        os.environ[_ONE_LINE] = os.environ[FULL_ERROR] = "1"


def describe_error(error: BaseException) -> tuple[str, bool]:
    """One line about an exception, and whether it is of a kind that a user can mend without a traceback."""
    if isinstance(error, (BnrecalError, HydraException, OmegaConfBaseException)):
        return one_line(error), True
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror, True
    return f"{type(error).__name__}: {' '.join(str(error).split())}".rstrip(": "), False


@contextmanager
def one_line_errors() -> Iterator[None]:
    """End the process with one line on stderr for anything the user can mend; Ctrl-C ends it with status 130.

    With HYDRA_FULL_ERROR=1 in the environment the exception passes instead.
    """
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it has much to say about a home that is read-only
    logging.raiseExceptions = False  # a log line that nobody can read any more is no reason for a traceback
    if tracebacks_wanted():
        yield
        return
    try:
        with ctrl_c_noted():
            yield
            sys.stdout.flush()
    except (BnrecalError, HydraException, OmegaConfBaseException) as error:
        sys.exit(f"bnrecal: {one_line(error)}")
    except OSError as error:
        _forget_stdout()
        if isinstance(error, BrokenPipeError):
            sys.exit("bnrecal: nobody reads the output any more; what was finished is kept")
        sys.exit(f"bnrecal: {describe_error(error)[0]}")
    except KeyboardInterrupt:
        sys.stderr.write("bnrecal: interrupted; what was finished is kept\n")
        sys.exit(130)


def _forget_stdout() -> None:
    """Send what is still buffered nowhere: Python would try to write it once more at the end, and complain."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def on_all_processes(gpus: int, work: Callable[[], J]) -> J | None:
    """work(), with the help of the processes that torchrun or Slurm started beside this one; None on these."""
    if gpus == 1 and os.environ.get("WORLD_SIZE", "1") == "1":
        return work()
    from bnrecal.evaluation.process_group import share  # (imports torch)

    return share(gpus, work)


def raise_failed(failed: Sequence[str], jobs: int, units: str) -> None:
    """Raise BnrecalError if anything failed."""
    if failed:
        raise BnrecalError(f"{len(failed)} of {jobs} {units} failed: {'; '.join(failed)}")
