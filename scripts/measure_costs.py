"""Measure the figures that `nbsmt/engines/cpu/cost_model.py` chooses by: what a dense and a sparse weight cost here.

    python scripts/measure_costs.py [--repeats 7]

All times are of one worker. A class of dense sums is what oneDNN's 8-bit sums are worth; "none" stands for float32.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from bnrecal.benchmark.timing import on_one_worker
from bnrecal.commands.cli.errors import one_line_errors
from bnrecal.errors import BnrecalError
from bnrecal.nbsmt.analysis.machine import instruction_set, processor_name
from bnrecal.nbsmt.decompose.dense_sparse import SparseWeights, decompose_weights
from bnrecal.nbsmt.decompose.operands import full_pattern, operands_of
from bnrecal.nbsmt.engines.cpu.dense_sparse import kernels_compile
from bnrecal.nbsmt.engines.cpu.onednn import Exactness, OneDnnConv, onednn_exactness
from bnrecal.nbsmt.engines.cpu.quantizer import Quantizer
from bnrecal.nbsmt.engines.cpu.sparse import SparseSums
from bnrecal.nbsmt.engines.cpu.sparse_entries import Layer
from bnrecal.nbsmt.engines.engine import NO_NUMBA
from bnrecal.nbsmt.engines.integer_conv import FloatConv
from bnrecal.nbsmt.geometry import Geometry
from bnrecal.nbsmt.spec import SmtSpec

# Channels and height of 3x3 layers as ResNets have them; one image, so that all stays in the caches.
LAYERS = ((64, 56), (128, 28), (256, 14))
ZEROS = 0.02  # of the weights, as in trained networks: some 6 % of the others lack a partner and are sparse
SPEC = SmtSpec(4)
GEOMETRY = Geometry((1, 1), (1, 1), (1, 1), 1)


@dataclass(frozen=True)
class Costs:
    """Costs of one layer, in nanoseconds of one core for each output.

    Attributes:
        dense: of a weight in the dense convolution, by what does its sums.
        sparse: of a sparse weight.
        finish: of adding sparse sums to the dense ones, without any weights.
        planes: of an input value, to make it ready for sparse weights.
        expand: of one operand of an input value, beyond its level.
    """

    channels: int
    dense: dict[str, float]
    sparse: float
    finish: float
    planes: float
    expand: float


def measure_costs(channels: int, size: int, repeats: int) -> Costs:
    """Measure a 3x3 layer of as many filters as channels, at 4 threads, on one worker."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (1, channels, size, size), generator=generator)
    x = (x * (torch.rand(x.shape, generator=generator) < 0.5)).byte().contiguous(memory_format=torch.channels_last)
    w = torch.randint(1, 64, (channels, channels, 3, 3), generator=generator)
    w = (w * (torch.rand(w.shape, generator=generator) >= ZEROS)).to(torch.int8)
    full = decompose_weights(w, SPEC, paired=True).sparse
    none = decompose_weights(torch.ones_like(w), SPEC, paired=True).sparse
    onednn = OneDnnConv(lambda: w, GEOMETRY)
    float32 = FloatConv(w, GEOMETRY, 255, torch.float32, x.device)
    kernels = {name: _sparse_sums(sparse, x) for name, sparse in (("sparse", full), ("finish", none))}
    calls = {name: _adding(sums, x) for name, sums in kernels.items()}
    operands = tuple(operands_of(full_pattern(SPEC.threads), SPEC))
    expanding = Quantizer(operands, SPEC, channels, 1)
    plain = Quantizer((), SPEC, channels, 1)
    calls |= {"levels": lambda: plain(x, 1.0, False), "expand": lambda: expanding(x, 1.0, False)}
    calls |= {"planes": lambda: kernels["finish"].planes(x, False), "none": lambda: float32.sums(x)}
    if onednn_exactness() is not Exactness.NONE:
        calls[onednn_exactness().value] = lambda: onednn.sums(x)
    ns = {name: 1e9 * seconds / x.numel() for name, seconds in on_one_worker(calls, repeats).items()}
    sparse = ns.pop("sparse")
    finish = ns.pop("finish")
    planes = ns.pop("planes")
    expand = (ns.pop("expand") - ns.pop("levels")) / len(operands)
    dense = {name: value / w[0].numel() for name, value in ns.items()}
    return Costs(channels, dense, (sparse - finish) / (len(full) / channels), finish - planes, planes, expand)


def _sparse_sums(sparse: SparseWeights, x: Tensor) -> SparseSums:
    channels = x.shape[1]
    return SparseSums(sparse, SPEC, Layer(SPEC.threads, channels, channels, 1), GEOMETRY, (3, 3), x.shape)


def _adding(sums: SparseSums, x: Tensor) -> Callable[[], object]:
    """Make a call that adds sparse sums to dense sums that are there already."""
    dense = torch.zeros_like(x, dtype=torch.float32)
    target = torch.zeros_like(x, dtype=torch.float32)
    scale = torch.ones(x.shape[1])
    return lambda: sums(x, False, dense, target, scale, None)


def describe_costs(repeats: int) -> str:
    """Return a table for people: costs in units of one sparse weight.

    Raises:
        BnrecalError: where numba compiles nothing, and there is no sparse kernel.
    """
    if not kernels_compile():
        raise BnrecalError(f"{NO_NUMBA}, so there is no sparse kernel to measure")
    lines = [
        f"{processor_name()} ({instruction_set()}), one worker; in units of one sparse weight",
        f"{'3x3 layer':>13} {'sparse (ns)':>12} {'planes':>7} {'finish':>7} {'expand':>7}  dense, by class of its sums",
    ]
    for channels, size in LAYERS:
        found = measure_costs(channels, size, repeats)
        dense = ", ".join(f"{name} {ns / found.sparse:.2f}" for name, ns in found.dense.items())
        shape = f"{channels} x {size} x {size}"
        passes = " ".join(f"{ns / found.sparse:7.1f}" for ns in (found.planes, found.finish, found.expand))
        lines.append(f"{shape:>13} {found.sparse:12.4f} {passes}  {dense}")
    return "\n".join(lines)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7, help="of which the quickest counts (default: %(default)s)")
    print(describe_costs(parser.parse_args().repeats))


if __name__ == "__main__":
    with one_line_errors():
        main()
