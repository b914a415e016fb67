"""Time that Table 1's cells of one network would take on ImageNet: an estimate from measured times, and labelled so."""

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from bnrecal.benchmark.bench import Row
from bnrecal.data.files.decode import decode
from bnrecal.data.loader import usual_workers
from bnrecal.data.preprocessing import Preprocessing

VALIDATION, SAMPLE = 50_000, 2048  # images; calibration and every recalibration look at SAMPLE of them
# Forward passes over the validation images, and over samples: float32 and its calibration; then each number of threads
# without and with recalibration.
PASSES = {"float32": (1, 1), "1T": (2, 1), "2T": (2, 1), "4T": (2, 1)}
PHOTOGRAPH = (375, 500)  # pixels, as ImageNet's usually are
SAMPLES_DECODED = 4  # calibration, and recalibration at 1, 2 and 4 threads


@dataclass(frozen=True)
class Estimate:
    """Seconds.

    Attributes:
        computing: all passes of all cells.
        decoding: each validation image once for all cells, and the samples.
        together: both.
    """

    model: str
    computing: float
    decoding: float
    together: float


def estimate(rows: Sequence[Row], images_decoded_per_s: float, *, beside: bool) -> list[Estimate]:
    """Estimate each network among the rows of the benchmark.

    Args:
        beside: decoding runs beside the computing (on a GPU), instead of sharing its cores.
    """
    speeds: dict[str, dict[str, float]] = {}
    workers = max(row.workers for row in rows)
    for row in rows:
        if row.workers == workers:
            speeds.setdefault(row.model, {})[row.variant] = row.images_per_s
    decoding = (VALIDATION + SAMPLES_DECODED * SAMPLE) / images_decoded_per_s
    estimates = []
    for model, speed in speeds.items():
        if not speed.keys() >= PASSES.keys():
            continue  # a single layer
        computing = sum((v * VALIDATION + s * SAMPLE) / speed[name] for name, (v, s) in PASSES.items())
        estimates.append(
            Estimate(model, computing, decoding, max(computing, decoding) if beside else computing + decoding)
        )
    return estimates


def decoding_rate(seconds: float = 2.0) -> float:
    """Measure how many images of ImageNet's usual size one process decodes and prepares in a second."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "photograph.JPEG")
        coarse = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize(PHOTOGRAPH[::-1], Image.Resampling.BICUBIC).save(path, quality=95)
        prepare = Preprocessing().evaluation
        prepare(decode(str(path)))
        count = 0
        start = time.perf_counter()
        while (passed := time.perf_counter() - start) < seconds:
            prepare(decode(str(path)))
            count += 1
    return count / passed


def describe_estimates(rows: Sequence[Row], *, beside: bool) -> str:
    """Measure how fast images are decoded, and return a table for people."""
    rate = decoding_rate()
    workers = usual_workers()
    lines = [
        f"Estimate, not a measurement: {VALIDATION:,} images at all cells of Table 1, from the times above and from "
        f"{rate:.0f} images/s decoded by a process, {workers} of them",
        f"{'model':24} {'computing':>12} {'decoding':>12} {'together':>12}   (minutes)",
    ]
    lines += [
        f"{e.model:24} {e.computing / 60:12.1f} {e.decoding / 60:12.1f} {e.together / 60:12.1f}"
        for e in estimate(rows, rate * workers, beside=beside)
    ]
    return "\n".join(lines)
