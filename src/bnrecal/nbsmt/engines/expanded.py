"""NB-SMT as one ordinary convolution of more channels, in plain torch: for any device, and every switch."""

import torch
from torch import Tensor

from bnrecal.nbsmt.arithmetic import quantize_activation
from bnrecal.nbsmt.decompose.expansion import expand_activations, expand_weights, plan_expansion
from bnrecal.nbsmt.engines.integer_conv import FloatConv, IntegerConv, images_at_a_time
from bnrecal.nbsmt.geometry import Geometry
from bnrecal.nbsmt.spec import SmtSpec


class ExpandedConv:
    """One layer with fixed weights.

    Attributes:
        backend: what does the sums: "float32" or "float64".
    """

    def __init__(
        self, weight: Tensor, spec: SmtSpec, geometry: Geometry, backend: str | None, device: torch.device
    ) -> None:
        """Of int8 weights (O, C / groups, kh, kw), C / groups a multiple of the threads."""
        self.spec, self.geometry, self.device = spec, geometry, device
        self.kernel = (weight.shape[2], weight.shape[3])
        self.expansion = plan_expansion(weight, spec, device)
        largest = 255 if spec.saturate else 256
        expanded = expand_weights(weight, self.expansion, spec)
        self.backend = backend or ("float32" if FloatConv.fits(expanded, largest) else "float64")
        dtype = torch.float32 if self.backend == "float32" else torch.float64
        self._conv: IntegerConv = FloatConv(expanded, geometry, largest, dtype, device)

    @property
    def layout(self) -> str:
        """For reports: channels per channel."""
        return f"{self.expansion.width / self.expansion.channels:.1f} dense"

    def accumulate(self, x: Tensor) -> Tensor:
        """int32 sums (N, O, H', W') of uint8 levels, or int8 ones with one thread."""
        return torch.cat([self._conv.accumulate(self._expand(part)) for part in self._pieces(x)])

    def convolve(self, x: Tensor, x_scale: float, scale: Tensor, bias: Tensor | None, signed: bool) -> Tensor:
        """sums * scale + bias of float32 activations or their levels, float32 (N, O, H', W')."""
        high, wide = self.geometry.output_size((x.shape[2], x.shape[3]), self.kernel)
        y = torch.empty((x.shape[0], len(scale), high, wide), memory_format=torch.channels_last, device=self.device)
        for part, out in zip(self._pieces(x), self._pieces(y, len(self._pieces(x)[0])), strict=True):
            levels = quantize_activation(part, x_scale, signed) if part.dtype == torch.float32 else part
            out.copy_(self._conv.convolve(self._expand(levels), scale, bias))
        return y

    def _pieces(self, x: Tensor, images: int | None = None) -> tuple[Tensor, ...]:
        per_image = self.expansion.width * self.geometry.groups * x.shape[2] * x.shape[3]
        return torch.split(x, images or images_at_a_time(per_image, self.kernel, self.device))

    def _expand(self, levels: Tensor) -> Tensor:
        return expand_activations(levels, self.expansion, self.spec, self.geometry.groups)
