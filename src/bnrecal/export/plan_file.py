"""`plan.json`: how every convolution runs, and how long it takes on the array; written, and read back."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import ceil
from pathlib import Path
from typing import Any

from bnrecal.config import ArrayConfig
from bnrecal.export.fold import Folding
from bnrecal.nbsmt.geometry import Geometry
from bnrecal.nbsmt.spec import SmtSpec
from bnrecal.quantization.layer_plan import FLOAT, LayerPlan, plan_speedup
from bnrecal.quantization.systolic import cycle_speedup, layer_cycles, network_cycles


@dataclass(frozen=True)
class PlannedConv:
    """One convolution as `plan.json` describes it.

    Attributes:
        spec: the machine with the threads of this layer; None for a float32 convolution.
        signed: whether its input levels are int8.
        batchnorm: the BatchNorm that was folded into it.
    """

    name: str
    spec: SmtSpec | None
    signed: bool
    batchnorm: str | None
    geometry: Geometry


@dataclass(frozen=True)
class PlanFile:
    """The part of a `plan.json` that the folded network needs: convolutions, and BatchNorm layers that stay."""

    convs: list[PlannedConv]
    batchnorm_kept: list[str]


def read_plan(path: Path) -> PlanFile:
    """Read a file that `plan_content` filled."""
    content = json.loads(path.read_text())
    machine = {key: value for key, value in content["machine"].items() if key != "array"}
    return PlanFile([_read_conv(layer, machine) for layer in content["layers"]], list(content["batchnorm_kept"]))


def _read_conv(layer: dict[str, Any], machine: dict[str, Any]) -> PlannedConv:
    return PlannedConv(
        layer["name"],
        None if layer["arithmetic"] == "float32" else SmtSpec(threads=layer["threads"], **machine),
        layer["arithmetic"] == "int8",
        layer["batchnorm"],
        Geometry(
            tuple(layer["stride"]),
            tuple(layer["padding"]),
            tuple(layer["dilation"]),
            layer["groups"],
        ),
    )


def plan_content(
    plans: Sequence[LayerPlan], folding: Folding, spec: SmtSpec, array: ArrayConfig, vectors: dict[str, str]
) -> dict[str, Any]:
    """The content of `plan.json`; docs/hardware.md tells every field.

    Args:
        vectors: folder of the golden vectors by layer name.
    """
    machine = {key: value for key, value in asdict(spec).items() if key != "threads"}
    return {
        "machine": {**machine, "array": asdict(array)},
        "speedup": plan_speedup(plans),
        "cycles": network_cycles(plans, array.rows, array.columns),
        "cycle_speedup": cycle_speedup(plans, array.rows, array.columns),
        "layers": [_layer(plan, folding, array, vectors.get(plan.name)) for plan in plans],
        "batchnorm_kept": folding.kept,
    }


def _layer(plan: LayerPlan, folding: Folding, array: ArrayConfig, vectors: str | None) -> dict[str, Any]:
    conv = plan.conv
    threads = max(plan.threads, 1)
    m = conv.output_shape[1] * conv.output_shape[2]
    k = conv.weight[0].numel()
    n = conv.weight.shape[0] // conv.geometry.groups
    return {
        "name": plan.name,
        "arithmetic": "float32" if plan.threads == FLOAT else "int8" if plan.signed else "uint8",
        "threads": plan.threads,
        "reason": plan.reason,
        "batchnorm": folding.into.get(plan.name),
        "input": conv.input_shape,
        "output": conv.output_shape,
        "kernel": tuple(conv.weight.shape[2:]),
        "stride": conv.geometry.stride,
        "padding": conv.geometry.padding,
        "dilation": conv.geometry.dilation,
        "groups": conv.geometry.groups,
        "calls": conv.calls,
        "gemm": {"m": m, "k": k, "n": n},
        "steps": ceil(k / threads),
        "tiles": {"rows": ceil(m / array.rows), "columns": ceil(n / array.columns)},
        "cycles": layer_cycles(conv, threads, array.rows, array.columns),
        "vectors": vectors,
    }
