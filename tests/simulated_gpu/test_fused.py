"""Fused evaluation on a simulated CUDA device: in few launches, by one BatchNorm for every network, and watched."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers.fake_cuda import simulated
from helpers.nets import Aliased, images, tiny
from helpers.scripts import script
from torch import Tensor, nn

from bnrecal.evaluation.accuracy import evaluate
from bnrecal.nbsmt.engines.apply_end import Ending, alpha_beta, ending, ending_trouble
from bnrecal.nbsmt.engines.gpu import conv_end, triton_engine
from bnrecal.nbsmt.spec import SmtSpec
from bnrecal.quantization import eval_norm, fused
from bnrecal.quantization.calibrate import calibrate
from bnrecal.quantization.convert import quantize_layers, threaded_copy
from bnrecal.quantization.eval_norm import evaluation_norm
from bnrecal.quantization.fused import FusedNetwork, fuse
from bnrecal.quantization.intercept import ConvCall
from bnrecal.quantization.layer_plan import plan_threads
from bnrecal.quantization.nbsmt_conv import NBSMTConv2d

GPU = torch.device("cuda:1")
Labelled = tuple[Tensor, Tensor]


def batch(seed: int = 0) -> Tensor:
    return images(8, seed=seed).contiguous(memory_format=torch.channels_last)


def on_gpu(count: int) -> list[Labelled]:
    labels = torch.zeros(8, dtype=torch.int64).to(GPU)
    return [(batch(seed).to(GPU), labels) for seed in range(count)]


def quantized(network: nn.Module, device: torch.device, threads: int = 4) -> nn.Module:
    """A threaded copy, calibrated on the device."""
    plans = plan_threads(calibrate(network, [batch().to(device)]), threads, {})
    return threaded_copy(network, quantize_layers(plans, SmtSpec(), "mean_max")).eval()


@contextmanager
def counted_batchnorms() -> Iterator[list[torch.Size]]:
    """The shapes that torch's own BatchNorm gets in the block."""
    seen: list[torch.Size] = []
    own = torch.batch_norm

    def counted(x: Tensor, *args: Any) -> Tensor:
        seen.append(x.shape)
        return own(x, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "batch_norm", counted)
        yield seen


@contextmanager
def counted_launches() -> Iterator[Counter[str]]:
    """How often each kernel is started in the block."""
    seen: Counter[str] = Counter()
    with pytest.MonkeyPatch.context() as patch:
        for module in (triton_engine, conv_end):
            own = module.launch

            def started(kernel: Any, *args: Any, own: Any = own, **kwargs: Any) -> None:
                seen[kernel.__name__] += 1
                own(kernel, *args, **kwargs)

            patch.setattr(module, "launch", started)
        multiply = vars(triton_engine)["multiply"]

        def multiplied(**kwargs: Any) -> None:
            seen["conv_int8"] += 1
            seen["ended"] += kwargs["END"]
            multiply(**kwargs)

        patch.setattr(triton_engine, "multiply", multiplied)
        yield seen


@pytest.mark.parametrize("threads", [0, 1, 4])
def test_a_fused_network_gives_the_logits_of_the_unfused_one(threads: int) -> None:
    with simulated(2), torch.cuda.device(GPU):
        network = tiny().to(GPU)
        copy = network if threads == 0 else quantized(network, GPU, threads)
        runner = FusedNetwork(copy)
        x = batch(5).to(GPU)
        with evaluation_norm(GPU):
            plain = copy(x).cpu()
        for _ in range(4):
            assert torch.equal(runner(x).cpu(), plain)
        assert runner.fused is not None
    with torch.no_grad():
        own = tiny()
        expected = own if threads == 0 else quantized(own, torch.device("cpu"), threads)
        assert torch.allclose(plain, expected(batch(5)), atol=1e-4)


def test_every_network_has_the_one_batchnorm_in_every_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    def hooked() -> nn.Module:
        network = tiny()
        network.fc.register_forward_hook(lambda *_: None)  # no graph can be made of it
        return network

    with simulated(2), torch.cuda.device(GPU):
        network = tiny().to(GPU)
        networks = {"float32": network, "4T": quantized(network, GPU), "hooked": hooked().to(GPU)}
        monkeypatch.setattr(fused, "_compare_with_torchs", lambda *_: None)
        with counted_batchnorms() as seen:
            scores = evaluate(networks, on_gpu(4))
        assert scores["hooked"].top5.tolist() == scores["float32"].top5.tolist()
        assert seen == []
        with counted_batchnorms() as seen:
            network(batch().to(GPU))  # outside of an evaluation it is torch's
        assert len(seen) == 4


def test_the_difference_from_torchs_batchnorm_is_named_once(caplog: pytest.LogCaptureFixture) -> None:
    with simulated(2), torch.cuda.device(GPU):
        network = tiny().to(GPU)
        for _ in range(2):
            evaluate({"float32": network, "4T": quantized(network, GPU)}, on_gpu(3))
    (said,) = [record for record in caplog.records if "PyTorch's own gives" in record.getMessage()]
    device, difference, largest = said.args  # type: ignore[misc]
    assert device == GPU
    assert 0 <= difference < 1e-5 < largest  # type: ignore[operator]


def test_a_fused_network_takes_few_launches_and_hands_levels_over() -> None:
    seen: dict[str, torch.dtype] = {}
    own = NBSMTConv2d.__call__

    def noted(self: NBSMTConv2d, call: ConvCall) -> Tensor:
        seen[self.name] = call.x.dtype
        return own(self, call)

    with simulated(2), torch.cuda.device(GPU), pytest.MonkeyPatch.context() as patch:
        copy = quantized(tiny().to(GPU), GPU)
        x = batch().to(GPU)
        copy(x)
        short = fuse(copy)
        assert short is not None
        patch.setattr(NBSMTConv2d, "__call__", noted)
        with counted_batchnorms() as batchnorms, counted_launches() as launches:
            short(x)
    assert batchnorms == []
    assert launches == {"end_values": 1, "quantize_expand": 2, "conv_int8": 2, "ended": 2, "depthwise": 1}
    assert seen == dict.fromkeys(("conv2", "depthwise", "dilated"), torch.uint8)


def test_a_graph_that_says_something_else_is_not_used(caplog: pytest.LogCaptureFixture) -> None:
    with simulated(2), torch.cuda.device(GPU):
        runner = FusedNetwork(Aliased().to(GPU))
        for seed in range(3):
            x = images(2, seed=seed).to(GPU)
            with evaluation_norm(GPU):
                plain = runner.network(x).cpu()
            assert torch.equal(runner(x).cpu(), plain)
    assert runner.fused is None
    assert "goes on unfused" in caplog.text


@pytest.mark.parametrize("affine", [True, False])
def test_alpha_and_beta_are_within_a_bit_of_torchs(affine: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    mean, weight, bias = (torch.randn(200, generator=generator) for _ in range(3))
    variance = torch.rand(200, generator=generator) + 0.01
    given = [mean, variance, weight, bias] if affine else [mean, variance, None, None]
    expected = alpha_beta(mean, variance, given[2], given[3], 1e-5)
    with simulated(1):
        there = [None if value is None else value.to("cuda:0") for value in given]
        assert there[0] is not None
        assert there[1] is not None
        found = [value.cpu() for value in alpha_beta(there[0], there[1], there[2], there[3], 1e-5)]
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one, other, rtol=3e-7, atol=3e-7)


def test_an_evaluation_computes_alpha_and_beta_of_an_unfused_layer_once(monkeypatch: pytest.MonkeyPatch) -> None:
    computed: Counter[int] = Counter()

    def counted(mean: Tensor, *others: Any) -> tuple[Tensor, Tensor]:
        computed[id(mean)] += 1
        return alpha_beta(mean, *others)

    monkeypatch.setattr(eval_norm, "alpha_beta", counted)
    with simulated(2), torch.cuda.device(GPU):
        network = tiny().to(GPU)
        network.fc.register_forward_hook(lambda *_: None)  # no graph can be made of it
        for evaluations in (1, 2):
            evaluate({"float32": network}, on_gpu(4))
            assert list(computed.values()) == [evaluations] * 4


def test_what_batchnorm_in_evaluation_leaves_to_torch() -> None:
    x = torch.rand(4, 3).to(torch.float64)
    with simulated(1), evaluation_norm(torch.device("cuda:0")), counted_batchnorms() as seen:
        there = x.to("cuda:0")
        ones, zeros = (make(3, dtype=torch.float64).to("cuda:0") for make in (torch.ones, torch.zeros))
        F.batch_norm(there, zeros, ones)
        F.batch_norm(there.float().view(4, 3, 1, 1), None, None, training=True)
        assert len(seen) == 2


def test_without_triton_there_is_no_pass_of_its_own() -> None:
    with simulated(1, (7, 5)):
        assert ending(torch.device("cuda:0")) is Ending.NONE
        assert "no kernel for it on this cuda" in ending_trouble(torch.device("cuda:0"))
        assert fused.describe_fusion(tiny().to("cuda:0"), torch.device("cuda:0")).fused == 0
        runner = FusedNetwork(tiny().to("cuda:0"))
        with counted_batchnorms() as seen:
            for _ in range(3):
                runner(batch().to("cuda:0"))
        assert len(seen) == 3 * 4
        assert runner.fused is None


@pytest.mark.slow
def test_the_comparison_of_both_on_a_gpu() -> None:
    settings = ["device=cuda:0", "model=resnet18", "data.val_images=20", "calibration.images=16", "workers=0"]
    settings += ["recalibration.images=16", "recalibration.batch_size=16", "recal=true"]
    with simulated(1):
        rows = list(script("compare_fused").compare(settings, threads=[4]))
    assert [(row.images, row.fused.largest) for row in rows] == [(20, 0.0)] * 2
    assert all(row.torchs is not None and row.torchs.largest < 0.5 for row in rows)
    assert "against PyTorch's BatchNorm largest difference" in str(rows[0])
