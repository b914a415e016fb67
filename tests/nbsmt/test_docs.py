"""The worked example of docs/nbsmt.md has the numbers that the code has."""

from pathlib import Path

import pytest
import torch

from bnrecal.nbsmt.decompose.dense_sparse import decompose_weights
from bnrecal.nbsmt.decompose.expansion import expand_activations, expand_weights, plan_expansion
from bnrecal.nbsmt.prepared_conv import nbsmt_conv2d
from bnrecal.nbsmt.reference import dot
from bnrecal.nbsmt.spec import SmtSpec

PAGE = (Path(__file__).parents[2] / "docs" / "nbsmt.md").read_text()
A = [100, 50, 20, 0]


@pytest.mark.parametrize(
    ("b", "result", "copies", "weights"),
    [
        ([3, -7, 9, 5], 82, [[96, 50, 16, 0]], [[3, -7, 9, 5]]),
        ([3, -7, 0, 5], -50, [[100, 50, 20, 0], [96, 50, 16, 0]], [[3, 0, 0, 0], [0, -7, 0, 5]]),
    ],
)
def test_pencil_example(b: list[int], result: int, copies: list[list[int]], weights: list[list[int]]) -> None:
    x = torch.tensor(A, dtype=torch.uint8).view(1, 4, 1, 1)
    w = torch.tensor(b, dtype=torch.int8).view(1, 4, 1, 1)
    assert dot(A, b, 2) == result
    assert nbsmt_conv2d(x, w, threads=2).item() == result
    expansion = plan_expansion(w, SmtSpec(2))
    assert expand_weights(w, expansion, SmtSpec(2)).view(-1, 4).tolist() == weights
    assert expand_activations(x, expansion, SmtSpec(2)).view(-1, 4).tolist() == copies
    assert f"= {result}" in PAGE
    for row in copies:
        assert " | ".join(map(str, row)) in PAGE


@pytest.mark.parametrize(("policy", "two", "four"), [("A", 2, 12), ("Aw", 2, 16), ("W", 3, 15), ("aW", 3, 15)])
def test_channels_of_each_policy(policy: str, two: int, four: int) -> None:
    generator = torch.Generator().manual_seed(0)
    w = torch.randint(-128, 128, (64, 64, 3, 3), generator=generator)
    w *= torch.rand(w.shape, generator=generator) < 0.5
    for threads, channels in ((2, two), (4, four)):
        assert plan_expansion(w.to(torch.int8), SmtSpec(threads, policy)).width == channels * 64
    row = next(line for line in PAGE.splitlines() if line.startswith(f"| `{policy}` |"))
    assert row.endswith(f"| {two}C | {four}C |")


@pytest.mark.parametrize(
    ("policy", "two", "four"), [("A", "C", "2C"), ("Aw", "2C", "3C"), ("W", "2C", "2C"), ("aW", "2C", "2C")]
)
def test_dense_channels_of_each_policy(policy: str, two: str, four: str) -> None:
    generator = torch.Generator().manual_seed(0)
    w = torch.randint(-128, 128, (8, 64, 3, 3), generator=generator).to(torch.int8)
    for threads, channels in ((2, two), (4, four)):
        operands = decompose_weights(w, SmtSpec(threads, policy), paired=True).operands
        assert channels == f"{len(operands)}C".removeprefix("1")
    assert f"| `{policy}` | {two} | {four} |" in PAGE
