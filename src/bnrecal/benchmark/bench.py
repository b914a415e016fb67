"""Speed of the NB-SMT engine: whole networks against float32 PyTorch, side by side."""

import json
import multiprocessing
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bnrecal.benchmark.broadcast import broadcast_conv2d
from bnrecal.benchmark.compiled import time_compiled
from bnrecal.benchmark.memory import peak_memory
from bnrecal.benchmark.networks import COMPILED, VARIANTS, build, random_images
from bnrecal.benchmark.timing import interleaved
from bnrecal.device import choose_device, tf32
from bnrecal.errors import BnrecalError
from bnrecal.files import atomic_path
from bnrecal.nbsmt.analysis.machine import describe_backend, instruction_set, processor_name
from bnrecal.nbsmt.analysis.self_check import check_exact
from bnrecal.nbsmt.geometry import Geometry
from bnrecal.nbsmt.prepared_conv import PreparedConv2d
from bnrecal.nbsmt.spec import SmtSpec

COMPILED_MODELS = ("resnet18",)  # compiling takes minutes
MEASURED = ("float32", "4T")  # whose memory is: each in a process of its own, which takes many seconds
LAYER = "resnet18 layer1.0.conv1"


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        variant: "float32", on a GPU also "TF32"; "1T", "2T", "4T", "4T, P40"; "float32 compiled" as torch.compile runs
            it; "broadcast 4T" for the emulation product by product.
        ratio: time over that of float32.
        memory_ratio: peak memory over that of float32, None where it is not measured.
        backend: what did the sums.
        zero_weights: share of the 8-bit weights, None in float32.
        isa: instructions for 8-bit products that the processor has.
    """

    model: str
    variant: str
    ratio: float
    images_per_s: float
    memory_ratio: float | None
    backend: str
    zero_weights: float | None = None
    isa: str = ""


def run(device: str, models: Sequence[str], batch: int, repeats: int, size: int, out: Path) -> list[Row]:
    """Check, time, print, and write `out`."""
    check_exact(choose_device(device))  # nothing is timed that computes something else
    print(machine(device))
    rows: list[Row] = []
    for name in models:
        found = time_network(name, device, batch, repeats, size)
        print(table(found), flush=True)
        rows += found
    rows += time_layer(device, batch, repeats)
    print(table(rows[-3:]))
    engine, emulation = rows[-2:]
    print(f"\n{LAYER} at 4T: {emulation.ratio / engine.ratio:,.0f} times faster than product by product")
    with atomic_path(out) as path:
        path.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    print(f"written to {out}")
    return rows


def machine(device: str) -> str:
    """Say in one line what machine the times are of."""
    place = torch.cuda.get_device_name(device) if device.startswith("cuda") else processor_name()
    backend = describe_backend(torch.device(device))
    return f"{place} ({instruction_set()}), {torch.get_num_threads()} workers; sums by {backend}"


def time_network(name: str, device: str, batch: int, repeats: int, size: int) -> list[Row]:
    """Time float32 channels-last, then 8-bit with 1, 2 and 4 threads, on the same images."""
    images = random_images(batch, size, device)
    built = {label: build(name, variant, images) for label, variant in VARIANTS.items() if not variant.compiled}
    calls = {label: _call(found.network, images) for label, found in built.items()}
    if device.startswith("cuda"):
        built = {"float32": built["float32"], "TF32": built["float32"], **built}
        calls["TF32"] = _in_tf32(calls["float32"])
    times = interleaved(calls, repeats)
    peaks = {label: _measured_apart(name, label, device, batch, size) for label in MEASURED}
    rows = [
        Row(
            name,
            label,
            times[label] / times["float32"],
            batch / times[label],
            _ratio(peaks.get(label), peaks["float32"]),
            found.backend,
            found.zero_weights,
            instruction_set(),
        )
        for label, found in built.items()
    ]
    return rows + (_compiled_row(name, device, batch, repeats, size) if name in COMPILED_MODELS else [])


def _compiled_row(name: str, device: str, batch: int, repeats: int, size: int) -> list[Row]:
    """float32 by torch.compile, against float32 in the same process; none where it cannot compile, or not in time."""
    found = time_compiled(name, device, batch, repeats, size)
    if isinstance(found, str):
        print(f"{name} {COMPILED}: left out, {found}")
        return []
    ratio = found[COMPILED] / found["float32"]
    return [Row(name, COMPILED, ratio, batch / found[COMPILED], None, "torch.compile", None, instruction_set())]


def time_layer(device: str, batch: int, repeats: int, emulate: bool = True) -> list[Row]:
    """Time one convolution: float32, the engine, and the usual emulation (once: it takes seconds)."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(batch, 64, 56, 56, generator=generator).relu().to(device)
    x = x.contiguous(memory_format=torch.channels_last)
    w = torch.randint(-128, 128, (64, 64, 3, 3), generator=generator).to(device, torch.int8)
    w_float = w.float().contiguous(memory_format=torch.channels_last)
    scale = torch.ones(64, device=device)
    prepared = PreparedConv2d(w, SmtSpec(4), padding=1)
    q = (x * 63).round().clamp(0, 255).byte()
    times = interleaved(
        {"float32": lambda: F.conv2d(x, w_float, padding=1), "4T": lambda: prepared(x, 1 / 63, scale)}, 3 * repeats
    )
    if emulate:
        start = time.perf_counter()
        emulated = broadcast_conv2d(q, w, 4, Geometry((1, 1), (1, 1), (1, 1), 1)).cpu()
        times["broadcast 4T"] = time.perf_counter() - start
        if not torch.equal(emulated, prepared.accumulate(q).cpu()):
            raise BnrecalError("the engine differs from the emulation product by product")
    isa = instruction_set()
    backends = {"float32": "torch", "4T": prepared.backend, "broadcast 4T": "torch"}
    zeros = float((w == 0).float().mean())
    return [
        Row(LAYER, v, t / times["float32"], batch / t, None, backends[v], None if v == "float32" else zeros, isa)
        for v, t in times.items()
    ]


def _call(network: nn.Module, images: Tensor) -> Callable[[], object]:
    return lambda: network(images)


def _in_tf32(call: Callable[[], object]) -> Callable[[], object]:
    """The same with the operands of convolutions and products rounded to 10 bits, PyTorch's default on GPUs."""

    def called() -> object:
        with tf32(True):
            return call()

    return called


def network_peak(name: str, variant: str, device: str, batch: int, size: int) -> float | None:
    """Bytes that the network and a forward pass add to this process (or to the GPU) at most."""
    choose_device(device)
    images = random_images(batch, size, device)
    time_layer(device, 1, 1, emulate=False)  # compiled kernels and libraries count for no variant

    def make() -> Callable[[], object]:
        return _call(build(name, VARIANTS[variant], images).network, images)

    return peak_memory(make, device)


def _measured_apart(name: str, variant: str, device: str, batch: int, size: int) -> float | None:
    """`network_peak` in a process of its own: what one variant leaves behind must not count for the next."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(network_peak, (name, variant, device, batch, size))


def _ratio(value: float | None, base: float | None) -> float | None:
    return value / base if value and base else None


def table(rows: Sequence[Row]) -> str:
    """Lay out the rows as text, one line each."""
    lines = [f"{'model':24} {'variant':17} {'x float32':>10} {'images/s':>10} {'memory':>7} {'zeros':>6}  backend"]
    for row in rows:
        memory = "-" if row.memory_ratio is None else f"{row.memory_ratio:.2f}"
        zeros = "-" if row.zero_weights is None else f"{row.zero_weights:.1%}"
        speed = f"{row.ratio:10.3f} {row.images_per_s:10.2f} {memory:>7} {zeros:>6}"
        lines.append(f"{row.model:24} {row.variant:17} {speed}  {row.backend}")
    return "\n".join(lines)
