"""The six calls of `import bnrecal` with a network on a simulated CUDA device."""

import pytest
import torch
from helpers.cuda_tensor import held
from helpers.fake_cuda import NAME, simulated
from helpers.nets import images, tiny
from torch import nn

import bnrecal
import bnrecal.experiment.setup
from bnrecal.data.glyphs.source import GlyphSource
from bnrecal.device import tf32, tf32_is_on
from bnrecal.nbsmt.analysis import self_check
from bnrecal.quantization.convert import threaded_layers

SPEC = bnrecal.SmtSpec(threads=4)


@pytest.mark.parametrize("device", ["cuda:0", "cuda:1"])
@pytest.mark.parametrize("capability", [(9, 0), (7, 5)])
def test_the_calls(device: str, capability: tuple[int, int]) -> None:
    x = images(24)
    labels = torch.arange(24) % 5
    batches = [(x[:12], labels[:12]), (x[12:], labels[12:])]
    with simulated(2, capability):
        model = tiny().to(device)
        q = bnrecal.quantize(model, batches, SPEC)
        assert bnrecal.recalibrate_(q, batches) is q
        scores = bnrecal.evaluate({"float32": model, "4T": q}, batches)
        table = bnrecal.layer_table(q, batches)
        expected = "triton-int8" if capability >= (8, 0) else "int-mm"
        assert threaded_layers(q)["conv2"].engine.startswith(expected)
        assert {str(tensor.device) for tensor in q.state_dict().values()} == {device}
        found = q(x.to(device)).cpu()
        sums = bnrecal.nbsmt_conv2d(
            (x * 255).byte().to(device), torch.ones(4, 3, 3, 3).to(device, torch.int8), threads=2
        )
        assert sums.device == torch.device(device)
    twin = bnrecal.quantize(tiny(), batches, SPEC)
    bnrecal.recalibrate_(twin, batches)
    with torch.no_grad():
        assert torch.allclose(found, twin(x), atol=1e-2)
    assert scores["4T"].images == 24
    assert table["mse"].tolist() == pytest.approx(bnrecal.layer_table(twin, batches)["mse"].tolist(), rel=1e-2)
    assert torch.equal(
        held(sums), bnrecal.nbsmt_conv2d((x * 255).byte(), torch.ones(4, 3, 3, 3).to(torch.int8), threads=2)
    )


def test_a_gpu_that_computes_something_else_is_found_before_any_number(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(device: torch.device) -> None:
        raise bnrecal.BnrecalError(f"{device} does not compute NB-SMT exactly")

    monkeypatch.setattr(self_check, "check_exact", wrong)
    x = images(8)
    with simulated(2):
        model = tiny().to("cuda:1")
        with pytest.raises(bnrecal.BnrecalError, match="cuda:1 does not compute"):
            bnrecal.quantize(model, [x], SPEC)
        with pytest.raises(bnrecal.BnrecalError, match="cuda:1 does not compute"):
            bnrecal.evaluate({"float32": model}, [(x, torch.zeros(8, dtype=torch.int64))])


def test_numbers_are_true_float32_and_the_setting_is_given_back() -> None:
    seen: list[bool] = []

    class Watched(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = tiny()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(tf32_is_on())
            logits: torch.Tensor = self.inner(x)
            return logits

    x = images(8)
    batches = [(x, torch.zeros(8, dtype=torch.int64))]
    with tf32(True):
        q = bnrecal.quantize(Watched(), batches, SPEC)
        bnrecal.recalibrate_(q, batches)
        bnrecal.evaluate({"4T": q}, batches)
        bnrecal.layer_table(q, batches)
        assert tf32_is_on()
    assert len(seen) == 4
    assert not any(seen)


def test_a_whole_experiment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bnrecal.experiment.setup, "build_source", lambda *_: GlyphSource(0, 100, 20))
    config = bnrecal.Config(
        model=bnrecal.ModelConfig(family="custom", factory="helpers.nets:glyph_net"),
        data=bnrecal.DataConfig(name="glyphs", val_images=20),
        calibration=bnrecal.CalibrationConfig(images=32),
        device="cuda",
    )
    with simulated(1):
        result = bnrecal.run(config)
    assert result.provenance["device"] == f"{NAME} 0, float32"
