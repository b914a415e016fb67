"""The benchmark on a small network: complete rows, valid JSON, loud errors."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import fx
from torchvision.models.resnet import BasicBlock

from bnrecal.benchmark import bench, compiled, networks
from bnrecal.benchmark.broadcast import broadcast_conv2d
from bnrecal.benchmark.floor import ABSORBED, _SumsAlone, floor_network
from bnrecal.commands.bench import run_bench
from bnrecal.commands.cli.compose import read_config
from bnrecal.commands.cli.schemas import BenchConfig
from bnrecal.device import choose_device, tf32_is_on
from bnrecal.errors import BnrecalError
from bnrecal.models.narrow import NarrowResNet
from bnrecal.nbsmt import reference
from bnrecal.nbsmt.engines.apply_end import Ending, ending
from bnrecal.nbsmt.engines.cpu.dense_sparse import DenseSparseEngine
from bnrecal.nbsmt.engines.cpu.onednn import Exactness, onednn_exactness
from bnrecal.nbsmt.geometry import Geometry
from bnrecal.nbsmt.prepared_conv import nbsmt_conv2d
from bnrecal.quantization.intercept import handlers


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """A ResNet-18 of a quarter of the channels in place of torchvision's."""

    def get_model(name: str, **_: object) -> torch.nn.Module:
        assert name == "resnet18"
        return NarrowResNet(BasicBlock, [2, 2, 2, 2], width=16)

    monkeypatch.setattr(torchvision.models, "get_model", get_model)


def made(overrides: list[str]) -> None:
    run_bench(read_config(BenchConfig, overrides), overrides)


@pytest.mark.usefixtures("narrow")
def test_rows_of_a_small_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "_measured_apart", lambda *_: 2.0)
    monkeypatch.setattr(bench, "time_compiled", lambda *_: {"float32": 1.0, "float32 compiled": 0.5})
    monkeypatch.setattr(bench, "broadcast_conv2d", lambda x, w, *_: nbsmt_conv2d(x, w, threads=4, padding=1))
    out = tmp_path / "deep" / "bench.json"
    monkeypatch.setattr(bench, "_quickest_batch", lambda _, images: images.repeat(4, 1, 1, 1))
    monkeypatch.setattr(bench, "keep_freed_memory", lambda: False)
    workers = [2]  # said and asked, not used: on a busy machine two wait for each other
    monkeypatch.setattr(torch, "set_num_threads", workers.append)
    monkeypatch.setattr(torch, "get_num_threads", lambda: workers[-1])
    made(["models=[resnet18]", "batch=1", "repeats=1", "size=32", f"out={out}"])
    rows = json.loads(out.read_text())
    found = [(row["variant"], row["workers"]) for row in rows]
    network = ["float32", "1T", "2T", "4T", "4T, P40"]
    layer = ["float32", "4T", "broadcast 4T"]
    assert found == [
        *((variant, 2) for variant in network),
        *((variant, 1) for variant in network),
        *((variant, 2) for variant in ["float32 compiled", *layer]),
    ]
    assert set(rows[0]) == set(bench.Row.__dataclass_fields__)
    assert [round(row["zero_weights"], 2) for row in rows[1:5]] == [0.02, 0.02, 0.02, 0.4]
    assert all(row["isa"] for row in rows)
    assert rows[0]["ratio"] == rows[5]["ratio"] == rows[0]["memory_ratio"] == 1.0
    assert (rows[10]["ratio"], rows[10]["images_per_s"]) == (0.5, 2.0)
    assert all(row["ratio"] > 0 and row["images_per_s"] > 0 for row in rows)
    printed = capsys.readouterr().out
    assert "resnet18" in printed
    assert "times faster than product by product" in printed
    assert "may go back to the system" in printed


@pytest.mark.usefixtures("narrow")
def test_ratios_are_of_times_per_image(monkeypatch: pytest.MonkeyPatch) -> None:
    images = networks.random_images(2, 32, "cpu")
    built = {name: networks.build("resnet18", networks.VARIANTS[name], images) for name in ("float32", "4T")}
    passes = bench._passes(built, images.device)
    monkeypatch.setattr(bench, "_quickest_batch", lambda _, images: images.repeat(4, 1, 1, 1))

    def timed(calls: dict[str, Any], _: int) -> dict[str, float]:
        images = {label: len(call.args[0]) for label, call in calls.items()}
        assert images == {"float32": 8, "4T": 8} | ({"floor 4T": 2} if "floor 4T" in images else {})
        return {"float32": 4.0, "4T": 1.0, "floor 4T": 0.25}

    monkeypatch.setattr(bench, "interleaved", timed)
    float32, threaded = bench._time_variants("resnet18", built, passes, images, 1, {"4T": 3.0})
    assert (float32.batch, float32.images_per_s, float32.ratio) == (8, 2.0, 1.0)
    assert (threaded.batch, threaded.images_per_s, threaded.ratio, threaded.memory_ratio) == (8, 8.0, 0.25, 3.0)
    assert float32.floor is None
    assert threaded.floor in (0.25, None)  # of a quarter of the images; None where oneDNN's 8 bits are not used


@pytest.mark.usefixtures("narrow")
def test_threaded_networks_are_timed_as_they_are_evaluated() -> None:
    images = networks.random_images(2, 32, "cpu")
    float32, threaded = (networks.build("resnet18", networks.VARIANTS[name], images) for name in ("float32", "4T"))
    assert bench.as_evaluated(float32, images.device) is float32.network
    fused = bench.as_evaluated(threaded, images.device)
    with torch.inference_mode():
        assert torch.equal(fused(images), threaded.network(images))
    assert isinstance(fused, fx.GraphModule) == (ending(images.device) is not Ending.NONE)


def test_the_batch_that_float32_is_quickest_with_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    images = networks.random_images(2, 32, "cpu")
    monkeypatch.setattr(bench, "interleaved", lambda *_: {"1": 1.0, "2": 1.5, "4": 3.2})
    assert len(bench._quickest_batch(torch.nn.Identity(), images)) == 4


@pytest.mark.usefixtures("narrow")
def test_the_floor_is_the_same_network_with_sums_alone() -> None:
    images = networks.random_images(1, 64, "cpu")
    float32 = networks.build("resnet18", networks.VARIANTS["float32"], images)
    threaded = networks.build("resnet18", networks.VARIANTS["4T"], images)
    bare = floor_network(float32.network, threaded)
    if onednn_exactness() is Exactness.NONE:
        assert bare is None
        return
    assert bare is not None
    seen: list[torch.Size] = []
    conv = bare.get_submodule("layer4.1.conv2")
    conv.register_forward_hook(lambda _, __, y: seen.append(y.shape))
    with torch.inference_mode():
        assert bare(images).shape == (1, 1000)
        answer = handlers(bare)["layer4.1.conv2"]
    assert seen == [(1, 128, 2, 2)]
    assert isinstance(answer, _SumsAlone)
    engine = threaded.layers["layer4.1.conv2"].packed.convolutions()[0].engine
    assert isinstance(engine, DenseSparseEngine)
    assert answer.levels.shape == (1, 128 * len(engine.operands), 2, 2)
    assert not any(isinstance(module, ABSORBED) for module in bare.modules())
    assert any(isinstance(module, ABSORBED) for module in float32.network.modules())
    assert set(handlers(bare)) == set(threaded.layers)


@pytest.mark.usefixtures("narrow")
def test_threaded_network_computes_what_float_does_roughly() -> None:
    images = networks.random_images(2, 64, "cpu")
    with torch.inference_mode():
        network = networks.build("resnet18", networks.VARIANTS["float32"], images).network
        threaded = networks.build("resnet18", networks.VARIANTS["1T"], images)
        exact = network(images)
        found = threaded.network(images)
    assert threaded.engine
    assert (exact - found).norm() < 0.2 * exact.norm()


@pytest.mark.parametrize("variant", ["float32", "4T"])
def test_peak_memory_is_measured_on_linux(variant: str) -> None:
    peak = bench.network_peak("resnet18", variant, "cpu", 1, 64)
    if not Path("/proc/self/clear_refs").exists():
        assert peak is None
        return
    assert peak is not None
    assert 10e6 < peak < 2e9


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["models=[resnet17]"], "resnet17"),
        (["batch=0"], "batch=0"),
        *([] if torch.cuda.is_available() else [(["device=cuda"], "device=cuda")]),
    ],
)
def test_bad_arguments_are_named(arguments: list[str], named: str) -> None:
    with pytest.raises(BnrecalError, match=named):
        made(arguments)


def test_a_wrong_engine_is_not_timed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(reference, "conv2d", lambda *_, **__: torch.zeros(1, 4, 4, 4, dtype=torch.int64))
    with pytest.raises(BnrecalError, match=r"exactly: .* with 1 threads"):
        bench.run("cpu", [], 1, 1, 32, tmp_path / "bench.json")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_the_emulation_it_is_compared_with_is_right(threads: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (2, 5, 5, 5), generator=generator) * torch.randint(
        0, 2, (2, 5, 5, 5), generator=generator
    )
    w = torch.randint(-128, 128, (3, 5, 3, 3), generator=generator)
    found = broadcast_conv2d(x.byte(), w.to(torch.int8), threads, Geometry((2, 1), (1, 0), (1, 1), 1))
    assert torch.equal(found.long(), reference.conv2d(x, w, threads=threads, stride=(2, 1), padding=(1, 0)).long())


@pytest.mark.parametrize(
    ("name", "limit_s", "said"),
    [("resnet18", 0.1, "not within 0 s"), ("resnet17", 300.0, "its process ended without an answer")],
)
def test_why_there_is_no_compiled_row(
    name: str, limit_s: float, said: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled, "LIMIT_S", limit_s)
    assert bench._compiled_row(name, "cpu", 1, 1, 32) == []
    assert f"{name} float32 compiled: left out, {said}" in capfd.readouterr().out


def test_without_a_compiler_the_reason_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: object) -> None:
        raise RuntimeError("no C++ compiler")

    monkeypatch.setattr(compiled, "build", lambda *_: networks.Built(torch.nn.Identity(), "torch", None))
    monkeypatch.setattr(compiled, "interleaved", failing)
    assert compiled._times("resnet18", "cpu", 1, 1, 32) == "torch.compile failed with RuntimeError"


def test_the_tf32_row_computes_in_tf32_and_the_others_do_not() -> None:
    choose_device("cpu")
    assert bench._in_tf32(tf32_is_on)() is True
    assert tf32_is_on() is False
