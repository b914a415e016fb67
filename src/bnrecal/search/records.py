"""Records of the curves of Figure 1."""

from typing import Literal, TypedDict

Method = Literal["highest_error", "plan", "random"]  # how the slowed layers are chosen, see `curves.Point`


class CurveRecord(TypedDict):
    """An operating point of one network; accuracies in percent, differences in percentage points.

    Attributes:
        curve: method and recalibration, as people write them.
        target: the speedup it was chosen for.
        slowed: layers below four threads; `layers` names the threads of all.
        drop_stderr: standard error of the difference to float32, on the same images.
        above_highest_error: top-1 minus that of the highest-error order at the same target.
        origin, search_loss, heldout_loss: of the choice, None for the highest-error order; losses in nats.
        evaluations: choices measured on training images for the whole curve, over `evaluated_images` images.
        content: hash of all that the numbers depend on.
        collisions_4t: share of steps with two or more active threads where all layers run four.
    """

    model: str
    data: str
    curve: str
    method: Method
    recal: bool
    reorder: str
    target: float
    speedup: float
    cycles: int
    slowed: int
    layers: str
    images: int
    top1: float
    stderr: float
    fp32_top1: float
    a8w8_top1: float
    drop: float
    drop_stderr: float
    gain: float
    gain_p: float | None
    above_highest_error: float
    above_highest_error_stderr: float
    origin: str | None
    search_loss: float | None
    search_loss_stderr: float | None
    heldout_loss: float | None
    heldout_loss_stderr: float | None
    evaluations: int
    evaluated_images: int
    seed: int
    weights_hash: str
    content: str
    collisions_4t: float
