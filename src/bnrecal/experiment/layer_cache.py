"""Quantized convolutions that variants share."""

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from bnrecal.nbsmt.spec import SmtSpec
from bnrecal.quantization.convert import quantize_layers
from bnrecal.quantization.layer_plan import FLOAT, LayerPlan
from bnrecal.quantization.nbsmt_conv import NBSMTConv2d
from bnrecal.quantization.reorder import can_reorder

# Permutations of the input channels, by the name of the convolution.
Permutations = Callable[[Sequence[LayerPlan]], Mapping[str, Tensor]]


class LayerCache:
    """Quantized convolutions by name, threads and permutation of channels: variants share those that run alike."""

    def __init__(self) -> None:
        self._made: dict[tuple[str, int, str], NBSMTConv2d] = {}

    def layers(
        self, plans: Sequence[LayerPlan], spec: SmtSpec, act_range: str, how: str, permutations: Permutations
    ) -> dict[str, NBSMTConv2d]:
        """The quantized convolutions of these plans by name; those that are missing are made.

        Args:
            how: the `smt.reorder` that `permutations` follows.
        """
        keys = {plan.name: (plan.name, plan.threads, how if can_reorder(plan) else "none") for plan in plans}
        missing = [plan for plan in plans if keys[plan.name] not in self._made]
        made = quantize_layers(missing, spec, act_range, permutations(missing))
        self._made |= {keys[name]: layer for name, layer in made.items()}
        return {plan.name: self._made[keys[plan.name]] for plan in plans if plan.threads != FLOAT}
