"""Compare with other tools on networks and images that come with the package, in one run, as Markdown tables.

    pip install 'bnrecal[peers]'
    python scripts/compare_peers.py

1. BatchNorm statistics of the float32 networks: `pooled` beside fvcore's `update_bn_stats`, `cumulative` beside
   `torch.optim.swa_utils.update_bn`.
2. One network in 8 bits by each tool: top-1 and time. Weights have a scale per filter where a tool lets one choose.
3. The same networks after their BatchNorm statistics were re-estimated, by the tool's own way and by bnrecal's.

A tool that is not installed is left out, by name. Times are the best of several rounds, tools taking turns.
"""

import argparse
import copy
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from functools import partial
from importlib import import_module
from importlib.metadata import version

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import update_bn
from torch.utils.data import DataLoader

import bnrecal
from bnrecal.batchnorm.recalibrate import load_statistics, statistics
from bnrecal.commands.cli.errors import one_line_errors
from bnrecal.data.glyphs.source import GLYPH_PREPROCESSING, GlyphSource
from bnrecal.memory import keep_freed_memory
from bnrecal.models import load_model
from bnrecal.nbsmt.analysis.machine import instruction_set, processor_name

NETWORKS = ("resnet18", "resnet50", "googlenet", "densenet121", "resnet50_mlperf", "mobilenet_v1")
PACKAGES = {"fvcore": "fvcore", "torchao": "torchao", "nncf": "nncf", "brevitas": "brevitas"}  # import -> distribution
BATCH = 128

Batches = Sequence[Tensor]
Labelled = Sequence[tuple[Tensor, Tensor]]
Bools = npt.NDArray[np.bool_]
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


def compare_statistics(names: Sequence[str], batches: Batches, repeats: int, fvcore: bool) -> Iterator[str]:
    """Yield a row per network: seconds of each tool, and the largest differences of what it estimates."""
    ways: dict[str, Recalibrate] = {"pooled": by_pooled, "cumulative": by_cumulative, "update_bn": by_update_bn}
    if fvcore:
        ways["fvcore"] = by_fvcore
    for name in names:
        trained = shipped(name)
        by_pooled(copy.deepcopy(trained), batches[:1])  # kernels are read or compiled at their first use
        seconds: dict[str, float] = {}
        networks: dict[str, nn.Module] = {}
        for _ in range(repeats):
            for way, recalibrate in ways.items():
                networks[way] = copy.deepcopy(trained)
                taken = timed(partial(recalibrate, networks[way], batches))
                seconds[way] = min(taken, seconds.get(way, taken))
        cells = [name]
        for own, other in (("pooled", "fvcore"), ("cumulative", "update_bn")):
            if other in networks:
                mean, variance = largest_differences(networks[own], networks[other])
                cells += [f"{seconds[own]:.2f}", f"{seconds[other]:.2f}", f"{mean:.1e}", f"{variance:.1e}"]
            else:
                cells += [f"{seconds[own]:.2f}", "", "", ""]
        yield line(cells)


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
    for tool in tools:
        networks[tool.name] = tool.quantize(copy.deepcopy(trained), calibration)
    accuracies = {own: top1(network, val) for own, network in networks.items()}
    times = milliseconds(networks, timed_on, repeats)
    yield line(["float32", accuracies["float32"], f"{times['float32']:.2f}", ""])
    for tool in tools:
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
        yield line([tool.name, accuracies[tool.name], f"{times[tool.name]:.2f}", after])


@torch.no_grad()
def top1(network: nn.Module, val: Labelled) -> str:
    """Return top-1 in percent, or say that the logits are not finite."""
    logits = torch.cat([network(images) for images, _ in val])
    if not bool(torch.isfinite(logits).all()):
        return "not finite"
    labels = torch.cat([labels for _, labels in val])
    return f"{100 * float((logits.argmax(1) == labels).double().mean()):.2f}"


@torch.no_grad()
def milliseconds(networks: Mapping[str, nn.Module], val: Labelled, repeats: int) -> dict[str, float]:
    """Return the time of an image in each network, the best of some rounds over all of them."""
    images = sum(len(batch) for batch, _ in val)
    best = dict.fromkeys(networks, float("inf"))
    for _ in range(repeats):
        for name, network in networks.items():
            best[name] = min(best[name], timed(partial(top1, network, val)))
    return {name: 1000 * seconds / images for name, seconds in best.items()}


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
            import_module(module)
            there.append(module)
        except ImportError as error:
            print(f"left out: {package} cannot be imported ({error}); pip install 'bnrecal[peers]'")
    return there


def line(cells: Sequence[str]) -> str:
    """A row of a Markdown table."""
    return f"| {' | '.join(cells)} |"


@contextmanager
def telemetry_off() -> Iterator[None]:
    """Keep NNCF from reporting its use to its makers."""
    before = os.environ.get("NNCF_CI")
    os.environ["NNCF_CI"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["NNCF_CI"]


def main() -> None:
    """Print what was compared with what, on which machine, and the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="*", default=NETWORKS, help="whose statistics are compared (default: all)")
    parser.add_argument(
        "--network", default="mobilenet_v1", help="which is quantized; '' for none (default: %(default)s)"
    )
    parser.add_argument("--images", type=int, default=2048, help="training images (default: %(default)s)")
    parser.add_argument("--calibration", type=int, default=512, help="of them, for ranges (default: %(default)s)")
    parser.add_argument("--val", type=int, default=2000, help="validation images (default: %(default)s)")
    parser.add_argument("--timed", type=int, default=500, help="of them, whose time is taken (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="of which the quickest counts (default: %(default)s)")
    own = parser.parse_args()
    keep_freed_memory()  # as every command of bnrecal does: fresh pages would cost all tools, at random
    with telemetry_off():
        there = installed()
        glyphs = GlyphSource(train_images=own.images, val_images=own.val)
        train = glyphs.dataset("train", range(own.images), GLYPH_PREPROCESSING)
        held_out = glyphs.dataset("val", range(own.val), GLYPH_PREPROCESSING)
        batches = [images for images, _ in DataLoader(train, BATCH)]
        val = [(images, labels) for images, labels in DataLoader(held_out, 100)]
        print(f"{heading(there)}; {own.images} training images\n", flush=True)
        print(
            "Seconds of re-estimation, and the largest difference of a mean (deviations) and a variance (its parts):\n"
        )
        heads = ["network", "pooled (s)", "fvcore (s)", "mean", "variance"]
        heads += ["cumulative (s)", "update_bn (s)", "mean", "variance"]
        print(line(heads), line(["---"] * len(heads)), sep="\n")
        for row in compare_statistics(own.models, batches, own.repeats, "fvcore" in there):
            print(row, flush=True)
        if not own.network:
            return
        print(f"\n{own.network} in 8 bits, {own.calibration} images for ranges, {own.val} validation images:\n")
        print(line(["tool", "top-1 (%)", "ms an image", "top-1 after re-estimation (%)"]), line(["---"] * 4), sep="\n")
        calibration = batches[: -(-own.calibration // BATCH)]
        timed_on = val[: -(-own.timed // len(val[0][0]))]
        for row in compare_tools(own.network, batches, calibration, val, timed_on, own.repeats, there):
            print(row, flush=True)


def heading(there: Sequence[str]) -> str:
    """Versions, the machine and the date."""
    versions = [f"{package} {version(package)}" for package in ("bnrecal", "torch", *map(PACKAGES.__getitem__, there))]
    machine = f"{processor_name()} ({instruction_set()}), {torch.get_num_threads()} threads"
    return f"{', '.join(versions)}; {machine}; {date.today()}"


if __name__ == "__main__":
    with one_line_errors():
        main()
