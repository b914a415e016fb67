"""Search for layers that the engine computes wrongly, or does not survive, at every instruction set of this machine.

    python scripts/search_exactness.py --layers 2000 --shapes 8 --isas AVX2 AVX512_CORE

draws random layers, sends inputs of several shapes through one `PreparedConv2d` each, and compares all sums with the
expansion in float64, which no library shortens. Each instruction set has a process of its own, so that one that ends is
counted and the search goes on behind it. The exit status is 1 if anything was wrong.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, replace

import torch
from numba.core.codegen import get_host_cpu_features
from torch import Tensor

from bnrecal.nbsmt.geometry import Geometry, Pair
from bnrecal.nbsmt.prepared_conv import PreparedConv2d
from bnrecal.nbsmt.spec import SmtSpec
from bnrecal.options import POLICIES

# What oneDNN may use, and the feature that a processor needs for it.
ISAS = {
    "SSE41": "sse4.1",
    "AVX2": "avx2",
    "AVX2_VNNI": "avxvnni",
    "AVX512_CORE": "avx512bw",
    "AVX512_CORE_VNNI": "avx512vnni",
    "AVX512_CORE_AMX": "amx-int8",
}
HEIGHTS = (1, 1, 2, 3, 4, 5, 7, 8)
WIDTHS = (1, 1, 2, 2, 3, 4, 5, 6, 7, 8, 9, 13, 17, 25, 33)
LARGEST = 96  # channels and filters


@dataclass(frozen=True)
class Drawn:
    """A layer: its machine, sizes, geometry, and the shapes of input to send through it."""

    threads: int
    policy: str
    signed: bool
    channels: int  # of a group
    filters: int  # of a group
    kernel: Pair
    geometry: Geometry
    inputs: tuple[tuple[int, int, int], ...]  # images, rows, columns


def draw_layer(seed: int, shapes: int) -> Drawn:
    """The layer of a seed. A third have one channel a group, many are as narrow as their kernel."""
    r = random.Random(seed)
    groups = r.choice([1, 1, 1, 2, 3, 4, 8, 16, 32])
    channels = 1 if r.random() < 1 / 3 else r.choice([2, 3, 4, 8, 12, 16, 20])
    filters = r.choice([1, 2, 3, 4, 8, 16])
    while groups * max(channels, filters) > LARGEST:
        groups //= 2
    kernel = (r.randint(1, 5), r.randint(1, 6))
    if r.random() < 0.3:
        kernel = r.choice([(1, kernel[1]), (kernel[0], 1)])
    stride = (r.randint(1, 3), r.randint(1, 4))
    padding = (r.randint(0, 3), r.randint(0, 4))
    dilation = (r.randint(1, 3), r.randint(1, 4))
    g = Geometry(stride, padding, dilation, groups)
    threads = r.choice([1, 1, 2, 4])
    signed = threads == 1 and r.random() < 0.5
    inputs: list[tuple[int, int, int]] = []
    while len(inputs) < shapes:
        # a kernel that fits no small input gets a larger one at last
        more = len(inputs) + r.randint(0, 20) if r.random() < 0.2 else 0
        size = (r.choice(HEIGHTS) + more, r.choice(WIDTHS) + more)
        if min(g.output_size(size, kernel)) >= 1:
            inputs.append((r.choice([1, 1, 2]), *size))
    return Drawn(threads, r.choice(POLICIES), signed, channels, filters, kernel, g, tuple(inputs))


def operands(layer: Drawn, seed: int) -> tuple[Tensor, list[Tensor]]:
    """int8 weights, and the inputs: many of them at their extremes, some zero."""
    generator = torch.Generator().manual_seed(seed)
    groups = layer.geometry.groups
    w = _integers((groups * layer.filters, layer.channels, *layer.kernel), -128, 128, generator).to(torch.int8)
    low, dtype = (-128, torch.int8) if layer.signed else (0, torch.uint8)
    inputs = []
    for images, rows, columns in layer.inputs:
        shape = (images, groups * layer.channels, rows, columns)
        inputs.append(_integers(shape, low, low + 256, generator).to(dtype))
    return w, inputs


def _integers(shape: tuple[int, ...], low: int, high: int, generator: torch.Generator) -> Tensor:
    values = torch.randint(low, high, shape, generator=generator)
    share = torch.rand(shape, generator=generator)
    values[share < 0.4] = high - 1
    values[share < 0.15] = low
    values[share > 0.9] = 0
    return values


def try_layer(layer: Drawn, seed: int) -> list[str]:
    """Each input whose sums are wrong, and how."""
    w, inputs = operands(layer, seed)
    g = layer.geometry
    spec = SmtSpec(layer.threads, layer.policy)
    options = {"stride": g.stride, "padding": g.padding, "dilation": g.dilation, "groups": g.groups}
    found = PreparedConv2d(w, spec, **options)  # type: ignore[arg-type]
    exact = PreparedConv2d(w, spec, engine="float64", **options)  # type: ignore[arg-type]
    wrong = []
    for x in inputs:
        _spoil_memory(x.numel())
        sums = found.accumulate(x)
        off = (sums.long() - exact.accumulate(x).long()).abs()
        if off.any():
            of = f"{int((off > 0).sum())} of {off.numel()} sums off by up to {int(off.max())}"
            wrong.append(f"input {tuple(x.shape)}: {of}, by {found.engine_name}")
    return wrong


def _spoil_memory(size: int) -> None:
    """Leave large values in memory that is given out next: what reads beyond its input meets them."""
    for more in (0, 64, 4096):
        torch.full((size + more,), 255, dtype=torch.uint8)


def search_here(seeds: range, shapes: int) -> None:
    """The work of a process: a line before each layer, and one for everything wrong."""
    torch.set_num_threads(1)
    for seed in seeds:
        print(json.dumps({"layer": seed}), flush=True)
        for wrong in try_layer(draw_layer(seed, shapes), seed):
            print(json.dumps({"layer": seed, "wrong": wrong}), flush=True)
    print(json.dumps({"done": True}), flush=True)


def search(isa: str, seeds: range, shapes: int) -> bool:
    """Search at one instruction set, print what was found, and return whether all was right."""
    start = time.time()
    left = seeds
    wrong = []
    ended = []
    while left:
        arguments = ["--seed", str(left.start), "--layers", str(len(left)), "--shapes", str(shapes), "--here"]
        done = subprocess.run(
            [sys.executable, __file__, *arguments],
            env={**os.environ, "ONEDNN_MAX_CPU_ISA": isa, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        wrong += [(line["layer"], line["wrong"]) for line in lines if "wrong" in line]
        if lines and "done" in lines[-1]:
            break
        if done.returncode > 0 or not lines:  # an error in Python is no crash, but a fault of this script or the engine
            raise SystemExit(f"{isa}: {done.stderr}")
        ended.append((lines[-1]["layer"], f"the process ended with status {done.returncode}"))
        left = range(lines[-1]["layer"] + 1, seeds.stop)
    for seed, what in (*wrong, *ended):
        print(f"  layer {seed}: {what}: {asdict(replace(draw_layer(seed, shapes), inputs=()))}")
    print(
        f"{isa:17} layers {len(seeds)} shapes {len(seeds) * shapes} wrong {len(wrong)} crashes {len(ended)} "
        f"({time.time() - start:.0f} s)",
        flush=True,
    )
    return not wrong and not ended


def main() -> None:
    """Search at every instruction set asked for."""
    features = [feature.lstrip("+") for feature in get_host_cpu_features().split(",")]  # type: ignore[no-untyped-call]
    here = [isa for isa, feature in ISAS.items() if feature in features]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="of the first layer")
    parser.add_argument("--layers", type=int, default=2000)
    parser.add_argument("--shapes", type=int, default=8, help="inputs of a layer")
    parser.add_argument("--isas", nargs="+", choices=here, default=here, help="values of ONEDNN_MAX_CPU_ISA")
    parser.add_argument("--here", action="store_true", help="search in this process, as the environment caps it")
    asked = parser.parse_args()
    seeds = range(asked.seed, asked.seed + asked.layers)
    if asked.here:
        search_here(seeds, asked.shapes)
        return
    right = [search(isa, seeds, asked.shapes) for isa in asked.isas]
    if not all(right):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
