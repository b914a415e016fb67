"""Classify a few images with every product of every threaded layer computed on its own, and compare with the engine.

    python scripts/check_per_mac.py IMAGES key=value ...

takes the settings of `bnrecal`. The engine is not used for the second answer: activations are quantized here, each
processing element adds one pair of operands of every thread at a time as in `bnrecal.nbsmt.reference` (policy S+A),
compiled, and first compared with that reference on random operands.
"""

import sys
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from numba import njit, prange
from torch import Tensor

from bnrecal.commands.cli.compose import compose_config
from bnrecal.config import parse
from bnrecal.errors import BnrecalError
from bnrecal.experiment.networks import prepare_variants
from bnrecal.experiment.setup import load, prepare
from bnrecal.experiment.variant import Variant
from bnrecal.nbsmt import reference
from bnrecal.quantization.convert import threaded_copy
from bnrecal.quantization.intercept import ConvCall, Handler, attach
from bnrecal.quantization.nbsmt_conv import NBSMTConv2d

Ints = npt.NDArray[np.int64]
RA = np.array([reference.reduced_activation(a, "half_even", True) for a in range(256)])
RB = np.array([reference.reduced_weight(b, "half_even", True) for b in range(-128, 128)])  # RB[b + 128]


@njit(parallel=True)
def products(rows: Ints, filters: Ints, threads: int, ra: Ints, rb: Ints) -> Ints:  # pragma: no cover (compiled)
    """Products of (positions, K) with (filters, K), K a multiple of threads, to (positions, filters)."""
    steps = rows.shape[1] // threads
    out = np.zeros((rows.shape[0], filters.shape[0]), np.int64)
    for m in prange(rows.shape[0]):
        for n in range(filters.shape[0]):
            total = 0
            for step in range(steps):
                active, exact, one, both = 0, 0, 0, 0
                for t in range(threads):
                    a, b = rows[m, t * steps + step], filters[n, t * steps + step]
                    if a != 0 and b != 0:
                        active += 1
                        exact += a * b
                        one += ra[a] * b
                        both += ra[a] * rb[b + 128]
                total += exact if active <= 1 else one if active == 2 else both
            out[m, n] = total
    return out


def padded(k: Ints, threads: int) -> Ints:
    """K filled up with zeros at its end to a multiple of the threads."""
    return np.pad(k, ((0, 0), (0, -k.shape[1] % threads)))


def per_mac(layer: NBSMTConv2d, call: ConvCall) -> Tensor:
    """The layer's answer, one product at a time; float32 (N, O, H', W')."""
    least, most = (-128, 127) if layer.signed else (0, 255)
    # by the rounded reciprocal, as the specification says: a division would round a few ties the other way
    levels = torch.clamp(torch.round(call.x * np.float32(1 / layer.input_scale).item()), least, most)
    size = [
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, p, d, k, s in zip(
            call.x.shape[2:],
            call.geometry.padding,
            call.geometry.dilation,
            call.weight.shape[2:],
            call.geometry.stride,
            strict=True,
        )
    ]
    parts = []
    for x, w in zip(levels.chunk(call.geometry.groups, 1), layer.weight.chunk(call.geometry.groups, 0), strict=True):
        columns = F.unfold(
            x, (w.shape[2], w.shape[3]), call.geometry.dilation, call.geometry.padding, call.geometry.stride
        )  # (N, K, positions)
        rows = columns.transpose(1, 2).flatten(0, 1).long().numpy()
        found = products(
            padded(rows, layer.spec.threads), padded(w.flatten(1).long().numpy(), layer.spec.threads),
            layer.spec.threads, RA, RB,
        )  # fmt: skip
        parts.append(torch.from_numpy(found).view(len(x), -1, len(w)).transpose(1, 2).reshape(len(x), len(w), *size))
    scale = (layer.input_scale * layer.weight_scale).view(1, -1, 1, 1)
    answer = torch.cat(parts, 1).float() * scale
    return answer if call.bias is None else answer + call.bias.view(1, -1, 1, 1)


def check_products() -> None:
    """The compiled loop equals the reference."""
    generator = np.random.default_rng(0)
    for threads in (1, 2, 4):
        rows = generator.integers(0, 256, (20, 24)) * (generator.random((20, 24)) > 0.4)
        filters = generator.integers(-128, 128, (5, 24)) * (generator.random((5, 24)) > 0.2)
        found = products(rows, filters, threads, RA, RB)
        for row, sums in zip(rows.tolist(), found.tolist(), strict=True):
            assert sums == [reference.dot(row, weights, threads) for weights in filters.tolist()]


def answering(layer: NBSMTConv2d) -> Handler:
    """A handler that computes the layer's answer by `per_mac`."""
    return lambda call: per_mac(layer, call)


@torch.no_grad()
def main() -> None:
    """Print both answers of 2 and 4 threads, without and with recalibration."""
    check_products()
    count = int(sys.argv[1])
    config = parse(compose_config("config", sys.argv[2:]))
    if config.smt.policy != "A" or not config.smt.sparsity or config.smt.rounding != "half_even":
        raise BnrecalError("only the default policy, sparsity and rounding are checked here")
    experiment = prepare(load(config))
    images = next(iter(experiment.loader.images(experiment.validation, count)))
    variants = [Variant(threads, recal) for threads in (2, 4) for recal in (False, True)]
    for variant, prepared in prepare_variants(experiment, variants).items():
        twin = threaded_copy(prepared.network, prepared.layers)
        handlers: dict[str, Any] = {name: answering(layer) for name, layer in prepared.layers.items()}
        attach(twin, handlers)
        engine = prepared.network(images)
        golden = twin(images)
        same = int((engine.argmax(1) == golden.argmax(1)).sum())
        off = float((engine - golden).abs().max())
        print(f"{variant}: {same} of {len(images)} predictions the same, logits within {off:.1g}", flush=True)


if __name__ == "__main__":
    main()
