"""Golden vectors: what one processing element is fed for some outputs of a layer, and what it must answer.

An output is one pixel of one filter. Its K products (K = C/groups * kh * kw, channel-major) are cut into T contiguous
parts, zeros at the end; at step j thread t holds product t * steps + j (docs/nbsmt.md).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from bnrecal.export.network import FoldedConv2d
from bnrecal.nbsmt.float_conv import forward
from bnrecal.nbsmt.geometry import Geometry
from bnrecal.nbsmt.spec import SmtSpec
from bnrecal.quantization.intercept import ConvCall, Handler, attach
from bnrecal.seeds import derive_seed

Bytes = npt.NDArray[np.integer[Any]]  # uint8 or int8


@dataclass(frozen=True)
class Vectors:
    """Stimuli and answers for one processing element.

    Attributes:
        spec: the machine, with the layer's own threads T.
        activations: uint8 (int8 for signed inputs) (P, steps, T), for P outputs one after another.
        weights: int8 (P, steps, T).
        accumulators: int32 (P,), after the last step.
        active: uint8 (P, steps), threads with two non-zero operands; T at every step of a machine without sparsity.
    """

    spec: SmtSpec
    activations: Bytes
    weights: Bytes
    accumulators: npt.NDArray[np.int32]
    active: npt.NDArray[np.uint8]


@dataclass(frozen=True)
class LayerVectors:
    """The vectors of one convolution on one image.

    Attributes:
        positions: int32 (P, 3): filter, row and column of each output.
        levels: the layer's whole input, uint8 or int8 (C, H, W).
        weight: int8 (O, C/groups, kh, kw).
        sums: all its accumulators, int32 (O, H', W'), from the engine.
    """

    name: str
    vectors: Vectors
    positions: npt.NDArray[np.int32]
    levels: Bytes
    weight: Bytes
    sums: npt.NDArray[np.int32]


@torch.no_grad()
def layer_vectors(
    network: nn.Module, layers: dict[str, FoldedConv2d], names: Sequence[str], image: Tensor, outputs: int, seed: int
) -> Iterator[LayerVectors]:
    """Vectors of the named layers, from one image through the folded network.

    Args:
        network, layers: from `folded_network`.
        image: float32 (1, 3, H, W).
        outputs: how many outputs of each layer, at random places that `seed` and the layer's name decide.
    """
    first: dict[str, tuple[Tensor, Tensor]] = {}  # levels and sums of the first call

    def watched(name: str, layer: FoldedConv2d) -> Handler:
        def answer(call: ConvCall) -> Tensor:
            if name not in first:
                levels = layer.levels(call.x)
                first[name] = (levels, layer.accumulate(call, levels))
            return layer(call)

        return answer

    try:
        attach(network, {name: watched(name, layers[name]) for name in names})
        forward(network, image)
    finally:
        attach(network, dict(layers))
    for name in names:
        yield _of_layer(name, layers[name], *first.pop(name), outputs, derive_seed(seed, "vectors", name))


def _of_layer(
    name: str, layer: FoldedConv2d, all_levels: Tensor, all_sums: Tensor, outputs: int, seed: int
) -> LayerVectors:
    sums = all_sums[0].cpu().numpy()
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(sums.size, generator=generator)[:outputs].numpy()
    positions = np.stack(np.unravel_index(chosen, sums.shape), 1).astype(np.int32)
    levels = all_levels[0].cpu().numpy()
    weight = layer.weight.numpy()
    geometry = layer.conv.geometry
    columns = [receptive_field(levels, geometry, weight.shape, position) for position in positions.tolist()]
    threads = layer.spec.threads
    activations = by_thread(np.stack([column.ravel() for column in columns]), threads)
    weights = by_thread(weight[positions[:, 0]].reshape(len(positions), -1), threads)
    answers = sums[tuple(positions.T)].astype(np.int32)
    vectors = Vectors(layer.spec, activations, weights, answers, active_threads(activations, weights, layer.spec))
    return LayerVectors(name, vectors, positions, levels, weight, sums)


def receptive_field(levels: Bytes, g: Geometry, weight: Sequence[int], position: Sequence[int]) -> Bytes:
    """The inputs (C/groups, kh, kw) of one output, zero outside the image.

    Args:
        levels: (C, H, W).
        weight: the shape (O, C/groups, kh, kw).
        position: filter, row, column.
    """
    filters, channels, kh, kw = weight
    group = position[0] // (filters // g.groups)
    own = levels[group * channels : (group + 1) * channels]
    padded = np.pad(own, [(0, 0), (g.padding[0], g.padding[0]), (g.padding[1], g.padding[1])])
    rows = position[1] * g.stride[0] + np.arange(kh) * g.dilation[0]
    columns = position[2] * g.stride[1] + np.arange(kw) * g.dilation[1]
    field: Bytes = padded[:, rows[:, None], columns[None, :]]
    return field


def by_thread(products: Bytes, threads: int) -> Bytes:
    """(P, K) as the processing element sees them: (P, steps, T), the last thread's part filled up with zeros."""
    steps = -(-products.shape[1] // threads)
    filled = np.pad(products, [(0, 0), (0, steps * threads - products.shape[1])])
    return np.ascontiguousarray(filled.reshape(-1, threads, steps).transpose(0, 2, 1))


def active_threads(activations: Bytes, weights: Bytes, spec: SmtSpec) -> npt.NDArray[np.uint8]:
    """Return the number of active threads at each step, uint8 (P, steps)."""
    both = (activations != 0) & (weights != 0) | (not spec.sparsity)
    counts: npt.NDArray[np.uint8] = np.sum(both, axis=2, dtype=np.uint8)
    return counts


def corner_operands(spec: SmtSpec) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int8]]:
    """Operands that no image is sure to bring: every activation and every weight at every number of active threads.

    Returns:
        uint8 and int8 (T + 1, 1024, T): output p has p active threads at every step, the others a zero on one side
        or on both.
    """
    steps = np.arange(1024)[None, :, None]
    number = np.arange(spec.threads + 1)[:, None, None]
    thread = np.arange(spec.threads)[None, None, :]
    runs = (thread - steps) % spec.threads < number  # each thread is active in turn
    side = (steps + thread) % 3  # which operand of an inactive thread is zero: the activation, the weight, both
    a = (steps + 64 * thread) % 255 + 1
    b = (steps * 37 + steps // 256 * 64 + 101 * thread) % 255 - 128
    b = b + (b >= 0)  # -128..-1 and 1..127
    activations = np.where(runs | (side == 1), a, 0).astype(np.uint8)
    return activations, np.where(runs | (side == 0), b, 0).astype(np.int8)
