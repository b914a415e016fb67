"""How fast the NB-SMT engine is: whole networks against float32 PyTorch, side by side."""

import json
import multiprocessing
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from bnrecal.benchmark.broadcast import broadcast_conv2d
from bnrecal.benchmark.memory import peak_memory
from bnrecal.device import choose_device
from bnrecal.errors import BnrecalError
from bnrecal.files import atomic_path
from bnrecal.nbsmt.conv import PreparedConv2d
from bnrecal.nbsmt.geometry import Geometry
from bnrecal.nbsmt.self_check import check_exact
from bnrecal.nbsmt.spec import SmtSpec
from bnrecal.quantization.calibrate import calibrate
from bnrecal.quantization.convert import quantize_layers, threaded_copy
from bnrecal.quantization.intercept import conv_modules
from bnrecal.quantization.layer_plan import plan_threads
from bnrecal.quantization.nbsmt_conv import NBSMTConv2d

THREADS = {"1T": 1, "2T": 2, "4T": 4}
LAYER = "resnet18 layer1.0.conv1"


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        variant: "float32", on a GPU also "TF32"; "1T", "2T", "4T"; "broadcast 4T" for the emulation product by
            product.
        ratio: time over that of float32.
        memory_ratio: peak memory over that of float32, None where it is not measured.
        backend: what did the sums.
    """

    model: str
    variant: str
    ratio: float
    images_per_s: float
    memory_ratio: float | None
    backend: str


def run(device: str, models: Sequence[str], batch: int, repeats: int, size: int, out: Path) -> list[Row]:
    """Check, time, print, and write `out`."""
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise BnrecalError(f"device={device}: there is no usable CUDA device; choose cpu")
    check_exact(choose_device(device))  # nothing is timed that computes something else
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


def time_network(name: str, device: str, batch: int, repeats: int, size: int) -> list[Row]:
    """float32 channels-last, then 8-bit with 1, 2 and 4 threads, on the same images."""
    images = random_images(batch, size, device)
    variants = {variant: build(name, variant, images) for variant in ("float32", *THREADS)}
    calls = {variant: _call(network, images) for variant, (network, _) in variants.items()}
    if device.startswith("cuda"):
        calls = {"float32": calls["float32"], "TF32": _in_tf32(calls["float32"]), **calls}
    times = interleaved(calls, repeats)
    backends = {variant: backend for variant, (_, backend) in variants.items()}
    peaks = {variant: _measured_apart(name, variant, device, batch, size) for variant in variants}
    return [
        Row(
            name,
            variant,
            times[variant] / times["float32"],
            batch / times[variant],
            _ratio(peaks.get(variant), peaks["float32"]),
            backends.get(variant, "torch"),
        )
        for variant in calls
    ]


def time_layer(device: str, batch: int, repeats: int, emulate: bool = True) -> list[Row]:
    """One convolution: float32, the engine, and the usual emulation (once: it takes seconds)."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(batch, 64, 56, 56, generator=generator).relu().to(device)
    x = x.contiguous(memory_format=torch.channels_last)
    w = torch.randint(-128, 128, (64, 64, 3, 3), generator=generator).to(device, torch.int8)
    w_float, scale = w.float().contiguous(memory_format=torch.channels_last), torch.ones(64, device=device)
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
    backends = {"float32": "torch", "4T": prepared.backend, "broadcast 4T": "torch"}
    return [Row(LAYER, v, t / times["float32"], batch / t, None, backends[v]) for v, t in times.items()]


def random_images(batch: int, size: int, device: str) -> Tensor:
    """Standard normal (batch, 3, size, size), channels-last, the same ones every time."""
    images = torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(1))
    return images.to(device).contiguous(memory_format=torch.channels_last)


def build(name: str, variant: str, images: Tensor) -> tuple[nn.Module, str]:
    """A torchvision network with random weights, in float32 or threaded, and what does its sums."""
    try:
        torch.manual_seed(0)
        network: nn.Module = torchvision.models.get_model(name, weights=None)
    except ValueError as error:
        raise BnrecalError(f"torchvision has no model {name!r}") from error
    network = network.eval().to(images.device).to(memory_format=torch.channels_last)
    if variant == "float32":
        return network, "torch"
    with torch.inference_mode():
        convs = calibrate(network, [images])
    plans = plan_threads(convs, THREADS[variant], {})
    layers = quantize_layers(plans, SmtSpec(), "mean_max")
    twin = threaded_copy(network, layers)
    _drop_float_weights(twin, layers)
    with torch.inference_mode():
        twin(images)
    return twin, ", ".join(sorted(_backends(layers)))


def _drop_float_weights(network: nn.Module, layers: dict[str, NBSMTConv2d]) -> None:
    """Of the threaded convolutions: inference needs their shapes alone."""
    convs = conv_modules(network)
    for name in layers:
        shape, device = convs[name].weight.shape, convs[name].weight.device
        convs[name].weight = nn.Parameter(torch.zeros((), device=device).expand(shape), requires_grad=False)


def _backends(layers: dict[str, NBSMTConv2d]) -> set[str]:
    return {prepared.backend for layer in layers.values() for prepared, _ in layer._prepared.values()}


def interleaved(calls: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median seconds of each, taken in turns so that a busy moment hits all of them."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    with torch.inference_mode():
        for repeat in range(repeats + 1):  # the first is for packing and warm caches
            for name, call in calls.items():
                start = time.perf_counter()
                call()
                if torch.cuda.is_available():
                    torch.cuda.synchronize()
                if repeat:
                    seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def _call(network: nn.Module, images: Tensor) -> Callable[[], object]:
    return lambda: network(images)


def _in_tf32(call: Callable[[], object]) -> Callable[[], object]:
    """The same with the operands of convolutions and products rounded to 10 bits, PyTorch's default on GPUs."""

    def called() -> object:
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
        try:
            return call()
        finally:
            torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False

    return called


def network_peak(name: str, variant: str, device: str, batch: int, size: int) -> float | None:
    """Bytes that the network and a forward pass add to this process (or to the GPU) at most."""
    images = random_images(batch, size, device)
    time_layer(device, 1, 1, emulate=False)  # compiled kernels and libraries count for no variant

    def make() -> Callable[[], object]:
        network, _ = build(name, variant, images)
        return _call(network, images)

    return peak_memory(make, device)


def _measured_apart(name: str, variant: str, device: str, batch: int, size: int) -> float | None:
    """`network_peak` in a process of its own: what one variant leaves behind must not count for the next."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(network_peak, (name, variant, device, batch, size))


def _ratio(value: float | None, base: float | None) -> float | None:
    return value / base if value and base else None


def table(rows: Sequence[Row]) -> str:
    """As text, one line a row."""
    lines = [f"{'model':24} {'variant':13} {'x float32':>10} {'images/s':>10} {'memory':>7}  backend"]
    for row in rows:
        memory = "-" if row.memory_ratio is None else f"{row.memory_ratio:.2f}"
        speed = f"{row.ratio:10.3f} {row.images_per_s:10.2f} {memory:>7}"
        lines.append(f"{row.model:24} {row.variant:13} {speed}  {row.backend}")
    return "\n".join(lines)
