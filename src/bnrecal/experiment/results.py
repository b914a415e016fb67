"""Results of an experiment, returned and written: `result.json`, `layers.csv`, `batchnorm.csv`, a checkpoint."""

import json
from dataclasses import dataclass, field, fields
from io import BytesIO
from pathlib import Path
from typing import Any, cast

import pandas as pd
import torch
from torch import Tensor

from bnrecal.display import preformatted
from bnrecal.errors import BnrecalError
from bnrecal.evaluation.accuracy import Correctness, percent, standard_error
from bnrecal.evaluation.recovered import Recovered, recovered_share
from bnrecal.evaluation.significance import mcnemar
from bnrecal.experiment.records import Accuracies, ExceptionRecord, ProvenanceRecord, ResultRecord
from bnrecal.files import atomic_path
from bnrecal.options import POLICIES

RESULT_FILE = "result.json"
LAYERS_FILE = "layers.csv"
BATCHNORM_FILE = "batchnorm.csv"
CHECKPOINT_FILE = "checkpoint.pth"


@dataclass(frozen=True)
class Details:
    """Details beside a `result.json`: per-layer tables, and the float state_dict with the new statistics."""

    layers: pd.DataFrame | None
    batchnorm: pd.DataFrame | None
    state_dict: dict[str, Tensor] | None


@dataclass(frozen=True)
class Result:
    """One cell. Accuracies in percent of `images`, differences in percentage points.

    Attributes:
        threads: of the layers that are not named in `exceptions`.
        top1_wo_recal: the same network without recalibration (equal to `top1` where `recal` is false).
        stderr: binomial standard error of `top1`.
        drop: fp32_top1 - top1.
        gain: top1 - top1_wo_recal.
        gain_p: two-sided exact McNemar p-value of the gain; None without recalibration.
        control_gain: what recalibration gains the plain A8W8 network, without NB-SMT; None without recalibration.
        loss_p: two-sided exact McNemar p-value of the loss to A8W8 without recalibration.
        recovered: share of the loss to A8W8 that recalibration takes back, net of the control:
            (gain - control_gain) / (a8w8_top1 - top1_wo_recal); None where it is not known well enough.
            recovered_low and recovered_high are the ends of its 95 % confidence interval; None where the loss is not
            significant (`evaluation.recovered.recovered_share`). None without recalibration.
        restricted_top1: top-1 among only the classes that the data set has, where those are fewer.
        skipped: unreadable images, in none of the figures.
        speedup: sum(MACs) / sum(MACs / threads), all convolutions but the first.
        cycles: of the systolic array, for one image, all convolutions but the first.
        cycle_speedup: how many times fewer these are than with one thread everywhere.
        exceptions: why a convolution does not run `threads` threads, by name, in words.
        layer_exceptions: the same, for programs.
        seconds: for the call that measured this cell, its siblings and baselines together.
    """

    model: str
    data: str
    threads: int
    policy: str
    recal: bool
    images: int
    top1: float
    top5: float
    stderr: float
    fp32_top1: float
    fp32_top5: float
    a8w8_top1: float
    a8w8_top5: float
    drop: float
    top1_wo_recal: float
    gain: float
    gain_p: float | None
    control_gain: float | None
    loss_p: float
    recovered: float | None
    recovered_low: float | None
    recovered_high: float | None
    restricted_top1: float | None
    skipped: int
    speedup: float
    cycles: int
    cycle_speedup: float
    seed: int
    exceptions: dict[str, str]
    layer_exceptions: dict[str, ExceptionRecord]
    provenance: ProvenanceRecord
    seconds: float
    outcome: Correctness | None = field(default=None, repr=False, compare=False)
    fp32_outcome: Correctness | None = field(default=None, repr=False, compare=False)
    layers: pd.DataFrame | None = field(default=None, repr=False, compare=False)
    batchnorm: pd.DataFrame | None = field(default=None, repr=False, compare=False)
    state_dict: dict[str, Tensor] | None = field(default=None, repr=False, compare=False)

    def _repr_html_(self) -> str:
        """Return the summary, which a notebook shows in the place of all fields."""
        return preformatted(summary(self.to_json()))

    def to_json(self) -> ResultRecord:
        """The scalar fields and the provenance."""
        kept = [f.name for f in fields(self) if f.name in ResultRecord.__annotations__]
        return cast(ResultRecord, {name: getattr(self, name) for name in kept})


def accuracies(
    outcome: Correctness, without: Correctness, fp32: Correctness, a8w8: Correctness, control: Correctness | None
) -> Accuracies:
    """The measured fields of a `Result`.

    Args:
        control: of the recalibrated A8W8 network; None for a cell without recalibration.
    """
    top1 = percent(outcome.top1)
    top1_wo = percent(without.top1)
    fp32_top1 = percent(fp32.top1)
    control_gain = percent(control.top1) - percent(a8w8.top1) if control else None
    recovered = None
    if control:
        recovered = recovered_share([a8w8.top1], [control.top1], [without.top1], [outcome.top1])
    return {
        "images": outcome.images,
        "top1": top1,
        "top5": percent(outcome.top5),
        "stderr": standard_error(outcome.top1),
        "fp32_top1": fp32_top1,
        "fp32_top5": percent(fp32.top5),
        "a8w8_top1": percent(a8w8.top1),
        "a8w8_top5": percent(a8w8.top5),
        "drop": fp32_top1 - top1,
        "top1_wo_recal": top1_wo,
        "gain": top1 - top1_wo,
        "gain_p": mcnemar(without.top1, outcome.top1) if control else None,
        "control_gain": control_gain,
        "loss_p": mcnemar(a8w8.top1, without.top1),
        "recovered": recovered.share if recovered else None,
        "recovered_low": recovered.low if recovered else None,
        "recovered_high": recovered.high if recovered else None,
        "restricted_top1": percent(outcome.restricted) if outcome.restricted is not None else None,
        "skipped": outcome.skipped,
    }


def _share_line(share: float | None, low: float | None, high: float | None) -> list[str]:
    """The line of `summary` about the share recovered; none where the loss is not significant."""
    if low is None or high is None:
        return []
    ends = Recovered(None, low, high).in_percent()
    if share is None:
        return [f"  net of that, {ends} of the loss to A8W8 is recovered (95 % confidence)"]
    return [f"  net of that, {100 * share:.0f} % of the loss to A8W8 is recovered (95 % confidence: {ends})"]


def write_result(result: Result, folder: Path, *, checkpoint: bool = False) -> Path:
    """Write everything a result holds into `folder`: the numbers first, then what can be made again from them.

    Returns:
        The path of `result.json`.

    Raises:
        BnrecalError: if something cannot be written; what was written before is kept.
    """
    target = folder / RESULT_FILE
    for name in (LAYERS_FILE, BATCHNORM_FILE, CHECKPOINT_FILE):
        (folder / name).unlink(missing_ok=True)  # of another experiment, which this folder held before
    with atomic_path(target) as path:
        path.write_text(json.dumps(result.to_json(), indent=2, default=str) + "\n")
    write_details(result, folder, checkpoint=checkpoint)
    return target


def write_details(result: Result | Details, folder: Path, *, checkpoint: bool = False) -> None:
    """Write the tables that there are, and with `checkpoint` its state_dict."""
    for name, table in ((LAYERS_FILE, result.layers), (BATCHNORM_FILE, result.batchnorm)):
        if table is not None:
            with atomic_path(folder / name) as path:
                table.to_csv(path, index=False)
    if checkpoint and result.state_dict is not None:
        buffer = BytesIO()  # torch's own writer reports a full disk in words of its own
        torch.save(result.state_dict, buffer)
        with atomic_path(folder / CHECKPOINT_FILE) as path:
            path.write_bytes(buffer.getbuffer())


def missing_details(folder: Path, *, checkpoint: bool) -> list[str]:
    """Files that belong beside a `result.json` and are not there."""
    names = [LAYERS_FILE, BATCHNORM_FILE, *([CHECKPOINT_FILE] if checkpoint else [])]
    return [name for name in names if not (folder / name).exists()]


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise BnrecalError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise BnrecalError(f"{path} holds no JSON object")
    return content


def read_result(path: Path) -> ResultRecord:
    """The record in a `result.json`."""
    content = read_json(path)
    if not {"top1", "provenance"} <= content.keys():
        raise BnrecalError(f"{path} is not a result of bnrecal: it has no top1 or no provenance")
    return cast(ResultRecord, content)


def summary(result: ResultRecord, where: Path | None = None) -> str:
    """A few lines for people; `where` is the file that holds the result, if it was written."""
    images, stderr = result["images"], result["stderr"]
    recal = "with" if result["recal"] else "without"
    policy = f" by policy {result['policy']}" if result["policy"] not in POLICIES else ""
    how = f"{result['threads']} threads{policy} {recal} recalibration"
    lines = [
        f"{result['model']} on {result['data']}, {how}, {images} images",
        f"  top-1      {result['top1']:6.2f} % ± {stderr:.2f}   (top-5 {result['top5']:.2f} %)",
        f"  float32    {result['fp32_top1']:6.2f} %   drop {result['drop']:+.2f} points",
        f"  A8W8       {result['a8w8_top1']:6.2f} %   drop {result['a8w8_top1'] - result['top1']:+.2f} points",
    ]
    if result["recal"]:
        lines.append(
            f"  w/o recal  {result['top1_wo_recal']:6.2f} %   gain {result['gain']:+.2f} points "
            f"(McNemar p = {result['gain_p']:.2g}); A8W8 itself gains {result['control_gain']:+.2f}"
        )
        lines += _share_line(result["recovered"], result["recovered_low"], result["recovered_high"])
    if result["restricted_top1"] is not None:
        lines.append(f"  top-1 among the data set's own classes: {result['restricted_top1']:.2f} %")
    if result["skipped"]:
        lines.append(f"  {result['skipped']} unreadable images were skipped")
    lines.append(
        f"  speedup    {result['speedup']:6.2f} x by products, {result['cycle_speedup']:.2f} x by array cycles "
        f"({result['cycles']:,} per image)"
    )
    lines.append(f"  sums by {result['provenance']['engine']}, {result['provenance']['device']}")
    lines.append(f"  weights {result['provenance']['weights']}")
    lines += _exceptions(result)
    if where is not None:
        lines.append(f"  written to {where}")
    return "\n".join(lines)


def _exceptions(result: ResultRecord) -> list[str]:
    by_reason: dict[str, list[str]] = {}
    for name, reason in result["exceptions"].items():
        by_reason.setdefault(reason, []).append(name)
    lines = []
    for reason, names in by_reason.items():
        more = f" and {len(names) - 4} more (layers.csv)" if len(names) > 5 else ""
        shown = names if len(names) <= 5 else names[:4]
        lines.append(f"  {reason}: {', '.join(shown)}{more}")
    return lines
