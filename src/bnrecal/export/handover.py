"""Companions of the exported numbers: an image with its logits, the rule of the policy, where all of it comes from."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from bnrecal.experiment.provenance import recalibration_settings
from bnrecal.experiment.setup import Experiment
from bnrecal.experiment.variant import Variant
from bnrecal.files import atomic_path
from bnrecal.nbsmt import reference
from bnrecal.nbsmt.float_conv import forward
from bnrecal.nbsmt.policies.builtin import built_in
from bnrecal.nbsmt.policies.custom import MOST_THREADS, is_custom, pinned
from bnrecal.nbsmt.policies.factorize import Integers
from bnrecal.nbsmt.spec import SmtSpec

EXAMPLE, POLICY = "example.safetensors", "policy.npz"


@torch.no_grad()
def write_example(folded: nn.Module, float32: nn.Module, image: Tensor, folder: Path) -> None:
    """Write a network input, float32 (1, 3, H, W), and the logits (1, classes) that the folded networks give it."""
    tensors = {"input": image, "logits": forward(folded, image), "float32_logits": forward(float32, image)}
    save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, folder / EXAMPLE)


def write_policy(spec: SmtSpec, folder: Path) -> None:
    """Write the policy as a table: `products`, int32 (4, 256, 256)."""
    with atomic_path(folder / POLICY) as path, path.open("wb") as file:
        np.savez_compressed(file, products=policy_products(spec).astype(np.int32))


def policy_products(spec: SmtSpec) -> Integers:
    """Return what a thread adds to the sum: int64 (4, 256, 256), at [active - 1, a, b + 128]."""
    if is_custom(spec.policy):
        return pinned(spec.policy).tables
    activations = range(256)
    weights = range(-128, 128)
    a = np.array(activations)[:, None]
    b = np.array(weights)[None, :]
    ra = np.array([reference.reduced_activation(value, spec.rounding, spec.saturate) for value in activations])[:, None]
    rb = np.array([reference.reduced_weight(value, spec.rounding, spec.saturate) for value in weights])[None, :]
    two = np.vectorize(built_in(spec.policy).collide, otypes=[np.int64])(a, b, ra, rb)
    return np.stack([a * b, two, *[ra * rb] * (MOST_THREADS - 2)])


def origin(experiment: Experiment, variant: Variant) -> dict[str, Any]:
    """Return what the exported numbers come from, for `plan.json`."""
    model = experiment.model
    config = experiment.config
    recalibration = {**recalibration_settings(config), **experiment.recalibration_provenance} if variant.recal else None
    return {
        "weights": {"source": model.weights, "sha256": model.weights_hash},
        "preprocessing": asdict(model.preprocessing),
        "label_offset": model.label_offset,
        "calibration": {"act_range": config.quant.act_range, **experiment.calibration.provenance(experiment.source)},
        "recalibration": recalibration,
    }
