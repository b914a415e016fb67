"""The weights that are worth dense channels, by a model of what a layer costs.

Nothing is timed at run time, so that the choice, which `layers.csv` reports, is the same in every run on processors of
one class. The unit is what one sparse weight costs an output there. `scripts/measure_costs.py` measures the figures.
"""

from dataclasses import dataclass

from torch import Tensor

from bnrecal.nbsmt.decompose.dense_sparse import DenseShare
from bnrecal.nbsmt.decompose.operands import ACTIVATION, full_pattern, operands_of
from bnrecal.nbsmt.engines.cpu.kernels.instructions import PRODUCTS, Products
from bnrecal.nbsmt.engines.cpu.onednn import Exactness
from bnrecal.nbsmt.geometry import Geometry
from bnrecal.nbsmt.spec import SmtSpec


@dataclass(frozen=True)
class Figures:
    """Costs on one class of processors, in units of one sparse weight.

    Attributes:
        dense: of a weight in the dense convolution, by what its sums are worth; NONE is float32.
        expand: of one operand of an input value; the activation itself, which is only copied, is not counted.
        planes: of an input value, to make it ready for sparse weights.
        finish: of an output, to add the sparse sums to the dense ones.
    """

    dense: dict[Exactness, float]
    expand: float
    planes: float
    finish: float


# By how the sparse kernel multiplies. Where the environment caps oneDNN or numba alone, both kinds of sums are of two
# classes: those figures are estimates.
FIGURES = {
    # Intel Cascade Lake and AMD Zen 5, a unit of 0.022 and 0.0155 ns: 0.20 and 0.14, 0.68 and 0.52; planes 14 and 12
    Products.VNNI_512: Figures({Exactness.FULL: 0.15, Exactness.PAIRED: 0.4, Exactness.NONE: 0.6}, 4.0, 16.0, 50.0),
    # not measured on a processor of its own: a Zen 5 kept to 256 bits
    Products.VNNI_256: Figures({Exactness.FULL: 0.12, Exactness.PAIRED: 0.25, Exactness.NONE: 0.5}, 2.0, 8.0, 18.0),
    # AMD Zen 3, a unit of 0.055 ns: 0.18 to 0.21, 0.40 to 0.49; planes 2.8 to 3.9, finish 13 to 18, expand 1 to 3 while
    # a layer stays in the caches. In whole networks an expand of 12 led to the quickest choices (`measure_choices.py`).
    Products.AVX2: Figures({Exactness.FULL: 0.07, Exactness.PAIRED: 0.2, Exactness.NONE: 0.45}, 12.0, 4.0, 12.0),
    Products.PLAIN: Figures({Exactness.FULL: 0.02, Exactness.PAIRED: 0.05, Exactness.NONE: 0.1}, 0.2, 1.0, 4.0),
}
CHOICES = (DenseShare.FULL, DenseShare.ALL, DenseShare.NONE)  # the first of those that cost the same
EXCESS = 0.02  # of the weights: what pairs of channels usually leave


def cheapest(
    weight: Tensor, spec: SmtSpec, geometry: Geometry, exactness: Exactness, products: Products = PRODUCTS
) -> DenseShare:
    """Return the share of int8 weights (O, C / groups, kh, kw) to make dense, at the least cost.

    Args:
        exactness: of the dense part; NONE: its sums are float32.
        products: the class of the processor, by default that of this one and its caps.
    """
    costs = {dense: cost(dense, weight, spec, geometry, exactness, FIGURES[products]) for dense in CHOICES}
    return min(costs, key=lambda dense: costs[dense])


def cost(
    dense: DenseShare, weight: Tensor, spec: SmtSpec, geometry: Geometry, exactness: Exactness, figures: Figures
) -> float:
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
    in_list = figures.planes * inputs + figures.finish + sparse * size if sparse else 0.0
    expansion = figures.expand * len(operands - {ACTIVATION}) * inputs
    return width * size * figures.dense[exactness] + expansion + in_list
