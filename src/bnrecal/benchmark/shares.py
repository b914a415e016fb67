"""What more could be saved: in what lies between convolutions, and in `saturate: false`."""

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
from bnrecal.nbsmt.conv import PreparedConv2d
from bnrecal.nbsmt.cpu.conv import ListedConv
from bnrecal.nbsmt.spec import SmtSpec

BETWEEN = (nn.BatchNorm2d, nn.ReLU, nn.ReLU6)


def describe_shares(name: str, variant: str, batch: int, size: int, repeats: int) -> str:
    """What BatchNorm, ReLU and quantizing take of a forward pass on one worker: the most that one pass could save."""
    images, spent = random_images(batch, size, "cpu"), defaultdict[str, float](float)
    built = build(name, VARIANTS[variant], images)
    for module in built.network.modules():
        if isinstance(module, BETWEEN):
            module.forward = _counted(module.forward, type(module).__name__, spent)  # type: ignore[method-assign]
    for layer in built.layers.values():
        for prepared in layer.packed.forms():
            if isinstance(form := prepared.form, ListedConv):
                form.quantizer = _counted(form.quantizer, "quantizing", spent)
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
    """The call, its processor time added to `spent`."""

    def counted(*arguments: object) -> object:
        start = time.thread_time()
        result = call(*arguments)
        spent[name] += time.thread_time() - start
        return result

    return counted


def describe_unsaturated(channels: int, size: int, batch: int, repeats: int) -> str:
    """A 3x3 layer with and without `saturate`, as ratios to float32 on one worker."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(batch, channels, size, size, generator=generator).relu_()
    x = x.contiguous(memory_format=torch.channels_last)
    w = torch.randint(-128, 128, (channels, channels, 3, 3), generator=generator).to(torch.int8)
    w_float, scale = w.float().contiguous(memory_format=torch.channels_last), torch.ones(channels)
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
