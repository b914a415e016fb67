"""Per-layer tables of one cell: what collided, what it cost, how far the BatchNorm statistics moved."""

from dataclasses import replace
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from bnrecal.batchnorm.recalibrate import BY_BATCH, normalization
from bnrecal.data.selection import Selection
from bnrecal.experiment.networks import ThreadedNetwork
from bnrecal.experiment.setup import Experiment
from bnrecal.nbsmt.analysis.collisions import CollisionStatistics
from bnrecal.nbsmt.float_conv import forward
from bnrecal.quantization.convert import collect_collisions
from bnrecal.quantization.intercept import ConvCall, Handler, attach
from bnrecal.quantization.nbsmt_conv import NBSMTConv2d
from bnrecal.quantization.systolic import layer_cycles

IMAGES = 128  # calibration images behind the measured columns, unless the caller has a say


def describe_layers(
    experiment: Experiment, without: ThreadedNetwork, own: ThreadedNetwork, images: int = IMAGES
) -> pd.DataFrame:
    """One row per convolution, in calling order; measured columns come from the first `images` calibration images.

    Columns: name, input and output shape (CxHxW), kernel, groups, macs and cycles (one image), threads, reason,
    engine (what did the sums, and how its weights lie: dense channels and a sparse share),
    scale, range, weight_sparsity, activation_sparsity, steps (processing-element steps on all images),
    active_0..active_4 (share of steps with so many active threads), reduced_activations and reduced_weights
    (share of active operands that lost bits; empty for a custom policy), mse and relative_mse of the
    output against the exact 8-bit convolution of the same input, and input_range (mean over images of the largest
    input, as calibration measures the range), before (`_wo`) and after recalibration. All columns but those in `_wo`
    are those of the cell itself.
    """
    ranges_wo = input_ranges(experiment, without, images)
    ranges = input_ranges(experiment, own, images) if own.variant.recal else ranges_wo
    before = gather_collisions(experiment, without, images)
    after = gather_collisions(experiment, own, images) if own.variant.recal else before
    array = experiment.config.smt.array
    rows = []
    for plan in own.plans:
        info = plan.conv
        layer = own.layers.get(plan.name)
        rows.append(
            {
                "name": plan.name,
                "input": _shape(info.input_shape),
                "output": _shape(info.output_shape),
                "kernel": _shape(tuple(info.weight.shape[2:])),
                "groups": info.geometry.groups,
                "macs": info.macs,
                "cycles": layer_cycles(info, max(plan.threads, 1), array.rows, array.columns),
                "threads": plan.threads,
                "reason": plan.reason,
                "engine": layer.engine if layer else None,
                "scale": layer.input_scale if layer else None,
                "range": layer.range if layer else None,
                "input_range_wo": ranges_wo.get(plan.name),
                "input_range": ranges.get(plan.name),
                **(_measured(layer, before, after) if layer else {}),
            }
        )
    return pd.DataFrame(rows)


@torch.no_grad()
def gather_collisions(
    experiment: Experiment, prepared: ThreadedNetwork, images: int = IMAGES
) -> dict[str, CollisionStatistics]:
    """Collisions, exactly, in each unsigned layer over the first `images` calibration images."""
    batches = experiment.loader.images(_few(experiment, images), min(experiment.batch_size, images))
    return collect_collisions(prepared.network, batches)


def _few(experiment: Experiment, images: int) -> Selection:
    return replace(experiment.calibration, indices=experiment.calibration.indices[:images], label="layer collisions")


@torch.no_grad()
def input_ranges(experiment: Experiment, prepared: ThreadedNetwork, images: int = IMAGES) -> dict[str, float]:
    """Mean over images of each quantized layer's largest input, in magnitude, on the images of `gather_collisions`."""
    largest: dict[str, list[Tensor]] = {name: [] for name in prepared.layers}

    def watched(name: str, layer: NBSMTConv2d) -> Handler:
        def answer(call: ConvCall) -> Tensor:
            largest[name].append(call.x.abs().flatten(1).amax(1))
            return layer(call)

        return answer

    try:
        attach(prepared.network, {name: watched(name, layer) for name, layer in prepared.layers.items()})
        for batch in experiment.loader.images(_few(experiment, images), min(experiment.batch_size, images)):
            forward(prepared.network, batch)
    finally:
        attach(prepared.network, dict(prepared.layers))
    return {name: float(torch.cat(batches).mean()) for name, batches in largest.items() if batches}


def scaled_errors(layer: NBSMTConv2d, collisions: CollisionStatistics) -> tuple[float, float]:
    """Mean squared error in squared activation units, and relative to the mean square of the exact output."""
    scale = (layer.input_scale * layer.weight_scale.double().cpu()) ** 2
    error = float((collisions.squared_error * scale).sum())
    power = float((collisions.squared_output * scale).sum())
    return error / collisions.outputs, error / power if power else 0.0


def describe_batchnorms(trained: nn.Module, own: nn.Module) -> pd.DataFrame:
    """One row per BatchNorm layer: how far recalibration moved it.

    Columns: name, channels, mean_shift (root mean square over channels of the shift of the mean in units of the
    trained standard deviation), variance_ratio (geometric mean over channels of new variance / trained variance),
    status ("running": recalibration reaches it; "frozen": `track_running_stats` is off, and the statistics that it
    holds are kept; "batch": it holds none and normalises with those of each batch, and nothing can move).
    """
    modules = dict(own.named_modules(remove_duplicate=False))
    rows = []
    for name, layer in trained.named_modules():
        if not isinstance(layer, _BatchNorm):
            continue
        row = {"name": name, "channels": layer.num_features, "mean_shift": None, "variance_ratio": None}
        status = normalization(layer)
        if status != BY_BATCH:
            old = _buffers(layer)
            new = _buffers(modules[name])
            row["mean_shift"] = _mean_shift(old, new, layer.eps)
            row["variance_ratio"] = _variance_ratio(old[1], new[1], layer.eps)
        rows.append({**row, "status": status})
    return pd.DataFrame(rows)


def _buffers(layer: nn.Module) -> tuple[Tensor, Tensor]:
    assert isinstance(layer, _BatchNorm)
    assert layer.running_mean is not None
    assert layer.running_var is not None
    return layer.running_mean.double(), layer.running_var.double()


def _mean_shift(old: tuple[Tensor, Tensor], new: tuple[Tensor, Tensor], eps: float) -> float:
    return float(((new[0] - old[0]).square() / (old[1] + eps)).mean().sqrt())


def _variance_ratio(old: Tensor, new: Tensor, eps: float) -> float:
    return float(((new + eps) / (old + eps)).log().mean().exp())


def _measured(
    layer: NBSMTConv2d, before: dict[str, CollisionStatistics], after: dict[str, CollisionStatistics]
) -> dict[str, Any]:
    if layer.name not in after:  # signed inputs run one thread, where nothing collides
        return {}
    wo = scaled_errors(layer, before[layer.name])
    return {**measured_columns(layer, after[layer.name]), "mse_wo": wo[0], "relative_mse_wo": wo[1]}


def measured_columns(layer: NBSMTConv2d, collisions: CollisionStatistics) -> dict[str, Any]:
    """The columns of a layer that were counted: sparsity, active threads, lost bits, error (see `describe_layers`)."""
    shares = {f"active_{p}": count / collisions.steps for p, count in enumerate(collisions.steps_by_active)}
    mse, relative_mse = scaled_errors(layer, collisions)
    return {
        "weight_sparsity": collisions.zero_weight_share,
        "activation_sparsity": collisions.zero_activation_share,
        "steps": collisions.steps,
        **{f"active_{p}": shares.get(f"active_{p}", 0.0) for p in range(5)},
        "reduced_activations": _share(collisions.reduced_activations, collisions.active_operands),
        "reduced_weights": _share(collisions.reduced_weights, collisions.active_operands),
        "mse": mse,
        "relative_mse": relative_mse,
    }


def _share(count: int | None, operands: int) -> float | None:
    return None if count is None else count / max(operands, 1)


def _shape(sizes: tuple[int, ...]) -> str:
    return "x".join(map(str, sizes))
