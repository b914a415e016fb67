"""The export, top to bottom: fold, write, read back, compare; the folder appears only when everything agreed."""

import copy
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from bnrecal.batchnorm.recalibrate import load_statistics, statistics
from bnrecal.errors import BnrecalError
from bnrecal.experiment.networks import ThreadedNetwork
from bnrecal.experiment.setup import Experiment, machine
from bnrecal.export.agreement import Agreement, check_agreement, compare
from bnrecal.export.config import VectorsConfig
from bnrecal.export.fold import Folding, find_folds, trace_convolutions
from bnrecal.export.handover import origin, write_example, write_policy
from bnrecal.export.last_bits import check_layers, layer_differences
from bnrecal.export.network import FoldedConv2d, folded_network, load_folded_
from bnrecal.export.plan_file import plan_content, read_plan
from bnrecal.export.tensors import exported_tensors, folded_state
from bnrecal.export.vector_files import check_against_golden_model, corner_vectors, read_hex, write_hex, write_layer
from bnrecal.export.vectors import layer_vectors
from bnrecal.quantization.convert import threaded_copy
from bnrecal.quantization.layer_plan import matches_any

MODEL, FLOAT_STATE, PLAN, VECTORS = "model.safetensors", "folded_state_dict.pth", "plan.json", "vectors"


@dataclass(frozen=True)
class Export:
    """The files that were written, and how they compare with the network.

    Attributes:
        agreements: "quantized" and "float32": the folded network against the unfolded one.
        last_bits: differences of the folded convolutions, from `last_bits.layer_differences`.
        vectors: outputs with golden vectors, by layer name.
        plan: the content of `plan.json`.
    """

    folder: Path
    folding: Folding
    agreements: dict[str, Agreement]
    last_bits: dict[str, float]
    vectors: dict[str, int]
    plan: dict[str, Any]


def export(experiment: Experiment, prepared: ThreadedNetwork, wanted: VectorsConfig, out: Path) -> Export:
    """Write a variant of a network into the folder `out`, after comparing it with the network it was made from.

    Raises:
        BnrecalError: if `out` holds anything but an earlier export, or the folded network or the vectors disagree.
    """
    network = experiment.model.network
    image = next(image for image in experiment.loader.images(experiment.validation, 1) if len(image))
    traced = trace_convolutions(network, image)
    folding = find_folds(network, traced)
    with _appearing(out) as folder:
        tensors = exported_tensors(prepared.network, prepared.plans, prepared.layers, folding, traced)
        save_file(tensors, folder / MODEL, metadata={"made_by": "bnrecal export"})
        torch.save(folded_state(prepared.network, folding, traced), folder / FLOAT_STATE)
        plan = _plan(experiment, prepared, folding, wanted)
        (folder / PLAN).write_text(json.dumps(plan, indent=1) + "\n")
        # from the files that were written
        folded, quantized = folded_network(network, load_file(folder / MODEL), read_plan(folder / PLAN))
        vectors = _write_vectors(experiment, folded, quantized, wanted, image, folder)
        differences = layer_differences(prepared.network, quantized, folding.into, image)
        check_layers(differences)
        pairs = {"quantized": (prepared.network, folded), "float32": _float_pair(experiment, prepared, folder)}
        write_example(folded, pairs["float32"][1], image, folder)
        write_policy(machine(experiment.config.smt), folder)
        agreements = compare(
            pairs,
            experiment.loader.batches(experiment.validation, experiment.batch_size),
            experiment.model.label_offset,
        )
        for name, agreement in agreements.items():
            check_agreement(name, agreement)
    return Export(out, folding, agreements, differences, vectors, plan)


def _plan(experiment: Experiment, prepared: ThreadedNetwork, folding: Folding, wanted: VectorsConfig) -> dict[str, Any]:
    smt = experiment.config.smt
    folders = {name: f"{VECTORS}/{name}" for name in prepared.layers if matches_any(name, wanted.layers)}
    content = plan_content(prepared.plans, folding, machine(smt), smt.array, folders)
    named = {"made_by": "bnrecal export", "model": experiment.model.name, "data": experiment.source.name}
    return {**named, **origin(experiment, prepared.variant), **content}


def _float_pair(experiment: Experiment, prepared: ThreadedNetwork, folder: Path) -> tuple[nn.Module, nn.Module]:
    """The float32 network with the variant's BatchNorm statistics, and the folded one from its file."""
    original = threaded_copy(experiment.model.network, {})
    load_statistics(original, statistics(prepared.network))
    state = torch.load(folder / FLOAT_STATE, map_location=experiment.device, weights_only=True)
    return original, load_folded_(copy.deepcopy(experiment.model.network), state)


def _write_vectors(
    experiment: Experiment,
    network: nn.Module,
    quantized: dict[str, FoldedConv2d],
    wanted: VectorsConfig,
    image: torch.Tensor,
    folder: Path,
) -> dict[str, int]:
    """Write the golden vectors, read them back, and let the golden model recompute them; outputs by layer name."""
    names = [name for name in quantized if matches_any(name, wanted.layers)]
    counts = {}
    for layer in layer_vectors(network, quantized, names, image, wanted.outputs, experiment.config.seed):
        place = folder / VECTORS / layer.name
        write_layer(layer, place)
        check_against_golden_model(read_hex(place, layer.vectors.spec), layer.name)
        counts[layer.name] = len(layer.positions)
    for spec in dict.fromkeys(quantized[name].spec for name in names):
        write_hex(corner_vectors(spec), folder / VECTORS / f"corners-{spec.threads}T")
    return counts


@contextmanager
def _appearing(out: Path) -> Iterator[Path]:
    """A folder beside `out` that takes its place when the block ends well and is removed when it does not."""
    if out.exists() and not (out.is_dir() and (not any(out.iterdir()) or _is_export(out))):
        raise BnrecalError(f"out={out} exists and holds no export: choose another folder")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as error:
        raise BnrecalError(f"cannot write out={out} ({error.strerror}): choose another folder") from error
    try:
        yield temporary
        temporary.chmod(0o755)
        if out.exists():
            shutil.rmtree(out)
        temporary.replace(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _is_export(folder: Path) -> bool:
    try:
        return bool(json.loads((folder / PLAN).read_text())["made_by"] == "bnrecal export")
    except (OSError, ValueError, KeyError, TypeError):
        return False
