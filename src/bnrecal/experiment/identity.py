"""Everything that a number depends on, by content: a kept number is used again only while all of it is the same.

An identity is plain data that goes into the files it stands for, so that a difference can be named: the network
(weights, code, answers on a probe), the images (names, sizes, times), the settings that matter with the contents of
the files they name, the code of this package and the versions of the libraries.
"""

import hashlib
import json
import math
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bnrecal.config import Config
from bnrecal.data.base import ImageSource
from bnrecal.data.selection import Selection
from bnrecal.experiment.provenance import content_hash, settings, source_hash, versions
from bnrecal.models.base import LoadedModel
from bnrecal.nbsmt.policies.custom import fingerprint, is_custom
from bnrecal.quantization.layer_plan import threads_by_layer

Identity = dict[str, Any]

PROBE = "probe"
PROBE_IMAGES, PROBE_LOGITS = 2, 8
# Another processor or batch moves logits by some 1e-6 of their size; a network that computes something else, by more.
PROBE_TOLERANCE = 1e-3
_VERSIONED = ("torch", "torchvision", "bnrecal")  # packages whose code `versions` stands for

_WORDS = {
    "network.weights": "the weights",
    "network.function": "the network's code or arguments",
    "network.probe": "what the float network answers",
    "network.preprocessing": "the preprocessing",
    "code": "bnrecal's code",
    "settings.smt.rule": "the rule of smt.policy",
}


def experiment_identity(
    config: Config, source: ImageSource, model: LoadedModel, selections: Sequence[Selection]
) -> Identity:
    """Everything that the numbers of one experiment depend on.

    Args:
        model: its network on the CPU.
        selections: the images that take part.
    """
    return {
        "network": network_identity(config, source, model),
        "images": {one.role: source.version(one.split, one.indices) for one in selections},
        "settings": settings_identity(config),
        "code": source_hash(),
        "versions": {name: version for name, version in versions().items() if name != "source"},
    }


def settings_identity(config: Config) -> dict[str, Any]:
    """Settings that can change the numbers, with the contents of the files that they name.

    Paths, and places in files, are no settings here: what lies there is in the other parts.
    """
    settled = settings(config)
    del settled["model"]["checkpoint"], settled["model"]["checkpoint_key"]
    del settled["data"]["root"], settled["smt"]["plan"]
    if is_custom(config.smt.policy):  # its rule may change while its name stays
        settled["smt"]["rule"] = fingerprint(config.smt.policy)
    # in their order, for a later glob wins
    settled["smt"]["layers"] = [list(pair) for pair in threads_by_layer(config.smt.plan, config.smt.layers).items()]
    return settled


def network_identity(config: Config, source: ImageSource, model: LoadedModel) -> Identity:
    """Return what the float network computes; it is on the CPU."""
    crop = model.preprocessing.crop
    shape = (3, crop, crop) if crop else tuple(source.dataset("val", [0], model.preprocessing)[0][0].shape)
    return {
        "weights": model.weights_hash,
        "function": function_hash(config, model.network),
        PROBE: probe(model.network, shape),
        "preprocessing": content_hash(asdict(model.preprocessing)),
        "label_offset": model.label_offset,
    }


def function_hash(config: Config, network: nn.Module) -> str:
    """A hash of what the network is made by: family and arguments, structure, the source files of its classes."""
    modules = {type(module).__module__ for module in network.modules()}
    if config.model.factory:
        modules.add(config.model.factory.partition(":")[0])
    made = (config.model.family, config.model.name, config.model.factory, config.model.kwargs)
    structure = re.sub("0x[0-9a-f]+", "", repr(network))
    return content_hash([made, structure, sorted(filter(None, map(_file_hash, modules)))])


def _file_hash(module: str) -> str | None:
    """Return the hash of a module's source file, unless it belongs to a library whose version is noted."""
    path = getattr(sys.modules.get(module), "__file__", None)
    if path is None or module.partition(".")[0] in _VERSIONED or not Path(path).is_file():
        return None
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


@torch.no_grad()
def probe(network: nn.Module, shape: tuple[int, ...]) -> list[float]:
    """Some logits of the float network for fixed images of noise: code that no hash sees shows here."""
    noise = torch.randn(PROBE_IMAGES, *shape, generator=torch.Generator().manual_seed(0))
    logits = network(noise)
    chosen = torch.linspace(0, logits.shape[1] - 1, PROBE_LOGITS).long()
    return [float(f"{value:.6g}") for value in logits[:, chosen].flatten().tolist()]


def content_key(identity: Identity) -> str:
    """A hash of an identity; the probe, which is equal within a tolerance only, has no part in it."""
    network = {key: value for key, value in identity.get("network", {}).items() if key != PROBE}
    return content_hash({**identity, "network": network})


def differences(one: Identity, other: Identity) -> list[str]:
    """In words, the parts in which two identities differ; none if they stand for the same number."""
    return list(dict.fromkeys(_different(_plain(one), _plain(other), "")))


def _plain(identity: Any) -> Any:
    """Return a value as a file would give it back."""
    return json.loads(json.dumps(identity, default=str))


def _different(one: Any, other: Any, path: str) -> Iterator[str]:
    if isinstance(one, dict) and isinstance(other, dict):
        for key in sorted(one.keys() | other.keys()):
            yield from _different(one.get(key), other.get(key), f"{path}.{key}".lstrip("."))
    elif not (_close(one, other) if path.endswith(PROBE) else one == other):
        yield _described(path)


def _close(one: Any, other: Any) -> bool:
    if not isinstance(one, list) or not isinstance(other, list) or len(one) != len(other):
        return False
    slack = PROBE_TOLERANCE * max(map(abs, [*one, *other]), default=0.0)
    return all(math.isclose(a, b, rel_tol=0, abs_tol=slack) for a, b in zip(one, other, strict=True))


def _described(path: str) -> str:
    first, _, rest = path.partition(".")
    if not rest:  # a part of one value, or one that the other identity lacks
        return _WORDS.get(path, path)
    if first == "images":
        return f"the {rest} images"
    if first == "versions":
        return f"the version of {rest}"
    return _WORDS.get(path, rest if first == "settings" else path)
