"""Every command on a simulated CUDA device: all tensors of its path lie there, and the numbers are the CPU's."""

import json
import multiprocessing
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import torch
import torchvision
from helpers.fake_cuda import NAME, simulated
from helpers.fake_cuda_processes import SimulatedContext
from helpers.nets import tiny
from helpers.small import TINY

import bnrecal.experiment.setup
from bnrecal.benchmark import bench, compiled
from bnrecal.commands import bench as bench_command
from bnrecal.commands import experiment as command
from bnrecal.commands import figure1, table1
from bnrecal.commands.bench import run_bench
from bnrecal.commands.cli.compose import compose_config, read_config
from bnrecal.commands.cli.schemas import BenchConfig, ExportConfig, Figure1Config, Network, PlanConfig, Table1Config
from bnrecal.commands.export import make_export
from bnrecal.commands.plan import make_plan
from bnrecal.commands.table1 import make_table1
from bnrecal.config import parse
from bnrecal.data.glyphs.source import GlyphSource
from bnrecal.experiment.results import Result, read_result
from bnrecal.experiment.run import run
from bnrecal.experiment.setup import on_device
from bnrecal.files import warn_once
from bnrecal.nbsmt.prepared_conv import nbsmt_conv2d
from bnrecal.reports.table1.columns import Row

FEW = [*TINY, "device=auto", "workers=0", "resume=false"]
SEARCH = ["search.sensitivity_images=32", "search.images=32", "search.heldout_images=32", "search.rounds=0"]


@pytest.fixture(autouse=True, scope="module")
def _two_gpus() -> Iterator[None]:
    with simulated(2):
        yield


@pytest.fixture(autouse=True)
def _few_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bnrecal.experiment.setup, "build_source", lambda *_: GlyphSource(0, 100, 20))


def result(*overrides: str) -> Result:
    return run(parse(compose_config("config", [*FEW, *overrides])))


def engines(result: Result) -> set[str]:
    """What did the sums of the threaded layers, as the layers themselves report it."""
    assert result.layers is not None
    threaded = result.layers[result.layers["threads"] > 1]
    return {engine.split(":")[0] for engine in threaded["engine"]}


def test_an_experiment_with_recalibration_and_its_tables(tmp_path: Path) -> None:
    done = command._run_into(parse(compose_config("config", [*FEW, "recal=true", "save_checkpoint=true"])), tmp_path)
    assert f"{NAME} 0, float32" in done.text
    assert "triton-int8" in done.text
    found = read_result(tmp_path / "result.json")
    assert found["provenance"]["device"] == f"{NAME} 0, float32"
    layers = pd.read_csv(tmp_path / "layers.csv").set_index("name")
    assert layers.loc["conv2", "engine"].startswith("triton-int8")
    assert layers.loc["conv2", "mse"] > 0
    assert len(pd.read_csv(tmp_path / "batchnorm.csv")) == 4
    weights = torch.load(tmp_path / "checkpoint.pth", weights_only=True)
    assert {tensor.device for tensor in weights.values()} == {torch.device("cpu")}


@pytest.mark.parametrize(
    ("overrides", "engine"),
    [
        (["recal=true"], "triton-int8"),
        (["smt.reorder=activity"], "triton-int8"),
        (["smt.saturate=false"], "float32"),
        (["smt.bits=3"], "float32"),
        (["smt.policy=helpers.policies:DROP", "smt.threads=2"], "float32"),
        (["smt.reorder=random:1", "device=cuda:1"], "triton-int8"),
    ],
)
def test_the_numbers_are_the_cpus(overrides: list[str], engine: str) -> None:
    on_gpu = result("device=cuda:0", *overrides)
    on_cpu = result(*overrides, "device=cpu")
    assert engines(on_gpu) == {engine}
    assert on_gpu.provenance["engine"].startswith(engine)
    assert on_gpu.provenance["device_kind"].startswith(NAME)
    assert on_gpu.outcome is not None
    assert on_cpu.outcome is not None
    assert (on_gpu.outcome.top5 == on_cpu.outcome.top5).mean() >= 0.9  # ties of a random network may fall elsewhere
    assert on_gpu.layers is not None
    assert on_cpu.layers is not None
    for column in ("weight_sparsity", "activation_sparsity", "active_1", "active_2", "relative_mse"):
        found = on_gpu.layers[column].to_numpy(float)
        assert found == pytest.approx(on_cpu.layers[column].to_numpy(float), rel=1e-2, abs=1e-4, nan_ok=True), column
    current = "1" if "device=cuda:1" in overrides else "0"
    assert on_gpu.provenance["device"] == f"{NAME} {current}, float32"


def test_what_another_kind_of_device_measured_is_kept_with_a_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kept = [*TINY, "workers=0", "device=cuda:0"]
    command._run_into(parse(compose_config("config", kept)), tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "get_device_name", lambda *_: "NVIDIA Other")
        done = command._run_into(parse(compose_config("config", kept)), tmp_path)
    assert done.text.endswith("(finished earlier)")
    said = [record.getMessage() for record in caplog.records if "are kept" in record.getMessage()]
    assert said == [
        f"results measured on {NAME} 0 are kept, new ones come from NVIDIA Other: resume=false measures all again"
    ]


def test_table1(tmp_path: Path) -> None:
    rows = "rows=[{source: a, label: Tiny, model: custom}]"
    own = [*FEW, rows, f"out={tmp_path}"]
    make_table1(read_config(Table1Config, own), own)
    assert len(pd.read_csv(tmp_path / "table1.csv")) == 1


def test_a_row_that_another_kind_of_device_measured_is_kept_with_a_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    settings = [*TINY, "workers=0", "device=cuda:0"]
    table = read_config(Table1Config, settings)
    figure = read_config(Figure1Config, settings)
    monkeypatch.setattr(table1, "_measure", lambda _, rows: [[] for _ in rows])
    monkeypatch.setattr(figure1, "prepare", on_device)
    monkeypatch.setattr(figure1, "measure_curves", lambda *_: [])

    def reported() -> int:
        """Results of another device that were named: each message comes once."""
        warn_once.cache_clear()
        caplog.clear()
        table1.measure_model(table, [Row("a", "Tiny", "custom")], tmp_path / "table")
        warn_once.cache_clear()
        figure1.measure_network(figure, Network("a", "Tiny", "custom"), tmp_path / "figure")
        return len([record for record in caplog.records if "NVIDIA One are kept" in record.getMessage()])

    for name, expected in (("NVIDIA One", 0), ("NVIDIA One", 0), ("NVIDIA Two", 2)):
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_, name=name: name)
        assert reported() == expected


def test_plan(tmp_path: Path) -> None:
    path = make_plan(read_config(PlanConfig, [*FEW, *SEARCH, "speedup=2.0", f"out={tmp_path}", "device=cuda:1"]), [])
    assert path.exists()


def test_export(tmp_path: Path) -> None:
    own = [*FEW, "recal=true", "vectors.outputs=1", f"out={tmp_path / 'out'}", "device=cuda:1"]
    made = make_export(read_config(ExportConfig, own), [])
    assert (made.folder / "plan.json").exists()


@pytest.mark.parametrize(("overrides", "batch"), [([], 256), (["device=cpu"], 8), (["batch=3"], 3)])
def test_bench_takes_batches_that_suit_the_device(
    overrides: list[str], batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    monkeypatch.setattr(bench_command, "run", lambda *args: seen.append(args[2]))
    run_bench(read_config(BenchConfig, ["device=cuda", *overrides]), [])
    assert seen == [batch]


def test_bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[str] = []

    def peak(name: str, variant: str, device: str, *_: int) -> float:
        seen.append(f"{name} {variant} {device}")
        return 2.0

    monkeypatch.setattr(torchvision.models, "get_model", lambda *_, **__: tiny())
    monkeypatch.setattr(bench, "_measured_apart", peak)  # in processes of their own, which have no GPU
    monkeypatch.setattr(bench, "time_compiled", lambda *_: "left out")
    monkeypatch.setattr(bench, "broadcast_conv2d", lambda x, w, *_: nbsmt_conv2d(x, w, threads=4, padding=1))
    own = ["models=[resnet18]", "batch=1", "repeats=1", "size=32", "device=cuda:1", f"out={tmp_path / 'bench.json'}"]
    run_bench(read_config(BenchConfig, own), own)
    rows = json.loads((tmp_path / "bench.json").read_text())
    assert [row["variant"] for row in rows[:3]] == ["float32", "TF32", "1T"]
    assert {row["engine"] for row in rows if "T" in row["variant"][1:2]} == {"triton-int8"}
    assert seen == ["resnet18 float32 cuda:1", "resnet18 4T cuda:1"]
    assert f"{NAME} 1" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.usefixtures("several_processes")
def test_bench_measures_memory_in_processes_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multiprocessing, "get_context", lambda _: SimulatedContext(2))
    peak = bench._measured_apart("squeezenet1_0", "4T", "cuda:1", 1, 32)
    assert peak == 1.0  # what the simulated driver says of its memory


@pytest.mark.slow
@pytest.mark.usefixtures("several_processes")
def test_bench_tries_to_compile_in_a_process_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multiprocessing, "get_context", lambda _: SimulatedContext(2))
    found = compiled.time_compiled("squeezenet1_0", "cuda:1", 1, 1, 32)
    assert not isinstance(found, str) or found.startswith("torch.compile failed")  # it has no GPU to compile for
