"""Choosing a device, and batches that its memory holds."""

from collections.abc import Iterator

import pytest
import torch

from bnrecal.device import choose_device, describe_device, with_fitting_batches
from bnrecal.errors import BnrecalError


@pytest.fixture(autouse=True)
def _restore_tf32() -> Iterator[None]:
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def test_a_device_that_is_not_there_is_an_error() -> None:
    with pytest.raises(BnrecalError, match=r"device=cuda:99.*choose cpu or auto"):
        choose_device("cuda:99")


@pytest.mark.parametrize("tf32", [False, True])
def test_float32_is_float32_unless_asked_and_the_result_says_which(tf32: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    choose_device("cpu", tf32=tf32)
    assert torch.backends.cudnn.allow_tf32 is torch.backends.cuda.matmul.allow_tf32 is tf32
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA X")
    assert describe_device(torch.device("cuda")) == f"NVIDIA X, {'TF32' if tf32 else 'float32'}"
    assert describe_device(torch.device("cpu")).startswith("cpu, ")


def test_short_memory_starts_again_with_half_the_batch(caplog: pytest.LogCaptureFixture) -> None:
    tried = []

    def work(size: int) -> int:
        tried.append(size)
        if size > 30:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return 7 * size

    assert with_fitting_batches("evaluation", 101, work) == 7 * 26
    assert tried == [101, 51, 26]
    assert [record.getMessage() for record in caplog.records] == [
        "evaluation: out of GPU memory, going on with batch_size=51",
        "evaluation: out of GPU memory, going on with batch_size=26",
    ]


def test_one_image_that_does_not_fit_is_one_line() -> None:
    def work(_: int) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(BnrecalError, match=r"^calibration: one image does not fit the GPU's memory"):
        with_fitting_batches("calibration", 4, work)
