"""The check that comes before any number finds a device that computes something else."""

import pytest
import torch
from torch import Tensor

from bnrecal.errors import BnrecalError
from bnrecal.nbsmt import self_check
from bnrecal.nbsmt.conv import PreparedConv2d
from bnrecal.nbsmt.self_check import CASES, check_exact

CPU = torch.device("cpu")


def test_passes_here() -> None:
    check_exact(CPU)


def test_covers_what_devices_have_got_wrong() -> None:
    assert any(case.x[0] >= 16 for case in CASES)
    assert any(case.groups > 1 and case.w[1] > 1 for case in CASES)
    assert any(case.groups > 1 and case.w[1] == 1 for case in CASES)
    assert any(case.w[2:] == (1, 1) and case.stride == (2, 2) for case in CASES)
    assert any(case.w[1] * case.w[2] * case.w[3] == 4608 and case.extremes for case in CASES)


def test_sends_several_sizes_through_one_layer() -> None:
    several = [case for case in CASES if case.then]
    assert any(case.w[1] == 1 and case.w[0] > case.groups for case in several)
    assert any(case.w[1] > 1 for case in several)


RUNS = [(case, threads, size) for case in CASES for threads in (1, 2, 4) for size in range(1 + len(case.then))]


@pytest.mark.parametrize("bad", range(len(RUNS)))
def test_tells_which_layer_is_off_by_one(bad: int, monkeypatch: pytest.MonkeyPatch) -> None:
    original = PreparedConv2d.accumulate
    calls = iter(range(1000))

    def off(self: PreparedConv2d, x: Tensor) -> Tensor:
        found = original(self, x)
        if next(calls) == bad:
            found[-1, -1, -1, -1] += 1
        return found

    monkeypatch.setattr(PreparedConv2d, "accumulate", off)
    case, threads, _ = RUNS[bad]
    with pytest.raises(BnrecalError, match=f"{case.name} with {threads} threads.*ONEDNN_MAX_CPU_ISA"):
        check_exact(CPU)


def test_a_run_checks_its_device_once_and_every_run_of_a_bad_one(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.device] = []
    monkeypatch.setattr(self_check, "check_exact", seen.append)
    self_check.check_exact_once.cache_clear()
    for _ in range(2):
        self_check.check_exact_once(CPU)
    assert seen == [CPU]

    def wrong(_: torch.device) -> None:
        raise BnrecalError("wrong")

    monkeypatch.setattr(self_check, "check_exact", wrong)
    self_check.check_exact_once.cache_clear()
    for _ in range(2):
        with pytest.raises(BnrecalError):
            self_check.check_exact_once(CPU)
