"""What an experiment on real weights must get right from end to end."""

from pathlib import Path

import numpy as np
import pytest
from helpers import shipped
from helpers.imagenet_tree import CLASSES
from helpers.nets import GREYS
from PIL import Image

from bnrecal.commands.cli.compose import compose_config
from bnrecal.config import parse
from bnrecal.evaluation.accuracy import percent
from bnrecal.experiment.layer_report import describe_layers
from bnrecal.experiment.networks import prepare_variants
from bnrecal.experiment.run import run, run_variants
from bnrecal.experiment.variant import CONTROL, Variant
from bnrecal.search.error_order import at_four_threads


def test_an_experiment_reports_the_answers_of_its_networks() -> None:
    experiment = shipped.experiment()
    variant = Variant(4, True)
    labels = shipped.labels()
    result = run_variants(experiment, [variant])[0]
    cells = {
        "top1": shipped.logits("smt.threads=4", "recal=true"),
        "top1_wo_recal": shipped.logits("smt.threads=4"),
        "a8w8_top1": shipped.logits("smt.threads=1"),
        "fp32_top1": shipped.float_logits(),
    }
    for name, logits in cells.items():
        assert getattr(result, name) == percent((logits.argmax(1) == labels).numpy()), name
    right = (shipped.logits("smt.threads=1", "recal=true").argmax(1) == labels).numpy()
    assert result.control_gain == pytest.approx(percent(right) - result.a8w8_top1)
    assert result.outcome is not None
    assert np.array_equal(result.outcome.top1, (cells["top1"].argmax(1) == labels).numpy())


def test_the_share_recovered_is_net_of_the_control_and_reported_of_losses_only() -> None:
    loses_most = "smt.sparsity=false"
    experiment = shipped.experiment(loses_most, "data.val_images=400")  # of 64 images not even the gain is significant
    control, four, one = run_variants(experiment, [CONTROL, Variant(4, True), Variant(4, False)])
    assert control.recovered is None  # no loss to recover
    assert one.recovered is None
    assert one.control_gain is None
    assert four.loss_p < 0.05
    assert four.control_gain == control.gain
    loss = four.a8w8_top1 - four.top1_wo_recal
    assert four.recovered is not None
    assert four.recovered == pytest.approx((four.gain - control.gain) / loss)
    assert four.recovered is not None
    assert four.recovered_low is not None
    assert four.recovered_high is not None
    assert four.recovered_low < four.recovered < four.recovered_high


def test_the_layers_of_highest_error_come_first() -> None:
    experiment = shipped.experiment()
    four = Variant(4, False)
    prepared = prepare_variants(experiment, [four])[four]
    layers = describe_layers(experiment, prepared, prepared).set_index("name")
    error = layers["mse"]
    order = at_four_threads(experiment).order
    assert error[order].is_monotonic_decreasing
    assert error[order[0]] == error.max() > 0
    assert order[0] == "model.2.4"
    several = layers.loc[order]
    colliding = several[["active_2", "active_3", "active_4"]].astype(float).sum(axis=1) * several["steps"]
    assert at_four_threads(experiment).collisions == pytest.approx(colliding.sum() / several["steps"].sum())


def test_networks_that_count_the_background_are_judged_one_class_further(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for (_, wnid), grey in zip(CLASSES.items(), GREYS, strict=True):
            folder = tmp_path / split / wnid
            folder.mkdir(parents=True)
            for number in range(2):
                Image.new("RGB", (40, 40), (grey, grey, grey)).save(folder / f"{number}.png")
    settings = [
        "model=custom",
        "device=cpu",
        "model.factory=helpers.nets:grey_net",
        "data=imagenet",
        f"data.root={tmp_path}",
    ]
    settings += ["model.mean=[0,0,0]", "model.std=[1,1,1]", "model.crop=32", "workers=0", "smt.threads=1"]
    settings += ["calibration.images=16", "quant.act_range=max", "recalibration.images=4", "recalibration.batch_size=2"]
    result = run(parse(compose_config("config", settings)))
    assert (result.top1, result.fp32_top1) == (100.0, 100.0)
