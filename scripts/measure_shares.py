"""Measure what more could be saved on this processor: between convolutions, and with `smt.saturate=false`.

    python scripts/measure_shares.py [--models resnet18 resnet50 mobilenet_v2] [--batch 8] [--size 224] [--repeats 7]

All times are of one worker.
"""

import argparse
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from bnrecal.benchmark.networks import VARIANTS, build, random_images
from bnrecal.benchmark.timing import on_one_worker
from bnrecal.commands.cli.errors import one_line_errors
from bnrecal.nbsmt.engines.cpu.dense_sparse import DenseSparseEngine
from bnrecal.nbsmt.engines.engine import unfolded
from bnrecal.nbsmt.prepared_conv import PreparedConv2d
from bnrecal.nbsmt.spec import SmtSpec

BETWEEN = (nn.BatchNorm2d, nn.ReLU, nn.ReLU6)


def describe_shares(name: str, variant: str, batch: int, size: int, repeats: int) -> str:
    """Return the shares of BatchNorm, ReLU and quantizing in a forward pass: the most that one pass could save."""
    images = random_images(batch, size, "cpu")
    spent = defaultdict[str, float](float)
    built = build(name, VARIANTS[variant], images)
    for module in built.network.modules():
        if isinstance(module, BETWEEN):
            module.forward = _counted(module.forward, type(module).__name__, spent)  # type: ignore[method-assign]
    for layer in built.layers.values():
        for prepared in layer.packed.convolutions():
            engine = unfolded(prepared.engine)
            if isinstance(engine, DenseSparseEngine):
                engine.quantizer = _counted(engine.quantizer, "quantizing", spent)
    passes = []

    def forward() -> None:
        spent.clear()
        _counted(built.network, "all", spent)(images)
        passes.append(dict(spent))

    on_one_worker({"": forward}, repeats)
    quickest = min(passes, key=lambda found: found["all"])
    total = quickest.pop("all")
    parts = ", ".join(f"{part} {seconds / total:.1%}" for part, seconds in quickest.items())
    return f"{name} at {variant}, one worker, of {1e3 * total:.0f} ms: {parts}"


def _counted(call: Callable[..., object], name: str, spent: dict[str, float]) -> Any:
    """Wrap the call: its processor time is added to `spent`."""

    def counted(*arguments: object) -> object:
        start = time.thread_time()
        result = call(*arguments)
        spent[name] += time.thread_time() - start
        return result

    return counted


def describe_unsaturated(channels: int, size: int, batch: int, repeats: int) -> str:
    """Time a 3x3 layer with and without `saturate`, as ratios to float32."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(batch, channels, size, size, generator=generator).relu_()
    x = x.contiguous(memory_format=torch.channels_last)
    w = torch.randint(-128, 128, (channels, channels, 3, 3), generator=generator).to(torch.int8)
    w_float = w.float().contiguous(memory_format=torch.channels_last)
    scale = torch.ones(channels)
    calls: dict[str, Callable[[], object]] = {"float32": lambda: F.conv2d(x, w_float, padding=1)}
    for threads in (2, 4):
        for saturate in (True, False):
            prepared = PreparedConv2d(w, SmtSpec(threads, saturate=saturate), padding=1)
            label = f"{threads}T" if saturate else f"{threads}T without saturation"
            calls[label] = partial(prepared, x, 0.01, scale)
    seconds = on_one_worker(calls, repeats)
    plain = seconds.pop("float32")
    ratios = ", ".join(f"{label} {value / plain:.2f}" for label, value in seconds.items())
    return f"3x3 layer of {channels} x {size} x {size}, as ratio to float32: {ratios}"


def main() -> None:
    """Print a line for the layer, and one a network as soon as it is measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["resnet18", "resnet50", "mobilenet_v2"], help="of torchvision")
    parser.add_argument("--batch", type=int, default=8, help="images per forward pass (default: %(default)s)")
    parser.add_argument("--size", type=int, default=224, help="height and width of the images (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=7, help="of which the quickest counts (default: %(default)s)")
    options = parser.parse_args()
    print(describe_unsaturated(64, options.size // 4, options.batch, options.repeats), flush=True)
    for model in options.models:
        print(describe_shares(model, "4T", options.batch, options.size, options.repeats), flush=True)


if __name__ == "__main__":
    with one_line_errors():
        main()
