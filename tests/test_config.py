"""Settings that are wrong, or do nothing, are refused in one line that names them."""

from pathlib import Path

import pytest
from helpers.small import SMALL, config

from bnrecal.commands.cli.compose import compose_config, quoted_paths, read_config
from bnrecal.commands.cli.schemas import (
    BenchConfig,
    CommandConfig,
    Figure1Config,
    PlanConfig,
    PruneConfig,
    Table1Config,
)
from bnrecal.commands.figure1 import make_figure1
from bnrecal.commands.plan import make_plan
from bnrecal.commands.table1 import make_table1
from bnrecal.errors import BnrecalError
from bnrecal.experiment.setup import load, prepare
from bnrecal.quantization.layer_plan import load_plan


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model=torchvision", "model.name is missing: give a name that family=torchvision knows"),
        ("model.family=keras", "model.family=keras: choose one of table1, torchvision, custom, timm"),
        ("data.name=''", "data.name is missing: choose one of glyphs, imagenet"),
        ("device=0", "device=0: write device=cuda:0"),
        ("device=mps", "device=mps: choose auto, cpu, cuda or cuda:N"),
        ("device=cuda:", "device=cuda:: choose auto, cpu, cuda or cuda:N"),
        ("device=", "device= is empty"),
        ("seed=99999999999999999999", "seed=99999999999999999999: give a number within 64 bits"),
        ("seed=-1", "seed=-1: must be at least 0"),
        ("calibration.images=9223372036854775808", "calibration.images=9223372036854775808: give a number within"),
        ("model.mean=[nan,0.5,0.5]", "model.mean=nan: give a finite number"),
        ("model.std=[0.5,inf,0.5]", "model.std=inf: give a finite number"),
        ("recalibration.momentum=nan", "recalibration.momentum=nan: give a finite number"),
        ("model.checkpoint=''", "model.checkpoint= is empty"),
        ("quant.skip=['']", "quant.skip= is empty"),
        ("smt.layers={conv2: 3}", r"smt.layers\[conv2\]=3: choose one of 1, 2, 4"),
    ],
)
def test_a_value_out_of_range_is_named(override: str, message: str) -> None:
    with pytest.raises(BnrecalError, match=message):
        config(override)


def test_one_gpu_by_number_and_several_exclude_each_other() -> None:
    with pytest.raises(BnrecalError, match="gpus=2 takes cuda:0 to cuda:1, device=cuda:1 a single one"):
        config("device=cuda:1", "gpus=2")
    assert config("device=cuda", "gpus=2").gpus == 2


@pytest.mark.parametrize(
    ("schema", "override", "message"),
    [
        (PruneConfig, "prune.learning_rate=nan", "prune.learning_rate=nan: give a finite number"),
        (PruneConfig, "prune.step=1e-12", "prune.step=1e-12: .* choose 0.001 or more"),
        (PruneConfig, "out=''", "out= is empty"),
        (Table1Config, "rows=[]", r"rows=\[\]: give at least one row"),
        (Table1Config, "seeds=0", "seeds=0: must be at least 1"),
        (Figure1Config, "networks=[]", r"networks=\[\]: give at least one network"),
        (PlanConfig, "search.tries=0", "search.tries=0: must be at least 1"),
        (PlanConfig, "speedup=inf", "speedup=inf: give a finite number"),
        (BenchConfig, "batch=99999999999999999999", "batch=99999999999999999999: give a number within 64 bits"),
    ],
)
def test_a_commands_own_value_out_of_range_is_named(schema: type[CommandConfig], override: str, message: str) -> None:
    with pytest.raises(BnrecalError, match=message):
        read_config(schema, [override])


@pytest.mark.parametrize("override", ["smt.threads=4", "smt.layers={conv2: 2}", "+smt.layers.conv2=2", "recal=false"])
def test_settings_that_a_command_decides_itself_are_refused(override: str) -> None:
    with pytest.raises(BnrecalError, match="table1 measures its own cells of it; leave it out"):
        make_table1(Table1Config(), [override])
    with pytest.raises(BnrecalError, match="figure1 varies it; leave it out"):
        make_figure1(Figure1Config(), [override])
    with pytest.raises(BnrecalError, match="plan searches for threads"):
        make_plan(PlanConfig(), [override])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "quant.skip=[nothere]",
            "quant.skip names nothere, which matches no quantized convolution: choose among conv2",
        ),
        ("quant.skip=[stem]", "quant.skip names stem, which matches only convolutions that stay float32"),
        ("quant.skip=[fc]", "quant.skip names fc, which matches no quantized convolution"),
    ],
)
def test_a_skipped_convolution_must_be_one_that_would_be_quantized(override: str, message: str) -> None:
    with pytest.raises(BnrecalError, match=message):
        prepare(load(config(override)))


def test_without_recalibration_no_images_for_it_are_asked_for() -> None:
    assert load(config("recalibration.images=50000")).identity["images"].keys() == {"calibration", "validation"}
    with pytest.raises(BnrecalError, match="recalibration asks for 50000 images"):
        load(config("recalibration.images=50000", "recal=true"))


def test_a_last_batch_too_small_for_its_weight_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    def images(count: int, *more: str) -> int:
        experiment = load(config("recal=true", "recalibration.batch_size=16", f"recalibration.images={count}", *more))
        return len(experiment.recalibration.indices)

    assert images(49) == 48
    assert "recalibration.images=49: the last 1 do not fill a batch and are not used (as a small batch" in caplog.text
    assert images(55) == 48
    assert images(56) == 56
    assert images(48) == 48
    assert images(49, "recalibration.method=pooled") == 49


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"layers": {"conv2": 1e999}}', "gives conv2 inf threads: choose 1, 2 or 4"),
        ('{"layers": {"conv2": 2.0}}', "gives conv2 2.0 threads: choose 1, 2 or 4"),
        ('{"layers": {"conv2": true}}', "gives conv2 True threads: choose 1, 2 or 4"),
        ('{"layers": {"conv2": [2]}}', r"gives conv2 \[2\] threads: choose 1, 2 or 4"),
        ('{"layers": [1, 2]}', "is not a plan"),
        ("[" * 100_000, "is not a plan"),
        ("\x00", "is not a plan"),
    ],
)
def test_a_plan_file_that_is_none_is_named(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text(content)
    with pytest.raises(BnrecalError, match=message):
        load_plan(path)


@pytest.mark.parametrize(
    "path", ["/a b/c", "/été", "/a=b", "/a(1),b", "C:\\new\\", "/it's", "a]b}", "x # y", "/plain/path", " "]
)
def test_a_path_may_hold_any_character(path: str) -> None:
    for key in ("data.root", "model.checkpoint", "smt.plan"):
        composed = compose_config("config", [*SMALL, f"{key}={path}"])
        group, name = key.split(".")
        assert composed[group][name] == path
    assert compose_config("figure1", [f"p40={path}"])["p40"] == path


def test_what_is_no_plain_path_is_left_to_hydra() -> None:
    same = ["data.root='/a b'", 'out="x y"', "out=${oc.env:HOME}", "smt.layers={a: 1}", "smt.layers.a b=1"]
    assert quoted_paths(same) == same
    assert quoted_paths(["-m", "model.checkpoint=a b,c"]) == ["-m", "model.checkpoint=a b,c"]
