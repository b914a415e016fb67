"""Operands: reduction over all of them, quantization at the edges."""

import pytest
import torch

from bnrecal.nbsmt.arithmetic import quantize_activation, reduce_activation, reduce_weight
from bnrecal.nbsmt.reference import dot, processing_element, reduced_activation, reduced_weight
from bnrecal.nbsmt.spec import SmtSpec


@pytest.mark.parametrize("rounding", ["half_even", "floor"])
@pytest.mark.parametrize("saturate", [True, False])
def test_reduction_of_all_operands(rounding: str, saturate: bool) -> None:
    a = torch.arange(256)
    b = torch.arange(-128, 128)
    assert reduce_activation(a, rounding, saturate).tolist() == [
        reduced_activation(v, rounding, saturate) for v in range(256)
    ]
    assert reduce_weight(b, rounding, saturate).tolist() == [
        reduced_weight(v, rounding, saturate) for v in range(-128, 128)
    ]


@pytest.mark.parametrize(
    ("a", "half_even", "floor", "unsaturated"),
    [
        (15, 15, 15, 15),
        (16, 16, 16, 16),
        (24, 32, 16, 32),
        (40, 32, 32, 32),
        (247, 240, 240, 240),
        (248, 240, 240, 256),
    ],
)
def test_golden_activations(a: int, half_even: int, floor: int, unsaturated: int) -> None:
    assert reduced_activation(a, "half_even", True) == half_even
    assert reduced_activation(a, "floor", True) == floor
    assert reduced_activation(a, "half_even", False) == unsaturated


@pytest.mark.parametrize(
    ("b", "half_even", "floor", "unsaturated"),
    [(7, 7, 7, 7), (8, 0, 0, 0), (-8, -8, -8, -8), (-9, -16, -16, -16), (-24, -32, -32, -32), (-128, -128, -128, -128),
     (119, 112, 112, 112), (120, 112, 112, 128)],
)  # fmt: skip
def test_golden_weights(b: int, half_even: int, floor: int, unsaturated: int) -> None:
    assert reduced_weight(b, "half_even", True) == half_even
    assert reduced_weight(b, "floor", True) == floor
    assert reduced_weight(b, "half_even", False) == unsaturated


def test_golden_processing_element_by_hand() -> None:
    # r(100) = 96, r(-50) = -48, r(20) = 16, r(9) = 16, r(3) = 3, r(-7) = -7
    assert processing_element([(100, -50), (0, 9)]) == 100 * -50
    assert processing_element([(100, -50), (20, 9)], "A") == 96 * -50 + 16 * 9
    assert processing_element([(100, -50), (20, -7)], "Aw") == 96 * -50 + 20 * -7
    assert processing_element([(100, -50), (20, 9)], "W") == 100 * -48 + 20 * 16
    assert processing_element([(100, -50), (3, 9)], "aW") == 100 * -48 + 3 * 9
    assert processing_element([(100, -50), (20, 9), (3, -7), (0, 1)], "A") == 96 * -48 + 16 * 16 + 3 * -7
    assert processing_element([(100, -50), (0, 9)], sparsity=False) == 96 * -50


def test_golden_dot_pads_at_the_end() -> None:
    # Five products on two threads: (a0, a3), (a1, a4), (a2, nothing).
    assert dot([100, 100, 100, 0, 20], [1, 2, 3, 4, 5], 2) == 100 * 1 + 96 * 2 + 16 * 5 + 100 * 3


def test_quantization_rounds_half_to_even_and_clamps() -> None:
    x = torch.tensor([-1.0, 0.25, 0.75, 1.25, 127.25, 200.0, float("nan"), float("inf"), -float("inf")])
    assert quantize_activation(x, 0.5).tolist() == [0, 0, 2, 2, 254, 255, 0, 255, 0]
    assert quantize_activation(x, 0.5, signed=True).tolist() == [-2, 0, 2, 2, 127, 127, 0, 127, -128]
    assert quantize_activation(x, 0.5).dtype == torch.uint8
    assert quantize_activation(x, 0.5, signed=True).dtype == torch.int8


def test_spec_defaults_to_the_plain_convolution() -> None:
    assert SmtSpec() == SmtSpec(threads=1, policy="A", sparsity=True, rounding="half_even", saturate=True)
