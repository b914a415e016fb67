"""The NB-SMT convolution as im2col and `torch._int_mm`: for GPUs that the Triton kernels do not run on."""

from dataclasses import replace
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from bnrecal.nbsmt.decompose.expansion import expand_activations, expand_weights, plan_expansion
from bnrecal.nbsmt.engines.engine import ConvLayer, Engine, levels_of
from bnrecal.nbsmt.geometry import im2col

# cuBLAS wants multiples of 8, and more than 16 rows.
MULTIPLE, FEWEST_ROWS = 8, 17
ROWS_BYTES = 2**30  # of im2col's rows: images are taken so many at a time that they stay below
# Weights of a filter. Each is expanded to 3 at most, all within 128, so |a - 128| * |b| sums to less than 2^31.
MOST_WEIGHTS = 2**24 // (3 * 128)


class IntMMEngine(Engine):
    """Int8 products and int32 sums by cuBLAS; exact. One group, operands of 8 bits."""

    names = ("int-mm",)
    name = "int-mm"
    layout = "expanded"

    def __init__(self, layer: ConvLayer) -> None:
        self.layer = layer
        self.kernel = layer.kernel
        weight = layer.weight.to(layer.device)
        self.expansion = plan_expansion(weight, layer.spec)
        rows = expand_weights(weight, self.expansion, layer.spec).flatten(1)
        self.filters = len(rows)
        self.offset = 128 * rows.sum(1, dtype=torch.int32)
        self.weight = F.pad(rows, (0, -rows.shape[1] % MULTIPLE, 0, -len(rows) % MULTIPLE)).T  # column-major

    @classmethod
    def can_run(cls, layer: ConvLayer) -> str:
        if layer.device.type != "cuda" and layer.engine_name is None:  # a processor has it too, for tests
            return "made for GPUs"
        if layer.beyond_bytes:
            return layer.beyond_bytes
        if layer.geometry.groups > 1:
            return "it takes one group"
        if layer.weight[0].numel() > MOST_WEIGHTS:
            return f"more than {MOST_WEIGHTS} weights a filter could leave 32 bits"
        return "" if int_mm_is_exact(layer.device) else "torch._int_mm is not exact, or not there"

    def accumulate(self, x: Tensor) -> Tensor:
        _, _, height, width = self.layer.output_shape(x)
        piece = max(1, ROWS_BYTES // (height * width * self.weight.shape[0]))
        return torch.cat([self._sums(some) for some in torch.split(x, piece)])

    def convolve(
        self, x: Tensor, x_scale: float, scale: Tensor, bias: Tensor | None, *, signed: bool = False
    ) -> Tensor:
        sums = self.accumulate(levels_of(x, x_scale, signed))
        y = sums.float().mul_(scale.view(1, -1, 1, 1))
        return y if bias is None else y.add_(bias.view(1, -1, 1, 1))

    def _sums(self, x: Tensor) -> Tensor:
        offset = 0 if x.dtype == torch.int8 else 128
        expanded = expand_activations(x, self.expansion, self.layer.spec).sub_(offset).to(torch.int8)
        rows = self._rows(expanded, offset)
        missing = max(0, FEWEST_ROWS - len(rows))
        padded = F.pad(rows, (0, self.weight.shape[0] - rows.shape[1], 0, missing))
        sums = torch._int_mm(padded, self.weight)[: len(rows), : self.filters]
        sums = sums + self.offset if offset else sums
        images, filters, height, width = self.layer.output_shape(x)
        return sums.reshape(images, height, width, filters).permute(0, 3, 1, 2)

    def _rows(self, expanded: Tensor, offset: int) -> Tensor:
        """Return im2col's rows, the border holding what the activation 0 travels as."""
        g = self.layer.geometry
        kh, kw = self.kernel
        top, left = g.padding
        bordered = F.pad(expanded, (left, left, top, top), value=-offset)
        columns = expanded.shape[1] * kh * kw
        taps = im2col(bordered, self.kernel, replace(g, padding=(0, 0)), columns)
        return taps.permute(0, 2, 3, 1).reshape(-1, columns)


@cache
def int_mm_is_exact(device: torch.device) -> bool:
    """Return whether `torch._int_mm` is there and sums extreme operands without loss (checked once)."""
    try:
        a = torch.full((FEWEST_ROWS, 4608), -128, dtype=torch.int8, device=device)
        b = torch.full((MULTIPLE, 4608), -128, dtype=torch.int8, device=device)
        b[1] = 127
        b[2, ::2] = 127
        found = torch._int_mm(a, b.T)
        return torch.equal(found.double(), a.double() @ b.double().T)
    except RuntimeError:  # no such product on this device, or no code for it at all
        return False
