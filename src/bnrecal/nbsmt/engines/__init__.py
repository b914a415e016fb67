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


def engine_names() -> tuple[str, ...]:
    """Names by which a caller may ask for an engine."""
    return tuple(dict.fromkeys(name for engine in ENGINES for name in engine.names))


def choose_engine(layer: ConvLayer) -> type[Engine]:
    """Return the first engine that can run a layer and, where `layer.engine_name` names one, answers to that name.

    Raises:
        ValueError: for a name that no engine has, and with the reasons of all that have it and cannot run the layer.
    """
    if layer.engine_name is not None and layer.engine_name not in engine_names():
        raise ValueError(f"engine must be one of {engine_names()}, not {layer.engine_name!r}")
    reasons = []
    for engine in ENGINES:
        if layer.engine_name is not None and layer.engine_name not in engine.names:
            continue
        reason = engine.can_run(layer if engine.folds else layer.folded)
        if not reason:
            return engine
        reasons.append(reason)
    why = "; ".join(reasons)
    raise ValueError(f"engine {layer.engine_name!r} cannot run {layer.spec} on this {layer.device.type}: {why}")


def make_engine(layer: ConvLayer) -> Engine | Folded:
    """Return the engine that runs a layer, with its weights prepared."""
    engine = choose_engine(layer)
    if engine.folds or layer.folded is layer:
        return engine(layer)
    return Folded(layer, engine(layer.folded))
