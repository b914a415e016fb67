"""The NB-SMT convolution as im2col and `torch._int_mm`: for GPUs that the Triton kernels do not run on."""

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from bnrecal.nbsmt.arithmetic import quantize_activation
from bnrecal.nbsmt.decompose.expansion import expand_activations, expand_weights, plan_expansion
from bnrecal.nbsmt.decompose.operands import fold_taps
from bnrecal.nbsmt.geometry import Geometry, Pair, im2col
from bnrecal.nbsmt.spec import SmtSpec

# cuBLAS wants multiples of 8, and more than 16 rows.
MULTIPLE, FEWEST_ROWS = 8, 17
ROWS_BYTES = 2**30  # of im2col's rows: images are taken so many at a time that they stay below
# Weights of a filter. Each is expanded to 3 at most, all within 128, so |a - 128| * |b| sums to less than 2^31.
MOST_WEIGHTS = 2**24 // (3 * 128)


class IntMMConv:
    """Int8 products and int32 sums by cuBLAS; exact. One group, spec.saturate on."""

    def __init__(self, weight: Tensor, spec: SmtSpec, geometry: Geometry, device: torch.device) -> None:
        """Of int8 weights (O, C, kh, kw), at most MOST_WEIGHTS a filter."""
        self.spec, self.geometry, self.kernel = spec, geometry, (weight.shape[2], weight.shape[3])
        folded = fold_taps(weight.to(device), spec.threads)
        self.by_columns = folded.shape[1:] != weight.shape[1:]
        self.columns = -(-weight[0].numel() // spec.threads) * spec.threads
        self.expansion = plan_expansion(folded, spec)
        rows = expand_weights(folded, self.expansion, spec).flatten(1)
        self.filters, self.offset = len(rows), 128 * rows.sum(1, dtype=torch.int32)
        self.weight = F.pad(rows, (0, -rows.shape[1] % MULTIPLE, 0, -len(rows) % MULTIPLE)).T  # column-major

    def accumulate(self, x: Tensor) -> Tensor:
        """int32 sums (N, O, H', W') of uint8 activations (N, C, H, W), or int8 ones at one thread."""
        output = self.geometry.output_size((x.shape[2], x.shape[3]), self.kernel)
        piece = max(1, ROWS_BYTES // (output[0] * output[1] * self.weight.shape[0]))
        return torch.cat([self._sums(some, output) for some in torch.split(x, piece)])

    def convolve(self, x: Tensor, x_scale: float, scale: Tensor, bias: Tensor | None, signed: bool) -> Tensor:
        """scale[o] * sums + bias[o], float32, of float32 activations quantized in steps of x_scale."""
        sums = self.accumulate(quantize_activation(x, x_scale, signed))
        y = sums.float().mul_(scale.view(1, -1, 1, 1))
        return y if bias is None else y.add_(bias.view(1, -1, 1, 1))

    def _sums(self, x: Tensor, output: Pair) -> Tensor:
        offset = 0 if x.dtype == torch.int8 else 128
        if self.by_columns:
            x = im2col(x, self.kernel, self.geometry, self.columns)
        expanded = expand_activations(x, self.expansion, self.spec).sub_(offset).to(torch.int8)
        if not self.by_columns:
            expanded = self._rows(expanded, offset)
        rows = expanded.permute(0, 2, 3, 1).reshape(-1, expanded.shape[1])
        missing = max(0, FEWEST_ROWS - len(rows))
        padded = F.pad(rows, (0, self.weight.shape[0] - rows.shape[1], 0, missing))
        sums = torch._int_mm(padded, self.weight)[: len(rows), : self.filters]
        sums = sums + self.offset if offset else sums
        return sums.reshape(len(x), *output, self.filters).permute(0, 3, 1, 2)

    def _rows(self, expanded: Tensor, offset: int) -> Tensor:
        """im2col with the border holding what the activation 0 travels as."""
        (top, left), (kh, kw) = self.geometry.padding, self.kernel
        bordered = F.pad(expanded, (left, left, top, top), value=-offset)
        inner = Geometry(self.geometry.stride, (0, 0), self.geometry.dilation, 1)
        return im2col(bordered, self.kernel, inner, expanded.shape[1] * kh * kw)


@cache
def int_mm_is_exact(device: torch.device) -> bool:
    """Whether `torch._int_mm` is there and sums extreme operands without loss (checked once)."""
    try:
        a = torch.full((FEWEST_ROWS, 4608), -128, dtype=torch.int8, device=device)
        b = torch.full((MULTIPLE, 4608), -128, dtype=torch.int8, device=device)
        b[1] = 127
        b[2, ::2] = 127
        found = torch._int_mm(a, b.T)
        return torch.equal(found.double(), a.double() @ b.double().T)
    except RuntimeError:  # no such product on this device, or no code for it at all
        return False
