"""The check that comes before any number finds a device that computes something else."""

import pytest
import torch
from torch import Tensor

from bnrecal.errors import BnrecalError
from bnrecal.nbsmt.conv import PreparedConv2d
from bnrecal.nbsmt.self_check import CASES, Case, check_exact

CPU = torch.device("cpu")


def test_passes_here() -> None:
    check_exact(CPU)


def test_covers_what_devices_have_got_wrong() -> None:
    assert any(case.x[0] >= 16 for case in CASES)
    assert any(case.groups > 1 and case.w[1] > 1 for case in CASES)
    assert any(case.groups > 1 and case.w[1] == 1 for case in CASES)
    assert any(case.groups > 1 and case.w[1] >= 16 and case.stride == (1, 1) and case.w[2:] == (3, 3) for case in CASES)
    assert any(case.w[2:] == (1, 1) and case.stride == (2, 2) for case in CASES)
    assert any(case.w[1] * case.w[2] * case.w[3] == 4608 and case.extremes for case in CASES)


@pytest.mark.parametrize("threads", [1, 2, 4])
@pytest.mark.parametrize("case", CASES)
def test_tells_which_layer_is_off_by_one(case: Case, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    original, calls = PreparedConv2d.accumulate, iter(range(1000))
    bad = 3 * CASES.index(case) + (1, 2, 4).index(threads)

    def off(self: PreparedConv2d, x: Tensor) -> Tensor:
        found = original(self, x)
        if next(calls) == bad:
            found[-1, -1, -1, -1] += 1
        return found

    monkeypatch.setattr(PreparedConv2d, "accumulate", off)
    with pytest.raises(BnrecalError, match=f"{case.name} with {threads} threads.*device=cpu"):
        check_exact(CPU)
