"""Threads of every convolution, and the speedup that they give."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from torch import nn

from bnrecal.errors import BnrecalError, some_of
from bnrecal.options import THREADS
from bnrecal.quantization.calibrate import ConvInfo

FLOAT = 0  # threads of a convolution that is not quantized at all


class ExceptionKind(StrEnum):
    """Reasons for which a convolution does not follow `smt.threads`."""

    FIRST = "first convolution"
    SKIPPED = "quant.skip"
    NEGATIVE = "negative inputs"
    DEPTHWISE = "depthwise"
    SET = "smt.layers"  # or smt.plan


@dataclass(frozen=True)
class LayerPlan:
    """The way in which one convolution is computed.

    Attributes:
        conv: what calibration saw of it.
        threads: 1, 2 or 4; FLOAT for float32.
        signed: its input is quantized symmetric signed (possible with one thread only).
        exception: why it does not follow `smt.threads`; None where it does.
    """

    conv: ConvInfo
    threads: int
    signed: bool
    exception: ExceptionKind | None = None

    @property
    def name(self) -> str:
        return self.conv.name

    @property
    def reason(self) -> str:
        """The exception and its consequence in words, for the log and `layers.csv`; empty without one."""
        if self.exception is None:
            return ""
        if self.threads == FLOAT:
            return f"{self.exception.value}: float32"
        signed = "signed, " if self.signed else ""
        return f"{self.exception.value}: {signed}{self.threads} thread{'s' if self.threads > 1 else ''}"


def matches_any(name: str, patterns: Sequence[str]) -> bool:
    """Return whether an exact name or a glob among `patterns` matches."""
    return any(name == pattern or fnmatchcase(name, pattern) for pattern in patterns)


def plan_threads(
    convs: Sequence[ConvInfo], threads: int, wanted: dict[str, int], skip: Sequence[str] = ()
) -> list[LayerPlan]:
    """The plan of every convolution that calibration saw.

    The first convolution and those in `skip` stay float32; depthwise ones and those with negative inputs run one
    thread; the rest `threads`, unless `wanted` says otherwise: an exact name wins over globs, the last glob over
    the ones before it.

    Raises:
        BnrecalError: for a name or glob that matches no convolution, or a layer that was asked by its exact name
            to run threads it cannot run.
    """
    check_names("smt.layers", wanted, convs, lambda conv: conv.order > 0 and not matches_any(conv.name, skip))
    return [_plan_layer(info, threads, wanted, skip) for info in convs]


def check_names(
    key: str, patterns: Iterable[str], convs: Sequence[ConvInfo], counts: Callable[[ConvInfo], bool]
) -> None:
    """Raise BnrecalError, naming it, at a name or glob that no convolution matches for which `counts` says yes."""
    names = [conv.name for conv in convs if counts(conv)]
    for pattern in patterns:
        if any(matches_any(name, [pattern]) for name in names):
            continue
        why = "matches no quantized convolution"
        if any(matches_any(conv.name, [pattern]) for conv in convs):
            why = "matches only convolutions that stay float32"
        raise BnrecalError(f"{key} names {pattern}, which {why}: choose among {some_of(names, 6)}")


def check_skipped(key: str, skip: Sequence[str], network: nn.Module, convs: Sequence[ConvInfo]) -> None:
    """Raise BnrecalError, naming it, at a name or glob that keeps no convolution in float32 besides the first."""
    weights = {name.removesuffix(".weight") for name, p in network.named_parameters() if p.dim() > 2}
    strays = weights - {conv.name for conv in convs}  # convolutions that are no module of their own
    patterns = []
    for pattern in skip:
        if not any(matches_any(name, [pattern]) for name in strays):
            patterns.append(pattern)
    check_names(key, patterns, convs, lambda conv: conv.order > 0)


def _plan_layer(info: ConvInfo, threads: int, wanted: dict[str, int], skip: Sequence[str]) -> LayerPlan:
    if info.order == 0:
        return LayerPlan(info, FLOAT, False, ExceptionKind.FIRST)
    if matches_any(info.name, skip):
        return LayerPlan(info, FLOAT, False, ExceptionKind.SKIPPED)
    single = _single_thread(info)
    chosen = wanted.get(info.name)
    if chosen is None:
        chosen = next((t for pattern, t in reversed(wanted.items()) if matches_any(info.name, [pattern])), None)
    elif chosen > 1 and single:
        raise BnrecalError(
            f"smt.layers asks {chosen} threads of {info.name}, which cannot ({single.reason}): give it 1"
        )
    if single:
        return single
    if chosen is not None and chosen != threads:
        return LayerPlan(info, chosen, False, ExceptionKind.SET)
    return LayerPlan(info, threads, False)


def _single_thread(o: ConvInfo) -> LayerPlan | None:
    """The plan of a convolution that can run one thread only; None of others."""
    if o.negative:
        return LayerPlan(o, 1, True, ExceptionKind.NEGATIVE)
    return LayerPlan(o, 1, False, ExceptionKind.DEPTHWISE) if o.depthwise else None


def load_plan(path: Path) -> dict[str, int]:
    """Threads by layer name from a JSON plan file: `{"layers": {name: threads, ...}, ...}`.

    Raises:
        BnrecalError: if the file is missing, no such plan, or asks for threads other than 1, 2, 4.
    """
    try:
        plan: dict[str, Any] = dict(json.loads(path.read_text())["layers"].items())
    except OSError as error:
        raise BnrecalError(f"cannot read the plan {path} ({error.strerror})") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BnrecalError(f'{path} is not a plan: it must hold {{"layers": {{name: threads}}}}') from error
    for name, threads in plan.items():
        if type(threads) is not int or threads not in THREADS:  # True, 2.0 and 1e999 are not what was meant
            raise BnrecalError(f"the plan {path} gives {name} {threads} threads: choose 1, 2 or 4")
    return plan


def threads_by_layer(plan: str | None, layers: Mapping[str, int]) -> dict[str, int]:
    """Return the threads that a plan file and `layers` ask of layers; `layers` wins."""
    return {**(load_plan(Path(plan).expanduser()) if plan else {}), **layers}


def speedup(work: Iterable[tuple[int, int]]) -> float:
    """sum(MACs) / sum(MACs / threads) over (MACs, threads) pairs; 1 without work."""
    pairs = list(work)
    total = sum(macs for macs, _ in pairs)
    return total / sum(macs / threads for macs, threads in pairs) if total else 1.0


def plan_speedup(plans: Sequence[LayerPlan]) -> float:
    """`speedup` of all convolutions but the first; one kept in float32 by `quant.skip` counts as one thread."""
    return speedup((plan.conv.macs, max(plan.threads, 1)) for plan in plans if plan.conv.order > 0)
