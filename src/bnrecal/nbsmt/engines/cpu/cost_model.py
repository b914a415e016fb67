"""The weights that are worth dense channels, by a model of what a layer costs.

Nothing is timed at run time, so that the choice, which `layers.csv` reports, is the same in every run. The unit is what
one sparse weight costs an output: the sparse kernel is the same everywhere, 32 bytes an instruction at most.
`scripts/measure_costs.py` measures the figures.
"""

from torch import Tensor

from bnrecal.nbsmt.decompose.dense_sparse import DenseShare
from bnrecal.nbsmt.decompose.operands import full_pattern, operands_of
from bnrecal.nbsmt.engines.cpu.onednn import Exactness
from bnrecal.nbsmt.geometry import Geometry
from bnrecal.nbsmt.spec import SmtSpec

# One weight in the dense convolution.
DENSE = {
    # Not measured yet. VNNI adds four products with one instruction where pairs need three: a third of PAIRED, and of
    # AVX-512 a sixth.
    Exactness.FULL: 0.04,
    Exactness.PAIRED: 0.115,  # AMD Zen 3: 0.11 to 0.13
    Exactness.NONE: 0.28,  # AMD Zen 3, float32: 0.21 to 0.37
}
# What sparse weights cost before the first one: planes for every input value, and the way back for every output.
PLANES, FINISH = 4.0, 18.0  # AMD Zen 3: 2.0 to 7.6 and 14 to 30, the larger ones at 14 x 14
EXCESS = 0.02  # of the weights: what pairs of channels usually leave


def cheapest(weight: Tensor, spec: SmtSpec, geometry: Geometry, exactness: Exactness) -> DenseShare:
    """Return the share of int8 weights (O, C / groups, kh, kw) to make dense, at the least cost.

    Args:
        exactness: of the dense part; NONE: its sums are float32.
    """
    costs = {
        dense: cost(dense, weight, spec, geometry, exactness)
        for dense in (DenseShare.FULL, DenseShare.ALL, DenseShare.NONE)
    }
    return min(costs, key=lambda dense: costs[dense])


def cost(dense: DenseShare, weight: Tensor, spec: SmtSpec, geometry: Geometry, exactness: Exactness) -> float:
    """Return the cost of one output."""
    size = weight[0].numel()
    kept = 1 - float((weight == 0).float().mean())
    full = full_pattern(spec.threads)
    in_full = kept ** (spec.threads - 1) if spec.sparsity else 1.0
    if dense is DenseShare.NONE:
        patterns = []
        sparse = kept
    elif dense is DenseShare.FULL:
        patterns = [full]
        sparse = kept * (1 - in_full)
    else:
        patterns = list(range(full + 1)) if spec.sparsity else [full]
        sparse = 0.0
    operands = {operand for pattern in patterns for operand in operands_of(pattern, spec)}
    width = len(operands)
    if width % 2 and exactness is Exactness.PAIRED and weight.shape[1] > 1:
        if dense is DenseShare.ALL:
            width += 1
        else:
            sparse += EXCESS * (width > 0)
    inputs = geometry.groups * weight.shape[1] * geometry.stride[0] * geometry.stride[1] / len(weight)  # for an output
    in_list = PLANES * inputs + FINISH + sparse * size if sparse else 0.0
    return width * size * DENSE[exactness] + in_list
