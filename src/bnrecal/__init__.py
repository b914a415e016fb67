"""bnrecal: post-training BatchNorm recalibration under NB-SMT (Shomron & Weiser, 2020).

    q = bnrecal.quantize(model, batches, bnrecal.SmtSpec(threads=4))
    bnrecal.recalibrate_(q, train_batches)
    bnrecal.evaluate({"float32": model, "4T": q}, val_batches)

docs/api.md describes every name. Each is loaded when it is first used: `import bnrecal` alone loads no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bnrecal.api import Score, evaluate, layer_table, nbsmt_conv2d, quantize, recalibrate_, run
    from bnrecal.config import (
        CalibrationConfig,
        Config,
        DataConfig,
        ModelConfig,
        QuantConfig,
        RecalibrationConfig,
        SmtConfig,
    )
    from bnrecal.errors import BnrecalError
    from bnrecal.memory import keep_freed_memory
    from bnrecal.nbsmt.spec import SmtSpec

__version__ = "0.2.0"

__all__ = [
    "BnrecalError",
    "CalibrationConfig",
    "Config",
    "DataConfig",
    "ModelConfig",
    "QuantConfig",
    "RecalibrationConfig",
    "Score",
    "SmtConfig",
    "SmtSpec",
    "evaluate",
    "keep_freed_memory",
    "layer_table",
    "nbsmt_conv2d",
    "quantize",
    "recalibrate_",
    "run",
]

_ELSEWHERE = {
    "BnrecalError": "bnrecal.errors",
    "SmtSpec": "bnrecal.nbsmt.spec",
    "keep_freed_memory": "bnrecal.memory",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'bnrecal' has no attribute {name!r}: choose one of {', '.join(__all__)}")
    home = _ELSEWHERE.get(name, "bnrecal.config" if name.endswith("Config") else "bnrecal.api")
    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
