"""Permutations of the input channels in which partners are seldom active together.

Thread t owns positions [t*C/T, (t+1)*C/T) of the order, so position j of every thread's part makes one set of T
partners. The sum over all products does not depend on the order; which threads collide does. Choosing it is cutting
the channels into C/T sets so that the cost of the sets, counted on calibration images, is small. A local search swaps
channels between sets as long as that helps. Orders drawn at random are what it is to be compared with.
"""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from bnrecal.nbsmt.arithmetic import quantize_activation
from bnrecal.nbsmt.float_conv import forward
from bnrecal.quantization.calibrate import ConvInfo
from bnrecal.quantization.intercept import ConvCall, Handler, attached
from bnrecal.quantization.layer_plan import LayerPlan
from bnrecal.quantization.qparams import activation_scale

Marks = npt.NDArray[np.float32]

REORDER_IMAGES = 256  # calibration images, and
PIXELS = 1024  # of a layer's input over all of them, that the costs are counted on
SWEEPS = 8  # over all channels, at most
# Cost of a step by its number of active threads, 0 to 4. "bits": operands that are reduced (one of each of two threads,
# both of more). "activity": a step that collides at all costs as much as two such operands besides.
COSTS = {"bits": (0, 0, 2, 6, 8), "activity": (0, 0, 4, 8, 10)}


def can_reorder(plan: LayerPlan) -> bool:
    """Return whether a permutation decides about partners: several threads, one group, C a multiple of T."""
    return plan.threads > 1 and plan.conv.geometry.groups == 1 and plan.conv.weight.shape[1] % plan.threads == 0


@torch.no_grad()
def gather_activity(
    network: nn.Module, convs: Iterable[ConvInfo], images: Iterable[Tensor], act_range: str
) -> dict[str, Marks]:
    """Return which channels are active at random pixels of each convolution's input, 0 or 1, (pixels, C).

    Args:
        network: float32, in eval mode; unchanged afterwards.
        convs: those to look at.
        images: float32 batches (N, 3, H, W).
        act_range: as in `ConvInfo.range`; an activation is active where it is quantized to a level above 0.
    """
    actives: dict[str, list[Tensor]] = {conv.name: [] for conv in convs}
    generator = torch.Generator().manual_seed(0)

    def watch(conv: ConvInfo) -> Handler:
        scale = activation_scale(conv.range(act_range), signed=False)

        def answer(call: ConvCall) -> Tensor:
            active = quantize_activation(call.x, scale).ne(0).permute(0, 2, 3, 1).reshape(-1, call.x.shape[1])
            chosen = torch.randperm(len(active), generator=generator)[:PIXELS]
            actives[conv.name].append(active[chosen.to(active.device)].cpu())
            return call.run()

        return answer

    with attached(network, {conv.name: watch(conv) for conv in convs}, strict=lambda _: False):
        for batch in images:
            forward(network, batch)
    activity = {}
    for name, parts in actives.items():
        marks = torch.cat(parts)
        activity[name] = marks[torch.randperm(len(marks), generator=generator)[:PIXELS]].float().numpy()
    return activity


def channel_permutation(active: Marks, threads: int, how: str) -> Tensor:
    """The order of the channels, int64 (C,): position i is taken by channel order[i].

    Args:
        active: 0 or 1, (pixels, C), C a multiple of the threads.
        how: which of COSTS the permutation keeps small.
    """
    channels = active.shape[1]
    sets = np.arange(channels) % (channels // threads)  # of every channel: as without a permutation
    search = _Search(active, sets, np.array(COSTS[how][: threads + 1], np.float32))
    for _ in range(SWEEPS):
        if not sum(search.swap(channel) for channel in range(channels)):
            break
    permutation = np.argsort(search.sets, kind="stable").reshape(-1, threads).T
    return torch.from_numpy(permutation.ravel().copy())


def random_permutation(channels: int, seed: int) -> Tensor:
    """A permutation drawn by chance, int64 (channels,)."""
    return torch.randperm(channels, generator=torch.Generator().manual_seed(seed))


class _Search:
    """Channels in sets of partners, and what swapping two of them would change.

    A swap changes the count n of a set by at most one at each pixel, so its change of cost is a sum over pixels of
    products of the two channels' marks and of functions of n: a product of matrices for all swaps of one channel.
    """

    def __init__(self, active: Marks, sets: npt.NDArray[np.int64], cost: Marks) -> None:
        self.active = active
        self.sets = sets.copy()
        # by n: of one less, of one more
        self.fewer = np.insert(cost[:-1], 0, cost[0]) - cost
        self.more = np.append(cost[1:], cost[-1]) - cost
        members = np.eye(int(sets.max()) + 1, dtype=np.float32)[sets]
        self.counts = (active @ members).astype(np.int64)  # (pixels, sets)
        self.leaving = np.empty_like(active)
        self.joining = np.empty_like(active)
        self._refresh(np.arange(len(sets)))

    def swap(self, channel: int) -> bool:
        """Swap the channel with the one of another set that lowers the cost most; False where none does."""
        own = self.active[:, channel]
        n = self.counts[:, self.sets[channel]]
        gone, come = self.fewer[n] * own, self.more[n] * (1 - own)
        change = gone.sum() + (come - gone) @ self.active  # of this set, the other channel joining
        change += (1 - own) @ self.leaving + own @ self.joining  # of the other's set
        change[self.sets == self.sets[channel]] = 0
        other = int(change.argmin())
        if change[other] > -0.5:  # costs are whole numbers
            return False
        self.counts[:, self.sets[channel]] += (self.active[:, other] - own).astype(np.int64)
        self.counts[:, self.sets[other]] += (own - self.active[:, other]).astype(np.int64)
        self.sets[[channel, other]] = self.sets[[other, channel]]
        self._refresh(np.flatnonzero(np.isin(self.sets, self.sets[[channel, other]])))
        return True

    def _refresh(self, channels: npt.NDArray[np.int64]) -> None:
        """Note what changes at each pixel when an active channel leaves its set, or takes the place of another."""
        n = self.counts[:, self.sets[channels]]
        own = self.active[:, channels]
        self.leaving[:, channels] = own * self.fewer[n]
        self.joining[:, channels] = (1 - own) * self.more[n]
