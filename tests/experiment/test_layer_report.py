"""The numbers of `layers.csv` and `batchnorm.csv`, by hand."""

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch
from helpers.known_search import small_experiment
from torch import Tensor, nn

import bnrecal.experiment.layer_report
from bnrecal.config import ArrayConfig
from bnrecal.experiment.layer_report import (
    describe_batchnorms,
    describe_layers,
    gather_collisions,
    input_ranges,
    measured_columns,
    scaled_errors,
)
from bnrecal.experiment.networks import prepare_variants
from bnrecal.experiment.run import run_variants
from bnrecal.experiment.variant import Variant
from bnrecal.nbsmt.analysis.collisions import CollisionStatistics
from bnrecal.quantization.systolic import cycle_speedup, layer_cycles, network_cycles

COUNTED = CollisionStatistics(
    steps_by_active=(10, 20, 30, 15, 25),
    reduced_activations=28,
    reduced_weights=14,
    activations=200,
    zero_activations=50,
    weights=80,
    zero_weights=8,
    outputs=4,
    squared_error=torch.tensor([6.0, 1.0]).double(),
    squared_output=torch.tensor([60.0, 20.0]).double(),
)
LAYER = SimpleNamespace(input_scale=0.5, weight_scale=torch.tensor([2.0, 4.0]))  # squared steps of an output: 1 and 4


def norm(mean: list[float], variance: list[float]) -> nn.Module:
    """A network of one BatchNorm layer."""
    layer = nn.BatchNorm2d(len(mean), eps=1.0)
    assert layer.running_mean is not None
    assert layer.running_var is not None
    layer.running_mean.copy_(torch.tensor(mean))
    layer.running_var.copy_(torch.tensor(variance))
    return nn.Sequential(layer)


def test_shifts_of_means_are_in_trained_deviations_and_ratios_are_new_to_trained() -> None:
    trained = norm([1.0, 5.0], [3.0, 8.0])
    own = norm([3.0, 5.0], [15.0, 17.0])
    (row,) = describe_batchnorms(trained, own).to_dict("records")
    assert row["name"] == "0"
    assert row["channels"] == 2
    assert row["mean_shift"] == pytest.approx(math.sqrt((2**2 / 4 + 0) / 2))  # the trained variance and eps: 4 and 9
    assert row["variance_ratio"] == pytest.approx(math.sqrt(16 / 4 * 18 / 9))


def test_errors_are_in_activation_units_and_relative_to_the_exact_output() -> None:
    error, power = 6 * 1 + 1 * 4, 60 * 1 + 20 * 4
    assert scaled_errors(LAYER, COUNTED) == pytest.approx((error / 4, error / power))  # type: ignore[arg-type]


def test_shares_are_of_steps_of_elements_and_of_active_operands() -> None:
    columns = measured_columns(LAYER, COUNTED)  # type: ignore[arg-type]
    operands = 1 * 20 + 2 * 30 + 3 * 15 + 4 * 25
    assert columns == pytest.approx(
        {
            "weight_sparsity": 0.1,
            "activation_sparsity": 0.25,
            "steps": 100,
            **{"active_0": 0.1, "active_1": 0.2, "active_2": 0.3, "active_3": 0.15, "active_4": 0.25},
            "reduced_activations": 28 / operands,
            "reduced_weights": 14 / operands,
            "mse": 10 / 4,
            "relative_mse": 10 / 140,
        }
    )


SIZES = {  # shapes of the input, the output and the kernel; groups
    "stem": ("3x32x32", "8x32x32", "3x3", 1),
    "conv2": ("8x32x32", "16x16x16", "3x3", 1),
    "depthwise": ("16x16x16", "16x16x16", "3x3", 16),
    "dilated": ("16x16x16", "16x16x16", "3x3", 1),
}
COLUMNS = "name input output kernel groups macs cycles threads reason engine scale range input_range_wo input_range"


def test_every_column_of_the_table_of_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = small_experiment()
    own = Variant(4, True)
    prepared = prepare_variants(experiment, [own.without_recal, own])
    before = gather_collisions(experiment, prepared[own.without_recal], 5)
    after = gather_collisions(experiment, prepared[own], 5)
    ranges_wo = input_ranges(experiment, prepared[own.without_recal], 5)
    ranges = input_ranges(experiment, prepared[own], 5)
    expected = []
    for plan in prepared[own].plans:
        sizes = dict(zip(("input", "output", "kernel", "groups"), SIZES[plan.name], strict=True))
        row = {"name": plan.name, **sizes, "macs": plan.conv.macs, "threads": plan.threads, "reason": plan.reason}
        row["cycles"] = layer_cycles(plan.conv, max(plan.threads, 1), 16, 16)
        row["engine"] = None  # of a layer that is not quantized
        layer = prepared[own].layers.get(plan.name)
        if layer is not None:
            row |= {"engine": layer.engine, "scale": layer.input_scale, "range": layer.range}
            row |= {"input_range_wo": ranges_wo[plan.name], "input_range": ranges[plan.name]}
            row |= measured_columns(layer, after[plan.name])
            wo = scaled_errors(layer, before[plan.name])
            row |= {"mse_wo": wo[0], "relative_mse_wo": wo[1]}
        expected.append(row)
    table = describe_layers(experiment, prepared[own.without_recal], prepared[own], 5)
    assert list(table)[:14] == COLUMNS.split()
    assert list(table)[-2:] == ["mse_wo", "relative_mse_wo"]
    pd.testing.assert_frame_equal(table, pd.DataFrame(expected)[list(table)])
    assert (table["input_range"] != table["input_range_wo"]).sum() == 4  # one is empty, the others moved
    assert table["mse"].sum() != table["mse_wo"].sum()

    looks: list[object] = []

    def counted(*given: Any) -> dict[str, CollisionStatistics]:
        looks.append(given)
        return before

    monkeypatch.setattr(bnrecal.experiment.layer_report, "gather_collisions", counted)
    without = describe_layers(experiment, prepared[own.without_recal], prepared[own.without_recal], 5)
    assert len(looks) == 1  # a network without recalibration is looked at once
    assert without["mse"].equals(without["mse_wo"].rename("mse"))
    assert without["input_range"].equals(without["input_range_wo"].rename("input_range"))


def test_the_range_of_an_input_is_the_mean_of_each_images_largest() -> None:
    experiment = small_experiment()
    four = Variant(4, False)
    prepared = prepare_variants(experiment, [four])[four]
    largest: list[Tensor] = []
    conv = prepared.network.get_submodule("conv2")
    hook = conv.register_forward_pre_hook(lambda _, given: largest.append(given[0].abs().amax((1, 2, 3))))
    try:
        found = input_ranges(experiment, prepared, 5)
    finally:
        hook.remove()
    each = torch.cat(largest)
    assert each.shape == (5,)
    assert found["conv2"] == pytest.approx(float(each.mean()))
    assert float(each.mean()) < 0.999 * float(each.max())


def test_cycles_are_those_of_the_array_with_its_rows_and_columns() -> None:
    experiment = small_experiment()
    smt = replace(experiment.config.smt, array=ArrayConfig(rows=8, columns=4))
    experiment = replace(experiment, config=replace(experiment.config, smt=smt))
    four = Variant(4, False)
    (result,) = run_variants(experiment, [four], describe=[four], layer_images=4)
    plans = prepare_variants(experiment, [four])[four].plans
    assert result.cycles == network_cycles(plans, 8, 4) != network_cycles(plans, 4, 8)
    assert result.cycle_speedup == cycle_speedup(plans, 8, 4)
    assert result.layers is not None
    assert result.layers["cycles"].iloc[1:].sum() == result.cycles
