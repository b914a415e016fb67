"""Speed of the NB-SMT engine: whole networks against float32 PyTorch, side by side."""

import json
import multiprocessing
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bnrecal.benchmark.broadcast import broadcast_conv2d
from bnrecal.benchmark.compiled import time_compiled
from bnrecal.benchmark.floor import floor_network
from bnrecal.benchmark.memory import page_faults, peak_memory
from bnrecal.benchmark.networks import COMPILED, VARIANTS, Built, build, random_images
from bnrecal.benchmark.timing import interleaved, one_worker
from bnrecal.device import choose_device, tf32
from bnrecal.errors import BnrecalError
from bnrecal.files import atomic_path
from bnrecal.memory import keep_freed_memory
from bnrecal.nbsmt.analysis.machine import describe_engine, instruction_set, processor_name
from bnrecal.nbsmt.analysis.self_check import check_exact
from bnrecal.nbsmt.engines.apply_end import Ending, ending
from bnrecal.nbsmt.geometry import Geometry
from bnrecal.nbsmt.prepared_conv import PreparedConv2d
from bnrecal.nbsmt.spec import SmtSpec
from bnrecal.quantization.fused import fused_or_none

COMPILED_MODELS = ("resnet18",)  # compiling takes minutes
MEASURED = ("float32", "4T")  # whose memory is: each in a process of its own, which takes many seconds
REPEATED = (1, 2, 4)  # times the batch, to find out where float32 is quickest
QUICK_REPEATS = 3
FLOOR = "floor "
WIDTHS = ("<24", "<17", ">8", ">6", ">10", ">8", ">10", ">8", ">7", ">9")  # of the columns printed
LAYER = "resnet18 layer1.0.conv1"


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        variant: "float32", on a GPU also "TF32"; "1T", "2T", "4T", "4T, P40"; "float32 compiled" as torch.compile runs
            it; "broadcast 4T" for the emulation product by product.
        ratio: time per image over that of float32 with as many workers in the same run.
        engine: what did the sums.
        workers: CPU threads.
        batch: images in a pass: of whole networks on a processor as many as float32 is quickest with, else as many as
            were asked for.
        floor: `ratio` of `floor_network`, at the batch asked for; None where there is none.
        memory_ratio: peak memory over that of float32, at the batch asked for; None where it is not measured.
        page_faults: of one pass, None where the system does not count them.
        zero_weights: share of the 8-bit weights, None in float32.
        isa: instructions for 8-bit products that the processor has.
    """

    model: str
    variant: str
    ratio: float
    images_per_s: float
    engine: str
    workers: int
    batch: int
    floor: float | None = None
    memory_ratio: float | None = None
    page_faults: int | None = None
    zero_weights: float | None = None
    isa: str = ""


def run(device: str, models: Sequence[str], batch: int, repeats: int, size: int, out: Path) -> list[Row]:
    """Check, time, print, and write `out`."""
    check_exact(choose_device(device))  # nothing is timed that computes something else
    kept = keep_freed_memory()
    print(machine(device))
    print(f"memory that is freed {'stays with the process' if kept else 'may go back to the system'}")
    rows: list[Row] = []
    for name in models:
        timed = time_network(name, device, batch, repeats, size)
        print(table(timed), flush=True)
        rows += timed
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
    engine = describe_engine(torch.device(device))
    return f"{place} ({instruction_set()}), {torch.get_num_threads()} workers; sums by {engine}"


def time_network(name: str, device: str, batch: int, repeats: int, size: int) -> list[Row]:
    """Time float32 channels-last, then 8-bit with 1, 2 and 4 threads, with all workers and with one alone."""
    images = random_images(batch, size, device)
    built = {label: build(name, variant, images) for label, variant in VARIANTS.items() if not variant.compiled}
    peaks = {label: _measured_apart(name, label, device, batch, size) for label in MEASURED}
    memory = {label: _ratio(peak, peaks["float32"]) for label, peak in peaks.items()}
    passes = _passes(built, images.device)
    rows = _time_variants(name, built, passes, images, repeats, memory)
    if torch.get_num_threads() > 1 and not images.is_cuda:
        with one_worker():
            rows += _time_variants(name, built, passes, images, repeats, {})
    return rows + (_compiled_row(name, device, batch, repeats, size) if name in COMPILED_MODELS else [])


def _passes(built: Mapping[str, Built], device: torch.device) -> dict[str, nn.Module]:
    """Return the networks as they are timed: each as it is evaluated, and the floors of the threaded ones."""
    float32 = built["float32"].network
    passes = {label: as_evaluated(one, device) for label, one in built.items()}
    floors = {FLOOR + label: floor_network(float32, one) for label, one in built.items() if one.layers}
    return passes | {label: floor for label, floor in floors.items() if floor is not None}


def _time_variants(
    name: str,
    built: Mapping[str, Built],
    passes: Mapping[str, nn.Module],
    images: Tensor,
    repeats: int,
    memory: Mapping[str, float | None],
) -> list[Row]:
    """Time each in turns, and its floor, with the workers that there are.

    Args:
        passes: from `_passes`.
    """
    batch = images if images.is_cuda else _quickest_batch(passes["float32"], images)
    timed: dict[str, Callable[[], object]] = {}
    # A floor keeps the operands of all its layers, and is made for the shape of its first call.
    for label, network in passes.items():
        timed[label] = partial(network, images if label.startswith(FLOOR) else batch)
    if images.is_cuda:
        timed["TF32"] = _in_tf32(timed["float32"])
        built = {"float32": built["float32"], "TF32": built["float32"], **built}
    seconds = interleaved(timed, repeats)
    faults = {label: page_faults(timed[label]) for label in built}
    base = seconds["float32"] / len(batch)
    rows = []
    for label, one in built.items():
        floor = seconds.get(FLOOR + label)
        rows.append(
            Row(
                name,
                label,
                seconds[label] / seconds["float32"],
                len(batch) / seconds[label],
                one.engine,
                torch.get_num_threads(),
                len(batch),
                None if floor is None else floor / len(images) / base,
                memory.get(label),
                faults[label],
                one.zero_weights,
                instruction_set(),
            )
        )
    return rows


def as_evaluated(built: Built, device: torch.device) -> nn.Module:
    """Return a threaded network as `evaluate` runs it, in fewer passes; float32 is PyTorch's own."""
    if not built.layers or ending(device) is Ending.NONE:
        return built.network
    return fused_or_none(built.network) or built.network


def _quickest_batch(network: nn.Module, images: Tensor) -> Tensor:
    """Return the images repeated as often as makes float32 quickest: with few of them PyTorch convolves otherwise."""
    candidates = {times: images.repeat(times, 1, 1, 1) for times in REPEATED}
    batches = {times: batch.contiguous(memory_format=torch.channels_last) for times, batch in candidates.items()}
    calls = {str(times): partial(network, batch) for times, batch in batches.items()}
    seconds = interleaved(calls, QUICK_REPEATS)
    return batches[min(REPEATED, key=lambda times: seconds[str(times)] / times)]


def _compiled_row(name: str, device: str, batch: int, repeats: int, size: int) -> list[Row]:
    """float32 by torch.compile, against float32 in the same process; none where it cannot compile, or not in time."""
    times = time_compiled(name, device, batch, repeats, size)
    if isinstance(times, str):
        print(f"{name} {COMPILED}: left out, {times}")
        return []
    ratio = times[COMPILED] / times["float32"]
    speed = batch / times[COMPILED]
    return [Row(name, COMPILED, ratio, speed, "torch.compile", torch.get_num_threads(), batch, isa=instruction_set())]


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
    engines = {"float32": "torch", "4T": prepared.engine_name, "broadcast 4T": "torch"}
    zeros = float((w == 0).float().mean())
    return [
        Row(
            LAYER,
            variant,
            seconds / times["float32"],
            batch / seconds,
            engines[variant],
            torch.get_num_threads(),
            batch,
            zero_weights=None if variant == "float32" else zeros,
            isa=instruction_set(),
        )
        for variant, seconds in times.items()
    ]


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
        return partial(build(name, VARIANTS[variant], images).network, images)

    return peak_memory(make, device)


def _measured_apart(name: str, variant: str, device: str, batch: int, size: int) -> float | None:
    """`network_peak` in a process of its own: what one variant leaves behind must not count for the next."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(network_peak, (name, variant, device, batch, size))


def _ratio(value: float | None, base: float | None) -> float | None:
    return value / base if value and base else None


def table(rows: Sequence[Row]) -> str:
    """Lay out the rows as text, one line each."""
    columns = ("model", "variant", "workers", "batch", "x float32", "floor", "images/s", "memory", "zeros", "faults")
    head = [f"{column:{width}}" for column, width in zip(columns, WIDTHS, strict=True)]
    lines = ["".join(head) + "  engine"]
    for row in rows:
        cells = [
            row.model,
            row.variant,
            str(row.workers),
            str(row.batch),
            f"{row.ratio:.3f}",
            _cell(row.floor, ".3f"),
            f"{row.images_per_s:.2f}",
            _cell(row.memory_ratio, ".2f"),
            _cell(row.zero_weights, ".1%"),
            _cell(row.page_faults, ",d"),
        ]
        lines.append("".join(f"{cell:{width}}" for cell, width in zip(cells, WIDTHS, strict=True)) + f"  {row.engine}")
    return "\n".join(lines)


def _cell(value: float | None, layout: str) -> str:
    return "-" if value is None else format(value, layout)
