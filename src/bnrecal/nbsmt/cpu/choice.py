"""Which weights are worth dense channels: a model of what a layer costs."""

from torch import Tensor

from bnrecal.nbsmt.operands import full_pattern, met_operands
from bnrecal.nbsmt.spec import SmtSpec
from bnrecal.nbsmt.split import Dense

# Cycles of one core per output, measured on a Zen 3 (AVX2): of one dense weight, of one listed weight, and of the
# list's pass over the output. Only their ratios count.
DENSE, LISTED, PASS = 0.028, 0.125, 2.0
EXCESS = 0.02  # of the weights: what pairs of channels usually leave


def cheapest(weight: Tensor, spec: SmtSpec, paired: bool) -> Dense:
    """For int8 weights (O, C / groups, kh, kw).

    Args:
        paired: the dense part adds pairs of channels in 16 bits.
    """
    costs = {dense: cost(dense, weight, spec, paired) for dense in (Dense.FULL, Dense.ALL, Dense.NONE)}
    return min(costs, key=lambda dense: costs[dense])


def cost(dense: Dense, weight: Tensor, spec: SmtSpec, paired: bool) -> float:
    """Cycles per output."""
    size, kept = weight[0].numel(), 1 - float((weight == 0).float().mean())
    full = full_pattern(spec.threads)
    patterns = {Dense.NONE: [], Dense.FULL: [full], Dense.ALL: list(range(full + 1)) if spec.sparsity else [full]}[
        dense
    ]
    operands = {operand for pattern in patterns for operand in met_operands(pattern, spec)}
    in_full = kept ** (spec.threads - 1) if spec.sparsity else 1.0
    listed = {Dense.NONE: kept, Dense.FULL: kept * (1 - in_full), Dense.ALL: 0.0}[dense]
    width = len(operands)
    if width % 2 and paired and weight.shape[1] > 1:
        if dense is Dense.ALL:
            width += 1
        else:
            listed += EXCESS * (width > 0)
    return width * size * DENSE + (PASS + listed * size * LISTED if listed else 0.0)
