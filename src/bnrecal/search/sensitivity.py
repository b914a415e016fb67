"""Costs of a choice of threads, measured on training images with recalibration taken into account.

The measure is the Kullback-Leibler divergence, in nats per image, of the threaded network's class probabilities from
those of the plain A8W8 network. It needs no labels and follows small changes that leave every top-1 as it was.

While it is measured, every BatchNorm layer of both networks normalises with the statistics of the batch itself:
what recalibration on these very images would give, without a second pass over others.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from bnrecal.batchnorm.recalibrate import batch_statistics, normalizing_layers
from bnrecal.data.selection import choose
from bnrecal.display import progress
from bnrecal.errors import BnrecalError
from bnrecal.evaluation.standard_error import of_mean
from bnrecal.experiment.networks import planned_layers
from bnrecal.experiment.setup import Experiment
from bnrecal.experiment.variant import A8W8, Variant
from bnrecal.nbsmt.float_conv import forward
from bnrecal.options import THREADS
from bnrecal.quantization.convert import threaded_copy
from bnrecal.quantization.intercept import attach
from bnrecal.quantization.layer_plan import plan_threads
from bnrecal.search.knapsack import Item

FASTEST = max(THREADS)
Losses = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Threadable:
    """A convolution that can run several threads."""

    name: str
    macs: int


def threadable(experiment: Experiment) -> list[Threadable]:
    """The convolutions whose threads can be chosen, in calling order.

    Raises:
        BnrecalError: if there is none.
    """
    plans = plan_threads(experiment.convs, FASTEST, {}, experiment.config.quant.skip)
    layers = [Threadable(plan.name, plan.conv.macs) for plan in plans if plan.threads > 1]
    if not layers:
        raise BnrecalError(f"{experiment.model.name} has no convolution that can run several threads")
    return layers


def fixed_macs(experiment: Experiment) -> int:
    """Multiply-accumulates of the convolutions that run one thread whatever is chosen (the first not counted)."""
    free = {layer.name for layer in threadable(experiment)}
    return sum(info.macs for info in experiment.convs if info.order > 0 and info.name not in free)


def variant_of(experiment: Experiment, threads: Mapping[str, int], *, recal: bool) -> Variant:
    """The cell that runs these threads; equal choices give equal variants."""
    slower = [(layer.name, threads[layer.name]) for layer in threadable(experiment)]
    return Variant(FASTEST, recal, tuple((name, t) for name, t in slower if t != FASTEST))


class Probe:
    """Measures choices of threads on the same training images, so that they can be compared in pairs."""

    def __init__(self, experiment: Experiment, images: int, *, after: int = 0) -> None:
        """Take `images` training images, in batches of `recalibration.batch_size`, and A8W8's answers to them.

        Args:
            after: leave out so many images of the same random order first: a probe with `after=n` shares none with a
                probe of n images.

        Raises:
            BnrecalError: if the training split has fewer, or the network has no BatchNorm layer.
        """
        self.experiment = experiment
        selection = choose(experiment.source, "train", "search", after + images, experiment.config.seed)
        size = min(experiment.config.recalibration.batch_size, images)
        # a last, smaller batch would be normalised by noisier statistics than the rest
        whole = selection.indices[after : after + images // size * size]
        self.selection = replace(selection, indices=whole)
        self.batches = list(experiment.loader.images(self.selection, size))
        self.network = threaded_copy(experiment.model.network, planned_layers(experiment, A8W8)[1])
        self.layers = normalizing_layers(self.network)
        self.reference = [F.log_softmax(logits, 1) for logits in self._logits(A8W8)]

    def losses(self, threads: Mapping[str, int]) -> Losses:
        """Divergence from A8W8 of each image, in nats; layers that are not named run one thread."""
        logits = self._logits(Variant(1, False, tuple(sorted(threads.items()))))
        parts = [_divergence(wanted, given) for wanted, given in zip(self.reference, logits, strict=True)]
        return torch.cat(parts).cpu().numpy()

    @torch.no_grad()
    def _logits(self, variant: Variant) -> Iterable[Tensor]:
        attach(self.network, dict(planned_layers(self.experiment, variant)[1]))
        with batch_statistics(self.layers):
            return [forward(self.network, images).double() for images in self.batches]


def _divergence(wanted: Tensor, logits: Tensor) -> Tensor:
    given = F.log_softmax(logits, 1)
    return F.kl_div(given, wanted, reduction="none", log_target=True).sum(1)


def sensitivities(probe: Probe) -> pd.DataFrame:
    """One row for each layer and thread count above one: what this layer alone costs, all others at one thread.

    Columns: name, macs, threads, loss (mean over images, nats), stderr (of that mean).
    """
    pairs = [(layer, threads) for layer in threadable(probe.experiment) for threads in THREADS if threads > 1]
    rows = []
    for layer, threads in progress(pairs, "sensitivities", "layer"):
        loss, stderr = mean_and_error(probe.losses({layer.name: threads}))
        rows.append({"name": layer.name, "macs": layer.macs, "threads": threads, "loss": loss, "stderr": stderr})
    return pd.DataFrame(rows)


def items_of(layers: Sequence[Threadable], measured: pd.DataFrame, allowed: Sequence[int] = THREADS) -> list[Item]:
    """The knapsack's items; one thread costs nothing, a measured loss below zero (noise) nothing either."""
    losses = {(row.name, row.threads): max(0.0, row.loss) for row in measured.itertuples(index=False)}
    losses |= {(layer.name, 1): 0.0 for layer in layers}
    items = []
    for layer in layers:
        items.append(Item(layer.name, layer.macs, {threads: losses[layer.name, threads] for threads in allowed}))
    return items


def mean_and_error(losses: Losses) -> tuple[float, float]:
    """Mean and its standard error."""
    return float(losses.mean()), of_mean(losses, ddof=1)
