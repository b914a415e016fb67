"""The package from Python, with your own network and your own batches: `import bnrecal`, no Hydra, no data set classes.

Batches are whatever a DataLoader gives: float32 images (N, 3, H, W), tuples that begin with them and the labels, or
Hugging Face's mappings of `pixel_values` and `labels`; they are moved to the network's device. A compiled network is
taken as what it was compiled from. Every function returns its networks in the modes (training or eval) that it found
them in.

A GPU is compared with the reference of the arithmetic at its first use. These functions compute true float32 on it,
without TF32, whatever torch is set to; the settings are as before when they return.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from bnrecal.batch_forms import Batch, images_of, labelled
from bnrecal.batchnorm import recalibrate as recalibration
from bnrecal.config import Config, complete
from bnrecal.device import tf32
from bnrecal.display import LayerTable, facts_table
from bnrecal.errors import BnrecalError
from bnrecal.evaluation.accuracy import Correctness, percent, standard_error
from bnrecal.evaluation.accuracy import evaluate as judge
from bnrecal.evaluation.significance import Difference, change
from bnrecal.experiment.layer_report import measured_columns
from bnrecal.experiment.results import Result
from bnrecal.experiment.run import run as run_experiment
from bnrecal.nbsmt.analysis.self_check import check_exact_once
from bnrecal.nbsmt.policies.custom import check_policy
from bnrecal.nbsmt.prepared_conv import nbsmt_conv2d
from bnrecal.nbsmt.spec import SmtSpec
from bnrecal.network_forms import other_precisions, unwrapped
from bnrecal.options import ACT_RANGES, THREADS
from bnrecal.quantization.calibrate import calibrate
from bnrecal.quantization.convert import (
    collect_collisions,
    compare_weights,
    quantize_layers,
    threaded_copy,
    threaded_layers,
)
from bnrecal.quantization.layer_plan import check_skipped, matches_any, plan_threads

__all__ = ["Score", "evaluate", "layer_table", "nbsmt_conv2d", "quantize", "recalibrate_", "run"]


@dataclass(frozen=True)
class Score:
    """The score of one network on the images of `evaluate`.

    Attributes:
        outcome: which images it got right, in their order.

    Examples:
        >>> import bnrecal, torch
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> batches = [(torch.rand(50, 3, 8, 8), torch.randint(4, (50,))) for _ in range(2)]
        >>> score = bnrecal.evaluate({"float32": model}, batches)["float32"]
        >>> score
        Score(top1=..., stderr=..., images=100)
        >>> 0 <= score.top1 <= score.top5 == 100.0  # of four classes, all are among the five highest
        True
    """

    outcome: Correctness

    @property
    def top1(self) -> float:
        """Top-1 accuracy in percent."""
        return percent(self.outcome.top1)

    @property
    def top5(self) -> float:
        """Top-5 accuracy in percent."""
        return percent(self.outcome.top5)

    @property
    def stderr(self) -> float:
        """Binomial standard error of `top1`, in percentage points."""
        return standard_error(self.outcome.top1)

    @property
    def images(self) -> int:
        """The number of images that were classified."""
        return self.outcome.images

    def gain_over(self, other: "Score") -> Difference:
        """By how many points this network is better than another on the same images.

        Returns:
            `points` and `stderr` in percentage points, and `p`, the p-value of McNemar's exact test.

        Raises:
            BnrecalError: if the other saw another number of images.

        Examples:
            >>> import bnrecal, torch
            >>> from torch import nn
            >>> highest, lowest = nn.Flatten(), nn.Sequential(nn.Flatten(), nn.Softmin(1))  # pixel is the answer
            >>> images = torch.tensor([3.0, 2.0, 1.0]).view(1, 3, 1, 1).expand(6, 3, 1, 1)
            >>> labels = torch.tensor([0, 0, 0, 0, 0, 1])
            >>> scores = bnrecal.evaluate({"right": highest, "wrong": lowest}, [(images, labels)])
            >>> gain = scores["right"].gain_over(scores["wrong"])
            >>> round(gain.points, 2), round(gain.p, 4)  # five images turned right, none wrong: 2 / 2^5
            (83.33, 0.0625)
        """
        if self.images != other.images:
            raise BnrecalError(f"{self.images} and {other.images} images cannot be compared: evaluate both in one call")
        return change([other.outcome.top1], [self.outcome.top1])

    def __repr__(self) -> str:
        return f"Score(top1={self.top1:.2f}, stderr={self.stderr:.2f}, images={self.images})"

    def _repr_html_(self) -> str:
        """Return the table that a notebook shows."""
        facts = {
            "top-1": f"{self.top1:.2f} % ± {self.stderr:.2f}",
            "top-5": f"{self.top5:.2f} %",
            "images": f"{self.images:,}",
        }
        return facts_table(facts)


def quantize(
    model: nn.Module,
    batches: Iterable[Batch],
    spec: SmtSpec,
    *,
    skip: Sequence[str] = (),
    layers: Mapping[str, int] | None = None,
    act_range: str = "mean_max",
) -> nn.Module:
    """A copy of the network whose convolutions compute in 8 bits, with NB-SMT threads.

    The first convolution and linear layers stay float32; depthwise convolutions, and inputs that go below zero, run
    one thread. `print` of the copy says what each convolution does. Parameters are shared with the original, buffers
    are the copy's own, and its `state_dict()` has the names and shapes of the original's. It loads such a state_dict
    for the BatchNorm statistics in it; one with other parameters is refused, for they are quantized already.

    Args:
        model: any network with `nn.Conv2d` layers (subclasses too); unchanged.
        batches: training images for the ranges of the activations; some 2,048 images are usual.
        spec: threads, and what happens when they collide.
        skip: convolutions (names or globs) that stay float32.
        layers: threads of single convolutions by name or glob, over `spec.threads`.
        act_range: "mean_max" (mean over the images of each image's maximum) or "max" (over all images).

    Raises:
        BnrecalError: for a model that is quantized already, a convolution that cannot be, a name that matches none,
            no images, or inputs that are not finite.

    Examples:
        >>> import bnrecal, torch
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.Flatten())
        >>> q = bnrecal.quantize(model, [torch.rand(64, 3, 5, 5)], bnrecal.SmtSpec(threads=4))
        >>> q[3]
        Conv2d(8, 4, kernel_size=(3, 3), stride=(1, 1), 8-bit, threads=4, policy=A, scale=...)
        >>> q[0]  # the first convolution stays float32
        Conv2d(3, 8, kernel_size=(3, 3), stride=(1, 1))
    """
    model = _usable(model)
    if threaded_layers(model):
        raise BnrecalError("the model is quantized already: quantize the float32 model it was made from")
    check_policy(spec.policy)
    recalibration.warn_of_others(model)
    if act_range not in ACT_RANGES:
        raise BnrecalError(f"act_range={act_range}: choose one of {', '.join(ACT_RANGES)}")
    for name, threads in (layers or {}).items():
        if threads not in THREADS:
            raise BnrecalError(f"layers[{name}]={threads}: choose one of {', '.join(map(str, THREADS))}")
    _check_gpu(model)
    with recalibration.eval_mode(model), tf32(False):
        seen = calibrate(model, images_of(batches, _device(model)), keep_float=lambda name: matches_any(name, skip))
    check_skipped("skip", skip, model, seen)
    plans = plan_threads(seen, spec.threads, dict(layers or {}), skip)
    return threaded_copy(model, quantize_layers(plans, spec, act_range)).eval()


def recalibrate_(
    model: nn.Module, batches: Iterable[Batch], *, method: str = "ema", momentum: float = 0.1
) -> nn.Module:
    """Re-estimate the running mean and variance of every BatchNorm layer, in place; nothing else changes.

    Args:
        model: usually what `quantize` returned.
        batches: training images; 16 batches of 128 are usual.
        method: "ema" (moving average from the trained statistics), "cumulative" or "pooled" (from these images alone).
        momentum: for "ema", the weight of a new batch, above 0 and up to 1.

    Returns:
        The model.

    Raises:
        BnrecalError: for an unknown method, a momentum out of range, a network without BatchNorm statistics, no images,
            a batch with a single value per channel or with NaN or infinity, or weights that changed since they were
            quantized. The statistics are then as they were before.

    Examples:
        >>> import bnrecal, torch
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.Flatten())
        >>> images = torch.rand(64, 3, 5, 5)
        >>> q = bnrecal.quantize(model, [images], bnrecal.SmtSpec(threads=4))
        >>> bnrecal.recalibrate_(q, images.split(16), method="pooled") is q
        True
        >>> q[1].running_mean.equal(model[1].running_mean)  # the copy's statistics are its own
        False
        >>> q[1].weight is model[1].weight
        True
    """
    if not 0 < momentum <= 1:
        raise BnrecalError(f"momentum={momentum}: choose a number above 0 and up to 1")
    network = _usable(model)
    _check_gpu(network)
    compare_weights(network)
    with tf32(False):
        recalibration.recalibrate_(network, images_of(batches, _device(network)), method=method, momentum=momentum)
    return model


@torch.no_grad()
def evaluate(
    models: Mapping[str, nn.Module], batches: Iterable[Sequence[Any] | Mapping[str, Any]], *, label_offset: int = 0
) -> dict[str, Score]:
    """Classify the same images with every network, in one pass over the batches.

    Args:
        models: by name, all on one device; each returns logits (N, classes), also under `logits` or first of a tuple.
        batches: images, float32 (N, 3, H, W), and labels, whole numbers (N,) from 0: tensors, arrays or lists.
        label_offset: index of the logit that belongs to label 0 (1 where the first class is "background").

    Returns:
        A score for each name.

    Raises:
        BnrecalError: without models or images, for a network without a name, images or logits of another shape or not
            finite, too few classes, labels that are no class numbers, or weights that changed since `quantize`.

    Examples:
        >>> import bnrecal, torch
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.Flatten())
        >>> images, labels = torch.rand(64, 3, 5, 5), torch.randint(4, (64,))
        >>> q = bnrecal.quantize(model, [images], bnrecal.SmtSpec(threads=2))
        >>> bnrecal.evaluate({"float32": model, "2T": q}, [(images, labels)])
        {'float32': Score(top1=..., stderr=..., images=64), '2T': Score(top1=..., stderr=..., images=64)}
    """
    if isinstance(models, nn.Module):
        kind = type(models).__name__
        raise BnrecalError(f"evaluate got one network ({kind}), not networks by name: give {{'{kind}': network}}")
    if not models:
        raise BnrecalError("evaluate got no models: give a mapping, as in {'float32': model}")
    networks = {name: _usable(model) for name, model in models.items()}
    first = next(iter(networks.values()))
    _check_gpu(first)
    pairs = labelled(batches, _device(first))
    for network in networks.values():
        compare_weights(network)
    with recalibration.eval_mode(*networks.values()), tf32(False):
        return {name: Score(outcome) for name, outcome in judge(networks, pairs, label_offset=label_offset).items()}


@torch.no_grad()
def layer_table(model: nn.Module, batches: Iterable[Batch]) -> LayerTable:
    """Count exactly what happened inside each quantized convolution on these images.

    Args:
        model: what `quantize` returned.
        batches: a few images suffice: counting takes several times a forward pass.

    Returns:
        A data frame with one row per quantized convolution, in the order of the network's modules: name, threads,
        range (of the input, in activation units), scale (of one level), weight_sparsity, activation_sparsity, steps
        (of processing elements), active_0..active_4 (share of steps with so many active threads), collisions (share
        with two or more), reduced_activations and reduced_weights (share of active operands that lost bits; empty for
        a policy of your own), mse and relative_mse (of the output against the exact 8-bit convolution). Counts are
        missing where the input is signed: it runs one thread. A notebook shows a choice of the columns.

    Raises:
        BnrecalError: for a model that `quantize` did not make, weights that changed since then, or without images.

    Examples:
        >>> import bnrecal, torch
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.Flatten())
        >>> images = torch.rand(64, 3, 5, 5)
        >>> q = bnrecal.quantize(model, [images], bnrecal.SmtSpec(threads=4))
        >>> table = bnrecal.layer_table(q, [images[:4]])
        >>> table[["name", "threads", "steps"]]
          name  threads  steps
        0    3        4    288
        >>> bool(table["collisions"].between(0, 1).all())
        True
    """
    model = _usable(model)
    layers = threaded_layers(model)
    if not layers:
        raise BnrecalError("the model has no quantized convolution: give what bnrecal.quantize returned")
    _check_gpu(model)
    compare_weights(model)
    with recalibration.eval_mode(model), tf32(False):
        statistics = collect_collisions(model, images_of(batches, _device(model)))
    rows = []
    for name, layer in layers.items():
        row: dict[str, Any] = {"name": name, "threads": layer.spec.threads, "range": layer.range}
        row["scale"] = layer.input_scale
        if name in statistics:
            measured = measured_columns(layer, statistics[name])
            row |= {**measured, "collisions": sum(measured[f"active_{p}"] for p in range(2, 5))}
        rows.append(row)
    return LayerTable(rows)


def run(config: Config) -> Result:
    """A whole experiment, as `bnrecal key=value ...` runs it: calibrate, quantize, recalibrate, evaluate.

    Args:
        config: what is left out has the default of the command line.

    Returns:
        Accuracies, gain with its p-value, speedup, cycles; `layers` and `batchnorm` are tables.

    Raises:
        BnrecalError: naming the value that is out of range, and what would do.

    Examples:
        >>> import bnrecal
        >>> config = bnrecal.Config(
        ...     data=bnrecal.DataConfig(val_images=100),
        ...     calibration=bnrecal.CalibrationConfig(images=32),
        ...     recalibration=bnrecal.RecalibrationConfig(images=32, batch_size=16),
        ...     recal=True,
        ... )
        >>> result = bnrecal.run(config)
        >>> result.model, result.data, result.threads, result.images
        ('resnet18', 'glyphs', 4, 100)
        >>> result.top1_wo_recal + result.gain == result.top1 > 50
        True
    """
    return run_experiment(complete(config))


def _usable(model: nn.Module) -> nn.Module:
    """Return the network without what wraps it.

    Raises:
        BnrecalError: if it does not compute in float32.
    """
    network = unwrapped(model)
    others = other_precisions(network)
    if others:
        raise BnrecalError(f"the model has {', '.join(others)} weights: give it in float32, as model.float() makes it")
    return network


def _device(model: nn.Module) -> torch.device:
    tensor = next(iter([*model.parameters(), *model.buffers()]), None)
    return torch.device("cpu") if tensor is None else tensor.device


def _check_gpu(model: nn.Module) -> None:
    """Compare the GPU of a model, if that is where it lies, with the reference of the arithmetic, once in a process.

    Raises:
        BnrecalError: if it computes something else.
    """
    device = _device(model)
    if device.type == "cuda":
        check_exact_once(device)
