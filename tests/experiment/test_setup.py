"""From settings to networks: what is quantized how, in which order, recalibrated on what."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NoReturn, TypeVar

import pytest
import torch
from helpers.known_search import small_experiment
from helpers.small import config

import bnrecal.data.loader
import bnrecal.experiment.networks
from bnrecal.data.selection import choose
from bnrecal.errors import BnrecalError
from bnrecal.experiment import setup
from bnrecal.experiment.networks import prepare_variants
from bnrecal.experiment.run import run_loaded
from bnrecal.experiment.setup import load, prepare, variant_identity
from bnrecal.experiment.variant import Variant
from bnrecal.files import warn_once
from bnrecal.options import ACT_RANGES
from bnrecal.quantization.nbsmt_conv import NBSMTConv2d

T = TypeVar("T")


def test_every_progress_bar_says_what_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    bars: list[tuple[str, str]] = []

    def bar(items: Iterable[T], what: str, unit: str) -> Iterable[T]:
        bars.append((what, unit))
        return items

    for module in (bnrecal.data.loader, bnrecal.experiment.networks):
        monkeypatch.setattr(module, "progress", bar)
    # so many images are no other test's, whose float32 answers this process may still know
    run_loaded(load(config("recal=true", "smt.reorder=bits", "smt.threads=2", "data.val_images=23")))
    batches = ["calibration", "recalibration, 1T", "recalibration, 2T", "reordering", "validation, 5 cells"]
    assert sorted({what for what, unit in bars if unit == "batch"}) == sorted([*batches, "layer collisions"])
    assert {what for what, unit in bars if unit == "layer"} == {"reordering"}


def test_a_variant_says_what_it_is() -> None:
    assert str(Variant(4, True)) == "4T w/ recalibration"
    assert str(Variant(2, False, (("a", 1), ("b", 4)))) == "2T w/o recalibration, 2 layers set"


def test_a_variant_has_the_threads_it_says_and_no_plan_besides(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text('{"layers": {"conv2": 2}}')
    planned = config(f"smt.plan={tmp_path}/plan.json")
    own = Variant(4, True, (("conv2", 1),)).apply(planned)
    assert (own.smt.threads, own.smt.layers, own.smt.plan, own.recal) == (4, {"conv2": 1}, None, True)


def test_a_convolution_that_is_no_module_is_left_in_float32_by_the_name_of_its_weight() -> None:
    free = ("model.factory=helpers.nets:free_net", "smt.threads=2")
    with pytest.raises(BnrecalError, match=re.escape("or leave it in float32 with quant.skip=[3]")):
        prepare(load(config(*free)))
    assert [conv.name for conv in prepare(load(config(*free, "quant.skip=['3']"))).convs] == ["0", "2"]
    with pytest.raises(BnrecalError, match=r"^quant\.skip names nothere"):
        prepare(load(config(*free, "quant.skip=['3',nothere]")))


def test_equal_threads_by_layer_are_the_whole_network_setting() -> None:
    experiment = prepare(load(config()))
    images = torch.cat(list(experiment.loader.images(experiment.validation, 30)))
    whole = Variant(4, False)
    by_layer = Variant(1, False, (("*", 4),))
    prepared = prepare_variants(experiment, [whole, by_layer])
    assert torch.equal(prepared[whole].network(images), prepared[by_layer].network(images))
    assert [p.threads for p in prepared[whole].plans] == [p.threads for p in prepared[by_layer].plans]


def test_a_variant_with_a_permutation_of_its_own_is_the_network_that_the_setting_gives() -> None:
    experiment = prepare(load(config()))
    images = torch.cat(list(experiment.loader.images(experiment.validation, 30)))
    plain = Variant(4, False)
    answers = [prepare_variants(experiment, [plain])[plain].network(images)]
    for how in ("activity", "bits", "random:0", "random:1"):
        own = Variant(4, False, reorder=how)
        by_setting = prepare(load(config(f"smt.reorder={how}")))
        answers.append(prepare_variants(experiment, [own])[own].network(images))
        assert torch.equal(answers[-1], prepare_variants(by_setting, [plain])[plain].network(images))
        assert own.apply(experiment.config).smt.reorder == how
    for place, one in enumerate(answers):
        assert not any(torch.equal(one, other) for other in answers[:place])


def test_threaded_networks_share_parameters_and_leave_the_original_alone() -> None:
    experiment = prepare(load(config()))
    before = {name: tensor.clone() for name, tensor in experiment.model.network.state_dict().items()}
    prepared = prepare_variants(experiment, [Variant(4, True)])
    twin = prepared[Variant(4, True)].network
    assert twin.get_parameter("fc.weight") is experiment.model.network.get_parameter("fc.weight")
    assert all(torch.equal(tensor, before[name]) for name, tensor in experiment.model.network.state_dict().items())


def test_channels_are_reordered_where_that_decides_about_partners() -> None:
    variant = Variant(4, False)
    layers = prepare_variants(prepare(load(config("smt.reorder=bits"))), [variant])[variant].layers
    assert {name: layer.permutation is not None for name, layer in layers.items()} == {
        "conv2": True,
        "depthwise": False,
        "dilated": True,
    }
    for layer in (layers["conv2"], layers["dilated"]):
        assert layer.permutation is not None
        assert sorted(layer.permutation.tolist()) == list(range(layer.weight.shape[1]))


def permutation(layers: Mapping[str, NBSMTConv2d], name: str) -> torch.Tensor:
    found = layers[name].permutation
    assert found is not None
    return found


def test_channels_are_ordered_by_levels_of_the_range_that_is_set() -> None:
    variant = Variant(4, False)
    found = [
        prepare_variants(prepare(load(config("smt.reorder=bits", f"quant.act_range={r}"))), [variant])
        for r in ACT_RANGES
    ]
    mean_max, largest = [prepared[variant].layers for prepared in found]
    # A network with random weights may have one layer in which both ranges give the same order.
    assert any(
        not torch.equal(permutation(mean_max, name), permutation(largest, name)) for name in ("conv2", "dilated")
    )


@pytest.mark.parametrize(("images", "method", "taken"), [(39, "ema", 32), (40, "ema", 40), (39, "pooled", 39)])
def test_a_last_batch_of_less_than_half_a_batch_is_left_out_where_batches_have_equal_weight(
    images: int, method: str, taken: int, caplog: pytest.LogCaptureFixture
) -> None:
    warn_once.cache_clear()
    experiment = load(config("recal=true", f"recalibration.images={images}", f"recalibration.method={method}"))
    chosen = experiment.recalibration.indices
    assert len(chosen) == taken
    whole = choose(experiment.source, "train", "recalibration", images, 0)
    assert chosen == whole.indices[:taken]
    left_out = (
        "recalibration.images=39: the last 7 do not fill a batch and are not used (as a small batch they would count "
        "as much as 16 images)"
    )
    assert caplog.messages == ([left_out] if taken < images else [])


def test_what_is_not_recalibrated_depends_on_no_recalibration_images() -> None:
    experiment = load(config("recal=true"))
    assert "recalibration" in experiment.identity["images"]
    assert variant_identity(experiment, Variant(4, False)) == load(config()).identity


def test_a_recalibration_batch_that_does_not_fit_a_gpu_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> NoReturn:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(bnrecal.experiment.networks, "recalibrate_", full)
    message = "^recalibration.batch_size=16 does not fit the GPU's memory: choose a smaller one$"
    with pytest.raises(BnrecalError, match=message) as raised:
        prepare_variants(prepare(load(config())), [Variant(2, True)])
    assert isinstance(raised.value.__cause__, torch.cuda.OutOfMemoryError)


def test_a_run_checks_its_device_and_names_what_recalibration_does_not_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[object] = []
    monkeypatch.setattr(setup, "check_exact_once", checked.append)
    monkeypatch.setattr(setup, "warn_of_others", checked.append)
    experiment = small_experiment()
    assert checked == [torch.device("cpu"), experiment.model.network]
