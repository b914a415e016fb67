"""Records of a result, as they lie in `result.json` and, cell by cell, in the JSON files of Table 1."""

from typing import Any, TypedDict

from bnrecal.data.selection import ImagesRecord


class ExceptionRecord(TypedDict):
    """A convolution that does not run the threads of its experiment, for programs.

    Attributes:
        kind: a value of `quantization.layer_plan.ExceptionKind`.
        threads: that it runs; 0 is float32.
    """

    kind: str
    threads: int


class ProvenanceRecord(TypedDict):
    """The network, the images, the settings and the machine that a result comes from.

    Attributes:
        content: hash of all that the numbers depend on, `identity`.
        config: nested settings.
        engine: what did the sums.
        fusion: a `quantization.fused.Fusion`.
        weights: where they come from.
        images: by role.
    """

    content: str
    identity: dict[str, Any]
    config: dict[str, Any]
    versions: dict[str, str]
    device: str
    device_kind: str
    engine: str
    fusion: dict[str, Any]
    weights: str
    weights_hash: str
    images: dict[str, ImagesRecord]


class Accuracies(TypedDict):
    """The measured fields of a `Result`, which explains them."""

    images: int
    top1: float
    top5: float
    stderr: float
    fp32_top1: float
    fp32_top5: float
    a8w8_top1: float
    a8w8_top5: float
    drop: float
    top1_wo_recal: float
    gain: float
    gain_p: float | None
    control_gain: float | None
    loss_p: float
    recovered: float | None
    recovered_low: float | None
    recovered_high: float | None
    restricted_top1: float | None
    skipped: int


class ResultRecord(Accuracies):
    """`Result.to_json`."""

    model: str
    data: str
    threads: int
    policy: str
    recal: bool
    speedup: float
    cycles: int
    cycle_speedup: float
    seed: int
    exceptions: dict[str, str]
    layer_exceptions: dict[str, ExceptionRecord]
    provenance: ProvenanceRecord
    seconds: float
