"""Compare with other tools on networks and images that come with the package, in one run, as Markdown tables.

    pip install 'bnrecal[peers]'
    python scripts/compare_peers.py

1. BatchNorm statistics of the float32 networks: `pooled` beside fvcore's `update_bn_stats`, `cumulative` beside
   `torch.optim.swa_utils.update_bn`.
2. One network in 8 bits by each tool: top-1 and time. Weights have a scale per filter where a tool lets one choose.
3. The same networks after their BatchNorm statistics were re-estimated, by the tool's own way and by bnrecal's.

A tool that is not installed is left out, by name. Tools take turns, round after round: seconds are the median of the
rounds, and a ratio is the median of the ratios within each round. The tables go to the standard output, what is under
way and how long it will take to the standard error.
"""

import argparse
import copy
import os
import statistics as numbers
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from datetime import date
from functools import partial
from importlib import import_module
from importlib.metadata import version
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import update_bn
from torch.utils.data import DataLoader

import bnrecal
from bnrecal.batchnorm.recalibrate import load_statistics, statistics
from bnrecal.commands.cli.errors import one_line_errors
from bnrecal.data.glyphs.source import GLYPH_PREPROCESSING, GlyphSource
from bnrecal.display import progress
from bnrecal.memory import keep_freed_memory
from bnrecal.models import load_model
from bnrecal.nbsmt.analysis.machine import instruction_set, processor_name

NETWORKS = ("resnet18", "resnet50", "googlenet", "densenet121", "resnet50_mlperf", "mobilenet_v1")
PACKAGES = {"fvcore": "fvcore", "torchao": "torchao", "nncf": "nncf", "brevitas": "brevitas"}  # import -> distribution
BATCH = 128
VAL_BATCH = 100

Batches = Sequence[Tensor]
Labelled = Sequence[tuple[Tensor, Tensor]]
Recalibrate = Callable[[nn.Module, Batches], None]


# --- BatchNorm statistics ---------------------------------------------------------------------------------------------


def by_pooled(network: nn.Module, batches: Batches) -> None:
    """Re-estimate by bnrecal, all values together."""
    bnrecal.recalibrate_(network, batches, method="pooled")


def by_cumulative(network: nn.Module, batches: Batches) -> None:
    """Re-estimate by bnrecal, the mean over batches."""
    bnrecal.recalibrate_(network, batches, method="cumulative")


def by_ema(network: nn.Module, batches: Batches) -> None:
    """Re-estimate by bnrecal, the moving average of the paper."""
    bnrecal.recalibrate_(network, batches, method="ema")


@torch.no_grad()
def by_fvcore(network: nn.Module, batches: Batches) -> None:
    """Re-estimate by fvcore."""
    from fvcore.nn.precise_bn import update_bn_stats

    network.train()
    update_bn_stats(network, batches, num_iters=len(batches))
    network.eval()


def by_update_bn(network: nn.Module, batches: Batches) -> None:
    """Re-estimate by torch itself."""
    update_bn(batches, network)
    network.eval()


def by_norm_correction(network: nn.Module, batches: Batches) -> None:
    """Re-estimate by Brevitas (`--calibrate-bn` of its post-training example)."""
    from brevitas.graph.calibrate import norm_correction_mode

    with torch.no_grad(), norm_correction_mode(network):
        for batch in batches:
            network(batch)
    network.eval()


PAIRS = (("pooled", "fvcore"), ("cumulative", "update_bn"))  # bnrecal's way, and the other tool's


def compare_statistics(names: Sequence[str], batches: Batches, repeats: int, fvcore: bool) -> Iterator[str]:
    """Yield a row per network: seconds of each tool, their ratio, and the largest differences of what they estimate."""
    ways: dict[str, Recalibrate] = {"pooled": by_pooled}
    if fvcore:
        ways["fvcore"] = by_fvcore
    ways |= {"cumulative": by_cumulative, "update_bn": by_update_bn}
    for name in progress(names, "BatchNorm statistics", "network"):
        trained = shipped(name)
        for recalibrate in ways.values():  # kernels are read or compiled, and memory is taken, at their first use
            recalibrate(copy.deepcopy(trained), batches[:1])
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        networks: dict[str, nn.Module] = {}
        for _ in range(repeats):
            for way, recalibrate in ways.items():
                networks[way] = copy.deepcopy(trained)
                seconds[way].append(timed(partial(recalibrate, networks[way], batches)))
        cells = [name]
        for own, other in PAIRS:
            if other in networks:
                mean, variance = largest_differences(networks[own], networks[other])
                cells += [*in_turns(seconds[own], seconds[other]), f"{mean:.1e}", f"{variance:.1e}"]
            else:
                cells += [f"{numbers.median(seconds[own]):.2f}", "", "", "", ""]
        yield line(cells)


def in_turns(own: Sequence[float], other: Sequence[float]) -> list[str]:
    """Return the medians of the times of two tools that took turns, and of the ratios within a turn."""
    ratio = numbers.median([one / two for one, two in zip(own, other, strict=True)])
    return [f"{numbers.median(own):.2f}", f"{numbers.median(other):.2f}", f"{ratio:.2f}"]


def largest_differences(one: nn.Module, other: nn.Module) -> tuple[float, float]:
    """Return the largest difference of a mean, in deviations, and of a variance, in parts of it."""
    means, variances = [], []
    for ours, theirs in zip(norms(one), norms(other), strict=True):
        buffers = dict(ours.named_buffers())
        others = dict(theirs.named_buffers())
        spread = buffers["running_var"].double() + ours.eps
        means.append(((buffers["running_mean"] - others["running_mean"]).abs() / spread.sqrt()).max())
        variances.append(((buffers["running_var"] - others["running_var"]).abs() / spread).max())
    return float(max(means)), float(max(variances))


def norms(network: nn.Module) -> list[_BatchNorm]:
    """The BatchNorm layers of a network."""
    return [module for module in network.modules() if isinstance(module, _BatchNorm)]


# --- 8 bits -----------------------------------------------------------------------------------------------------------


def quantize_bnrecal(network: nn.Module, batches: Batches, threads: int = 1) -> nn.Module:
    """Quantize by bnrecal: all convolutions but the first; the linear layer stays float32."""
    return bnrecal.quantize(network, batches, bnrecal.SmtSpec(threads))


def quantize_torchao(network: nn.Module, batches: Batches) -> nn.Module:
    """Quantize by PT2E of torchao, for x86: BatchNorm is folded into the weights."""
    from torchao.quantization.pt2e import allow_exported_model_train_eval
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

    sizes = ({0: torch.export.Dim("images", min=2, max=4 * BATCH)},)
    exported = torch.export.export(network, (batches[0],), dynamic_shapes=sizes).module()
    quantizer = x86.X86InductorQuantizer().set_global(x86.get_default_x86_inductor_quantization_config())
    prepared = prepare_pt2e(exported, quantizer)
    with torch.no_grad():
        for batch in batches:
            prepared(batch)
    converted: nn.Module = allow_exported_model_train_eval(convert_pt2e(prepared))
    return converted


def quantize_nncf(network: nn.Module, batches: Batches) -> nn.Module:
    """Quantize by NNCF, with all 8 bits of the weights in use (its default leaves one out for processors with AVX2)."""
    import nncf

    full = nncf.AdvancedQuantizationParameters(overflow_fix=nncf.OverflowFix.DISABLE)
    dataset = nncf.Dataset(batches)
    quantized: nn.Module = nncf.quantize(network, dataset, subset_size=len(batches), advanced_parameters=full)
    return quantized


def quantize_brevitas(network: nn.Module, batches: Batches) -> nn.Module:
    """Quantize by Brevitas, layer by layer: BatchNorm stays, so that it can be re-estimated."""
    from brevitas.graph.calibrate import calibration_mode
    from brevitas.graph.quantize import LAYERWISE_COMPUTE_LAYER_MAP, layerwise_quantize
    from brevitas.quant import Int8WeightPerChannelFloat

    layers = dict(LAYERWISE_COMPUTE_LAYER_MAP)
    for kind in (nn.Conv2d, nn.Linear):
        layer, arguments = layers[kind]
        layers[kind] = (layer, {**arguments, "weight_quant": Int8WeightPerChannelFloat})
    quantized: nn.Module = layerwise_quantize(network, compute_layer_map=layers)
    with torch.no_grad(), calibration_mode(quantized):
        for batch in batches:
            quantized(batch)
    return quantized.eval()


@dataclass(frozen=True)
class Tool:
    """A way to 8 bits, what it imports ("" for bnrecal), and its own way to new BatchNorm statistics."""

    name: str
    module: str
    quantize: Callable[[nn.Module, Batches], nn.Module]
    recalibrations: dict[str, Recalibrate]


OURS: dict[str, Recalibrate] = {"bnrecal pooled": by_pooled}
ALL: dict[str, Recalibrate] = {
    "bnrecal ema": by_ema,
    "bnrecal pooled": by_pooled,
    "bnrecal cumulative": by_cumulative,
    "fvcore": by_fvcore,
    "torch update_bn": by_update_bn,
}
TOOLS = (
    Tool("bnrecal A8W8", "", quantize_bnrecal, ALL),
    Tool("bnrecal 4 threads", "", lambda network, batches: quantize_bnrecal(network, batches, 4), ALL),
    Tool("torchao PT2E", "torchao", quantize_torchao, {}),
    Tool("NNCF", "nncf", quantize_nncf, OURS),
    Tool("Brevitas", "brevitas", quantize_brevitas, {"its norm correction": by_norm_correction, **OURS}),
)


def compare_tools(
    name: str,
    batches: Batches,
    calibration: Batches,
    val: Labelled,
    timed_on: Labelled,
    repeats: int,
    there: Sequence[str],
) -> Iterator[str]:
    """Yield a row per tool: top-1, milliseconds an image, and top-1 after each re-estimation that it allows.

    Args:
        batches: what BatchNorm statistics are re-estimated on.
        calibration: what a tool finds the ranges of activations with.
        timed_on: images whose time is taken.
    """
    trained = shipped(name)
    tools = [tool for tool in TOOLS if not tool.module or tool.module in there]
    networks = {"float32": trained}
    for tool in progress(tools, "quantizing", "tool"):
        with redirect_stdout(sys.stderr):  # NNCF says what it does
            networks[tool.name] = tool.quantize(copy.deepcopy(trained), calibration)
    accuracies = {own: top1(network, val) for own, network in progress(networks.items(), "accuracy", "network")}
    times = milliseconds(networks, timed_on, repeats)
    yield line(["float32", accuracies["float32"], *times["float32"], ""])
    for tool in progress(tools, "re-estimating", "tool"):
        network = networks[tool.name]
        before = statistics(network)
        answers = []
        for way, recalibrate in tool.recalibrations.items():
            if recalibrate is by_fvcore and "fvcore" not in there:
                continue
            load_statistics(network, before)
            recalibrate(network, batches)
            answers.append(f"{way} {top1(network, val)}")
        after = "; ".join(answers) or "none: BatchNorm is folded"
        yield line([tool.name, accuracies[tool.name], *times[tool.name], after])


@torch.no_grad()
def top1(network: nn.Module, val: Labelled) -> str:
    """Return top-1 in percent, or say that the logits are not finite."""
    logits = torch.cat([network(images) for images, _ in val])
    if not bool(torch.isfinite(logits).all()):
        return "not finite"
    labels = torch.cat([labels for _, labels in val])
    return f"{100 * float((logits.argmax(1) == labels).double().mean()):.2f}"


@torch.no_grad()
def milliseconds(networks: Mapping[str, nn.Module], val: Labelled, repeats: int) -> dict[str, list[str]]:
    """Return milliseconds an image in each network, and their ratio to those in `networks["float32"]`."""
    images = sum(len(batch) for batch, _ in val)
    times: dict[str, list[float]] = {name: [] for name in networks}
    for _ in progress(range(repeats), "time of an image", "round"):
        for name, network in networks.items():
            times[name].append(1000 * timed(partial(top1, network, val)) / images)
    cells = {}
    for name, own in times.items():
        median, _, ratio = in_turns(own, times["float32"])
        cells[name] = [median, ratio]
    return cells


def timed(work: Callable[[], object]) -> float:
    """Return the seconds that a call takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


# --- the whole --------------------------------------------------------------------------------------------------------


def shipped(name: str) -> nn.Module:
    """A network that comes with the package, in eval mode."""
    return load_model(bnrecal.ModelConfig(name=name), GlyphSource()).network


def installed() -> list[str]:
    """Peers that can be imported. Those that cannot are printed, with the reason."""
    there = []
    for module, package in PACKAGES.items():
        try:
            with redirect_stdout(sys.stderr):  # NNCF logs to what is the standard output now
                import_module(module)
            there.append(module)
        except ImportError as error:
            print(f"left out: {package} cannot be imported ({error}); pip install 'bnrecal[peers]'")
    return there


def line(cells: Sequence[str]) -> str:
    """A row of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Print what was compared with what, on which machine, and the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--networks", nargs="*", default=NETWORKS, help="whose statistics are compared (default: all)")
    add("--quantized", default="mobilenet_v1", help="network in 8 bits; '' for none (default: %(default)s)")
    add("--statistics", type=int, default=1024, help="training images of the first table (default: %(default)s)")
    add("--images", type=int, default=2048, help="training images of the second table (default: %(default)s)")
    add("--calibration", type=int, default=512, help="of them, for ranges (default: %(default)s)")
    add("--val", type=int, default=2000, help="validation images (default: %(default)s)")
    add("--timed", type=int, default=300, help="of them, whose time is taken (default: %(default)s)")
    add("--rounds", type=int, default=5, help="of which the median counts (default: %(default)s)")
    own = parser.parse_args()
    keep_freed_memory()  # as every command of bnrecal does: fresh pages would cost all tools, at random
    started = time.monotonic()
    with patch.dict(os.environ, NNCF_CI="1"):  # NNCF would report its use to its makers
        there = installed()
        print(heading(there), flush=True)
        training = max(own.statistics, own.images)
        glyphs = GlyphSource(train_images=training, val_images=own.val)
        train = glyphs.dataset("train", range(training), GLYPH_PREPROCESSING)
        batches = [images for images, _ in DataLoader(train, BATCH)]
        if own.networks:
            print_statistics(own, batches[: in_batches(own.statistics)], "fvcore" in there)
        if own.quantized:
            held_out = glyphs.dataset("val", range(own.val), GLYPH_PREPROCESSING)
            val = [(images, labels) for images, labels in DataLoader(held_out, VAL_BATCH)]
            print_tools(own, batches[: in_batches(own.images)], val, there)
    print(f"\nIt took {(time.monotonic() - started) / 60:.1f} minutes.")


def print_statistics(own: argparse.Namespace, batches: Batches, fvcore: bool) -> None:
    """Print the first table."""
    print(f"\nSeconds of re-estimation on {own.statistics} images and their ratio,")
    print("and the largest difference of a mean (in deviations) and of a variance (as part of it):\n")
    heads = ["network", "pooled (s)", "fvcore (s)", "ratio", "mean", "variance"]
    heads += ["cumulative (s)", "update_bn (s)", "ratio", "mean", "variance"]
    print(line(heads), line(["---"] * len(heads)), sep="\n", flush=True)
    for row in compare_statistics(own.networks, batches, own.rounds, fvcore):
        print(row, flush=True)


def print_tools(own: argparse.Namespace, batches: Batches, val: Labelled, there: Sequence[str]) -> None:
    """Print the second table."""
    print(f"\n{own.quantized} in 8 bits, {own.calibration} images for ranges, {own.val} validation images,")
    print(f"{own.images} training images for re-estimation, time of an image on {own.timed}:\n")
    heads = ["tool", "top-1 (%)", "ms an image", "ratio to float32", "top-1 after re-estimation (%)"]
    print(line(heads), line(["---"] * len(heads)), sep="\n", flush=True)
    calibration = batches[: in_batches(own.calibration)]
    timed_on = val[: in_batches(own.timed, VAL_BATCH)]
    for row in compare_tools(own.quantized, batches, calibration, val, timed_on, own.rounds, there):
        print(row, flush=True)


def in_batches(images: int, batch: int = BATCH) -> int:
    """Return how many batches hold so many images."""
    return -(-images // batch)


def heading(there: Sequence[str]) -> str:
    """Versions, the machine and the date."""
    versions = [f"{package} {version(package)}" for package in ("bnrecal", "torch", *map(PACKAGES.__getitem__, there))]
    machine = f"{processor_name()} ({instruction_set()}), {torch.get_num_threads()} threads"
    return f"{', '.join(versions)}; {machine}; {date.today()}"


if __name__ == "__main__":
    with one_line_errors():
        main()
