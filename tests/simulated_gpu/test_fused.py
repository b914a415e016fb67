"""Fused evaluation on a simulated CUDA device: where there is nothing for it, and where its bits are only close."""

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers.cuda_tensor import CudaTensor, held
from helpers.fake_cuda import simulated
from helpers.nets import images, tiny
from torch import Tensor, nn

from bnrecal.evaluation.accuracy import evaluate
from bnrecal.nbsmt import prepared_conv
from bnrecal.nbsmt.engines.apply_end import Ending, ending
from bnrecal.nbsmt.engines.conv_end import ConvEnd
from bnrecal.nbsmt.engines.cpu import conv_end
from bnrecal.nbsmt.spec import SmtSpec
from bnrecal.quantization import fused
from bnrecal.quantization.calibrate import calibrate
from bnrecal.quantization.convert import quantize_layers, threaded_copy
from bnrecal.quantization.fused import fuse
from bnrecal.quantization.layer_plan import plan_threads

CPU = torch.device("cpu")


def device_end_(y: Tensor, end: ConvEnd, target: Tensor | None = None) -> Tensor:
    """Stands for a kernel of the device: all its tensors must lie there."""
    target = y if target is None else target
    there = [tensor for tensor in (y, target, end.alpha, end.beta, end.residual) if tensor is not None]
    assert {tensor.device for tensor in there} == {y.device}
    assert y.device.type == "cuda"
    residual = None if end.residual is None else held(end.residual)
    on_cpu = replace(end, alpha=held(end.alpha), beta=held(end.beta), residual=residual, levels=None)
    conv_end.end_(held(y), on_cpu, held(target))
    return target


def quantized(network: nn.Module, device: torch.device | str) -> nn.Module:
    """A copy at four threads, calibrated on the device."""
    plans = plan_threads(calibrate(network, [batch().to(device)]), 4, {})
    return threaded_copy(network, quantize_layers(plans, SmtSpec(), "mean_max")).eval()


def batch(seed: int = 0) -> Tensor:
    return images(8, seed=seed).contiguous(memory_format=torch.channels_last)


@pytest.mark.skipif(ending(CPU) is not Ending.EQUAL, reason="no fused end on this processor")
def test_close_bits_serve_every_network_from_the_first_batch_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "ending", lambda device: Ending.CLOSE if device.type == "cuda" else Ending.NONE)
    monkeypatch.setattr(fused, "can_end", lambda x: isinstance(x, CudaTensor) and conv_end.is_dense(held(x)))
    monkeypatch.setattr(fused, "apply_end_", device_end_)
    monkeypatch.setattr(prepared_conv, "apply_end_", device_end_)
    batchnorms: list[torch.Size] = []
    own = F.batch_norm

    def counted(x: Tensor, *args: Any, **options: Any) -> Tensor:
        batchnorms.append(x.shape)
        return own(x, *args, **options)

    with simulated(2):
        network = tiny().to("cuda:1")
        copy = quantized(network, "cuda:1")
        monkeypatch.setattr(F, "batch_norm", counted)
        labelled = [(batch(seed).to("cuda:1"), torch.zeros(8, dtype=torch.int64).to("cuda:1")) for seed in range(2)]
        scores = evaluate({"float32": network, "4T": copy}, labelled)
        assert scores["4T"].images == scores["float32"].images == 16
        assert {shape[2:] for shape in batchnorms} == {(1, 1)}  # alpha and beta were asked for, and nothing else
        short = fuse(copy)
        assert short is not None
        logits = short(batch().to("cuda:1")).cpu()
    monkeypatch.undo()
    with torch.no_grad():
        assert torch.equal(logits, quantized(tiny(), CPU)(batch()))


def test_a_gpu_has_no_pass_of_its_own_until_it_says_so() -> None:
    with simulated(1, (7, 5)):
        assert ending(torch.device("cuda:0")) is Ending.NONE
        assert fused.describe_fusion(tiny().to("cuda:0"), torch.device("cuda:0")).why_not == "no kernel for it on cuda"
