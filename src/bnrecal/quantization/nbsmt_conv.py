"""The quantized, threaded convolution that answers a `ConvInterceptor`."""

from typing import Any

import torch
from torch import Tensor, nn

from bnrecal.errors import BnrecalError
from bnrecal.nbsmt.analysis.collisions import CollisionStatistics, collision_statistics
from bnrecal.nbsmt.arithmetic import quantize_activation
from bnrecal.nbsmt.finite import all_finite
from bnrecal.nbsmt.geometry import Geometry
from bnrecal.nbsmt.prepared_conv import PreparedConv2d
from bnrecal.nbsmt.spec import SmtSpec
from bnrecal.quantization.calibrate import ConvInfo
from bnrecal.quantization.intercept import ConvCall
from bnrecal.quantization.qparams import activation_scale, quantize_weight

FLOATS = (torch.float32, torch.float16, torch.bfloat16)  # of activations: float32 holds them exactly
Stamp = tuple[int, int]  # where a weight lies, and how often PyTorch noted a write to it


class PackedWeight:
    """A weight expanded and packed once for each device and geometry it is called with, nearly always one.

    Pickling leaves the packed form behind.

    Args:
        name: the convolution's, for messages.
        weight: int8 (O, C/groups, kh, kw).
    """

    def __init__(self, name: str, weight: Tensor, spec: SmtSpec) -> None:
        self.name, self.weight, self.spec = name, weight, spec
        self._packed: dict[tuple[torch.device, Geometry], PreparedConv2d] = {}
        self._last: tuple[torch.device, Geometry, PreparedConv2d] | None = None  # of the last call

    def for_call(self, call: ConvCall) -> PreparedConv2d:
        """Return the convolution of this weight for a call's input and geometry."""
        last = self._last
        device = call.x.device
        if last is not None and call.geometry is last[1] and device == last[0]:  # to hash a geometry takes longer
            return last[2]
        place = (device, call.geometry)
        if place not in self._packed:
            if call.weight.shape != self.weight.shape:
                raise BnrecalError(
                    f"the convolution {self.name} is called with a weight of shape {tuple(call.weight.shape)}, "
                    f"calibrated with {tuple(self.weight.shape)}: leave it in float32 with quant.skip=[{self.name}]"
                )
            self._packed[place] = PreparedConv2d(self.weight, self.spec, **vars(call.geometry), device=call.x.device)
        self._last = (*place, self._packed[place])
        return self._last[2]

    def convolutions(self) -> list[PreparedConv2d]:
        """Return what the calls so far needed."""
        return list(self._packed.values())

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_packed": {}, "_last": None}


class NBSMTConv2d:
    """scale_x * scale_w[o] * NB-SMT(q(x), q(w)) + bias[o], float32 in and out.

    Weights are quantized on the CPU, for the same levels on every device.

    Attributes:
        weight: int8 (O, C/groups, kh, kw), on the CPU.
        weight_scale: float32 (O,), on the CPU.
        input_scale: step of the activation levels, in activation units.
        signed: whether the input levels are -128..127 instead of 0..255.
        permutation: int64 (C,), position i is taken by input channel permutation[i], so that other channels become
            partners; None: as they come. For convolutions of one group.
        packed: the weight permuted likewise, as the engine holds it.
        collisions: counted over the calls while `collecting`, else None.
    """

    def __init__(
        self, info: ConvInfo, spec: SmtSpec, *, signed: bool, act_range: str, permutation: Tensor | None = None
    ) -> None:
        self.name = info.name
        self.spec = spec
        self.signed = signed
        self.permutation = permutation
        self.range = info.range(act_range)
        self.input_scale = activation_scale(self.range, signed=signed)
        self.weight, self.weight_scale = quantize_weight(info.weight.cpu())
        self.collisions: CollisionStatistics | None = None
        self.collecting = False
        permuted = self.weight if permutation is None else self.weight.index_select(1, permutation)
        self.packed = PackedWeight(self.name, permuted, spec)
        self._scales: dict[torch.device, Tensor] = {}
        self._permutations: dict[torch.device, Tensor] = {}
        self._quantized: Stamp | None = _stamp(info.weight)

    def __call__(self, call: ConvCall) -> Tensor:
        """Answer one `conv2d` call.

        Raises:
            BnrecalError: for activations of another type, or (on a GPU in the first call alone) that are not finite;
                for a parameter that is no longer what was quantized.
        """
        if not call.checked:
            self._check_activations(call.x)
        prepared = self.packed.for_call(call)
        if isinstance(call.weight, nn.Parameter):  # else the module makes it anew for each call
            self._check_weight(call.weight)
        x = self._permuted(call.x)
        if self.collecting and not self.signed:
            levels = quantize_activation(x, self.input_scale)
            more = collision_statistics(prepared, levels)
            self.collisions = more if self.collisions is None else self.collisions + more
        scale = self._scale_on(call.x.device)
        return prepared.convolve(x, self.input_scale, scale, call.bias, signed=self.signed, end=call.end)

    def _check_activations(self, x: Tensor) -> None:
        if x.dtype not in FLOATS:
            raise BnrecalError(
                f"the quantized convolution {self.name} gets {x.dtype} activations: give the network float32 images"
            )
        # on a GPU every look waits for all that runs there, and the images themselves are looked at anyway
        if x.device.type != "cpu" and x.device in self._scales:
            return
        if not all_finite(x):
            raise BnrecalError(
                f"the quantized convolution {self.name} gets NaN or infinity, which 8 bits would hide: "
                "check the images, the weights and what the network computes before it"
            )

    def _check_weight(self, weight: Tensor) -> None:
        stamp = _stamp(weight)
        if stamp == self._quantized:
            return
        levels, scale = quantize_weight(weight.detach().float().cpu())
        if not (torch.equal(levels, self.weight) and torch.equal(scale, self.weight_scale)):
            raise BnrecalError(
                f"the weight of {self.name} changed since it was quantized: change it in the float32 network, and "
                "quantize that again"
            )
        self._quantized = stamp

    def compare_weight(self) -> None:
        """Let the next call compare the weight with its levels, whether or not a change of it was noted."""
        self._quantized = None

    def _scale_on(self, device: torch.device) -> Tensor:
        """Return the scale of the sums, made once: a copy to a GPU waits for everything that runs there."""
        if device not in self._scales:
            with torch.inference_mode(False):
                self._scales[device] = self.weight_scale.to(device) * self.input_scale
        return self._scales[device]

    def _permuted(self, x: Tensor) -> Tensor:
        """Return the activations in the order of the channels; on a GPU channels-last, as the engines there read."""
        if self.permutation is None:
            return x
        if x.device.type == "cpu":
            return x.index_select(1, self.permutation)
        if x.device not in self._permutations:
            self._permutations[x.device] = self.permutation.to(x.device)
        return x.permute(0, 2, 3, 1).index_select(3, self._permutations[x.device]).permute(0, 3, 1, 2)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_scales": {}, "_permutations": {}, "_quantized": None}

    def describe(self) -> str:
        """Return what the `print` of a network shows."""
        if self.signed:
            return f"8-bit signed, threads=1, scale={self.input_scale:.3g}"
        policy = f", policy={self.spec.policy}" if self.spec.threads > 1 else ""
        return f"8-bit, threads={self.spec.threads}{policy}, scale={self.input_scale:.3g}"

    @property
    def engine(self) -> str:
        """The engines of the calls so far, and how they hold the weights."""
        ways = {f"{prepared.engine_name}: {prepared.layout}" for prepared in self.packed.convolutions()}
        return ", ".join(sorted(ways))


def _stamp(weight: Tensor) -> Stamp:
    return weight.data_ptr(), 0 if weight.is_inference() else weight._version
