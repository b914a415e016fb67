"""Choosing a device, what happens where it does not work, and batches that its memory holds."""

import logging
import subprocess
import sys
import warnings
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch
from helpers.fake_cuda import NAME, simulated

from bnrecal import device as device_module
from bnrecal.commands.cli.compose import compose_config
from bnrecal.config import check_device, parse
from bnrecal.device import choose_device, describe_device, find_device, tf32, tf32_is_on, with_fitting_batches
from bnrecal.errors import BnrecalError
from bnrecal.nbsmt.engines.gpu import choose, tuning
from bnrecal.nbsmt.prepared_conv import PreparedConv2d
from bnrecal.nbsmt.spec import SmtSpec

CPU = torch.device("cpu")
FIRST = torch.device("cuda:0")


@pytest.fixture(autouse=True)
def _restore_tf32() -> Iterator[None]:
    with tf32(False):
        yield


def warned(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


@pytest.mark.parametrize("name", ["auto", "cuda", "cuda:0"])
def test_a_gpu_is_chosen_with_its_index(name: str) -> None:
    with simulated(2):
        assert choose_device(name, engine_trouble=choose.triton_trouble) == FIRST
        assert choose_device("cuda:1") == torch.device("cuda:1")
        assert torch.cuda.current_device() == 1
        assert choose_device("cuda") == torch.device("cuda:1")  # the current one
        assert describe_device(torch.device("cuda:1")) == f"{NAME} 1, float32"
    assert find_device("cpu") == CPU


def test_a_device_that_is_not_there_is_an_error() -> None:
    with simulated(1):
        with pytest.raises(BnrecalError, match=r"^device=cuda:7: this machine has cuda:0 to cuda:0 alone; choose"):
            choose_device("cuda:7")
        with pytest.raises(BnrecalError, match=r"^device=cuda:300: "):  # torch takes it for cuda:44
            choose_device("cuda:300")
    with simulated(0), pytest.raises(BnrecalError, match=r"device=cuda: .* no usable CUDA device.*cpu or auto"):
        choose_device("cuda")


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "cuda:-1", "cpu:0", "mps"])
def test_what_is_no_device_is_reported_in_one_line(name: str) -> None:
    with pytest.raises(BnrecalError, match=f"^device={name}: choose auto, cpu, cuda or cuda:N$"):
        check_device(name)
    with pytest.raises(BnrecalError, match=f"^device={name}: choose auto, cpu, cuda or cuda:N$"):
        parse(compose_config("config", ["model=resnet18", f"device='{name}'"]))


def no_code(*_: object, **__: object) -> None:
    error = getattr(torch, "AcceleratorError", RuntimeError)  # its name since torch 2.8
    raise error("CUDA error: no kernel image is available for execution on the device\nCompile with")


def test_a_gpu_that_torch_has_no_code_for(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    with simulated(1):
        monkeypatch.setattr(torch, "ones", no_code)
        assert choose_device("auto") == CPU
        assert choose_device("auto") == CPU
        said = "the GPU does not compute (CUDA error: no kernel image is available for execution on the device)"
        assert warned(caplog) == [f"device=auto: {said}; going on with the CPU"]
        with pytest.raises(BnrecalError) as error:
            choose_device("cuda")
        assert str(error.value) == f"device=cuda: {said}; choose cpu or auto"


def test_a_gpu_that_computes_something_else(monkeypatch: pytest.MonkeyPatch) -> None:
    with simulated(1):
        monkeypatch.setattr(torch, "ones", torch.zeros)
        with pytest.raises(BnrecalError, match="wrong products"):
            choose_device("cuda")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RuntimeError("Failed to find C compiler.\nPlease"), "Failed to find C compiler."),
        (subprocess.CalledProcessError(1, ["gcc"]), "Command '['gcc']' returned non-zero exit status 1."),
        (PermissionError(13, "Permission denied", "/cache"), "[Errno 13] Permission denied: '/cache'"),
        (AssertionError("libcuda.so cannot found!"), "libcuda.so cannot found!"),
    ],
)
def test_where_triton_starts_nothing_auto_is_the_cpu_and_cuda_multiplies_by_cublas(
    error: Exception, said: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: torch.device) -> bool:
        raise error

    with simulated(1):
        monkeypatch.setattr(tuning, "try_launch", broken)
        trouble = f"Triton starts no kernel ({said}): it wants a C compiler and Python's headers"
        assert choose_device("auto", engine_trouble=choose.triton_trouble) == CPU
        assert choose_device("cuda", engine_trouble=choose.triton_trouble) == FIRST
        assert warned(caplog) == [
            f"device=auto: {trouble}; going on with the CPU",
            f"device=cuda: {trouble}; going on without it, slower",
        ]
        layer = PreparedConv2d(torch.ones(4, 4, 3, 3, dtype=torch.int8), SmtSpec(4), device=FIRST)
        assert layer.engine_name == "int-mm"


def test_triton_is_tried_once_for_each_device(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[torch.device] = []

    def works(device: torch.device) -> bool:
        tried.append(device)
        return True

    with simulated(2):
        monkeypatch.setattr(tuning, "try_launch", works)
        for name in ("cuda:0", "cuda:1", "cuda:0"):
            choose_device(name, engine_trouble=choose.triton_trouble)
        assert tried == [FIRST, torch.device("cuda:1")]
    with simulated(1, capability=(7, 5)):  # its kernels are not made for this one: nothing is tried, nothing said
        assert choose.triton_trouble(FIRST) == ""
        assert not choose.triton_runs(FIRST)
    assert len(tried) == 2


@pytest.mark.parametrize("on", [False, True])
def test_float32_is_float32_unless_asked_and_the_result_says_which(on: bool) -> None:
    with simulated(1):
        choose_device("cuda", tf32=on)
        assert tf32_is_on() is on
        assert describe_device(FIRST) == f"{NAME} 0, {'TF32' if on else 'float32'}"
    assert describe_device(CPU).startswith("cpu, ")


def old_torch() -> SimpleNamespace:
    """What torch before 2.9 has of switches."""
    matmul = SimpleNamespace(allow_tf32=False)
    return SimpleNamespace(cuda=SimpleNamespace(matmul=matmul), cudnn=SimpleNamespace(allow_tf32=True))


def new_torch() -> SimpleNamespace:
    """What later ones have; reading an old switch would raise."""
    matmul = SimpleNamespace(fp32_precision="none")
    return SimpleNamespace(
        cuda=SimpleNamespace(matmul=matmul), cudnn=SimpleNamespace(conv=SimpleNamespace(fp32_precision="tf32"))
    )


@pytest.mark.parametrize("backends", [old_torch(), new_torch(), torch.backends])
def test_tf32_is_switched_in_every_torch_and_given_back(
    backends: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "backends", backends)
    before = [getattr(holder, name) for holder, name, _ in device_module._tf32_switches()]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for on in (True, False):
            with tf32(on):
                assert tf32_is_on() is on
                for holder, name, values in device_module._tf32_switches():
                    assert getattr(holder, name) == values[on]
    assert [getattr(holder, name) for holder, name, _ in device_module._tf32_switches()] == before


def test_torch_itself_computes_float32_then() -> None:
    """The switches are torch's own: what it tells of both precisions follows them."""
    script = """
import torch
from bnrecal.device import set_tf32
set_tf32(True)
set_tf32(False)
print(torch.backends.cuda.matmul.allow_tf32, torch.get_float32_matmul_precision())
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["False", "highest"], done.stderr


def test_short_memory_starts_again_with_half_the_batch(caplog: pytest.LogCaptureFixture) -> None:
    tried = []

    def work(size: int) -> int:
        tried.append(size)
        if size > 30:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return 7 * size

    assert with_fitting_batches("evaluation", 101, work) == 7 * 26
    assert tried == [101, 51, 26]
    assert warned(caplog) == [
        "evaluation: out of GPU memory, going on with batch_size=51",
        "evaluation: out of GPU memory, going on with batch_size=26",
    ]


def test_one_image_that_does_not_fit_is_one_line() -> None:
    def work(_: int) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(BnrecalError, match=r"^calibration: one image does not fit the GPU's memory"):
        with_fitting_batches("calibration", 4, work)
