"""Engines: what carries out a threaded convolution on a device."""

from bnrecal.nbsmt.engines.cpu.dense_sparse import DenseSparseEngine
from bnrecal.nbsmt.engines.cpu.depthwise import DepthwiseEngine
from bnrecal.nbsmt.engines.engine import ConvLayer, Engine, Folded
from bnrecal.nbsmt.engines.gpu.choose import TritonEngine
from bnrecal.nbsmt.engines.gpu.int_mm import IntMMEngine
from bnrecal.nbsmt.engines.torch_engine import TorchEngine

# In order of preference: a layer takes the first that can run it. The last one runs every layer.
ENGINES: tuple[type[Engine], ...] = (
    TritonEngine,
    IntMMEngine,
    DepthwiseEngine,
    DenseSparseEngine,
    TorchEngine,
)


def backends() -> tuple[str, ...]:
    """Names by which a caller may ask for an engine."""
    return tuple(dict.fromkeys(name for engine in ENGINES for name in engine.names))


def choose_engine(layer: ConvLayer) -> type[Engine]:
    """Return the first engine that can run a layer and, where `layer.backend` names one, answers to that name.

    Raises:
        ValueError: for a name that no engine has, and with the reasons of all that have it and cannot run the layer.
    """
    if layer.backend is not None and layer.backend not in backends():
        raise ValueError(f"backend must be one of {backends()}, not {layer.backend!r}")
    reasons = []
    for engine in ENGINES:
        if layer.backend is not None and layer.backend not in engine.names:
            continue
        reason = engine.can_run(layer if engine.folds else layer.folded)
        if not reason:
            return engine
        reasons.append(reason)
    why = "; ".join(reasons)
    raise ValueError(f"backend {layer.backend!r} cannot run {layer.spec} on this {layer.device.type}: {why}")


def make_engine(layer: ConvLayer) -> Engine | Folded:
    """Return the engine that runs a layer, with its weights prepared.

    Raises:
        ValueError: as `choose_engine` does.
    """
    engine = choose_engine(layer)
    if engine.folds or layer.folded is layer:
        return engine(layer)
    return Folded(layer, engine(layer.folded))
