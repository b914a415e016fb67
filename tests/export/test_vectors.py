from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.smt_cases import Layer, layers, specs
from hypothesis import given, settings
from torch import Tensor, nn

from bnrecal.errors import BnrecalError
from bnrecal.export.network import FoldedConv2d
from bnrecal.export.plan_file import PlannedConv
from bnrecal.export.vector_files import check_against_golden_model, corner_vectors, read_hex, write_hex
from bnrecal.export.vectors import LayerVectors, corner_operands, layer_vectors
from bnrecal.nbsmt.spec import SmtSpec
from bnrecal.quantization.intercept import attach


def vectors_of(layer: Layer, spec: SmtSpec, outputs: int = 6, signed: bool = False) -> LayerVectors:
    """The vectors of one layer whose float input is its levels."""
    x, w, geometry, groups = layer
    filters = w.shape[0]
    conv = nn.Conv2d(w.shape[1] * groups, filters, (w.shape[2], w.shape[3]), groups=groups, **geometry)  # type: ignore[arg-type]
    tensors = {
        "weight": w,
        "scale": torch.ones(filters),
        "bias": torch.zeros(filters),
        "input_scale": torch.tensor(1.0, dtype=torch.float64),
    }
    folded = FoldedConv2d(tensors, PlannedConv("", spec, signed, None, groups=groups, **geometry))
    network = nn.Sequential(conv)
    attach(network, {"0": folded})
    return next(layer_vectors(network, {"0": folded}, ["0"], x[:1].float(), outputs, seed=0))


@settings(max_examples=40)
@given(layer=layers(), spec=specs())
def test_the_golden_model_recomputes_the_vectors_of_any_layer(layer: Layer, spec: SmtSpec) -> None:
    made = vectors_of(layer, spec)
    assert len({tuple(position) for position in made.positions.tolist()}) == len(made.positions)
    check_against_golden_model(made.vectors, "layer")  # what the processing element sees, by another way than the sums
    assert np.array_equal(made.sums[tuple(made.positions.T)], made.vectors.accumulators)


def test_signed_inputs_travel_as_signed_bytes(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(-128, 128, (1, 4, 3, 3), generator=generator)
    w = torch.randint(-128, 128, (2, 4, 1, 1), generator=generator).to(torch.int8)
    geometry = {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1)}
    made = vectors_of((x, w, geometry, 1), SmtSpec(1), outputs=18, signed=True)
    assert made.vectors.activations.dtype == np.int8
    assert torch.equal(torch.from_numpy(made.sums).double(), F.conv2d(x.double(), w.double())[0])
    write_hex(made.vectors, tmp_path)
    assert np.array_equal(read_hex(tmp_path, SmtSpec(1)).activations, made.vectors.activations)
    check_against_golden_model(read_hex(tmp_path, SmtSpec(1)), "signed")


def small_layer() -> Layer:
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (1, 8, 3, 3), generator=generator, dtype=torch.uint8)
    w = torch.randint(-128, 128, (2, 8, 2, 2), generator=generator).to(torch.int8)
    return x, w, {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1)}, 1


def test_the_hex_text_holds_thread_0_in_the_lowest_byte(tmp_path: Path) -> None:
    made = vectors_of(small_layer(), SmtSpec(4), outputs=3)
    write_hex(made.vectors, tmp_path)
    words = (tmp_path / "activations.hex").read_text().split()
    assert len(words) == 3 * 8  # 32 products in 4 parts of 8 steps
    assert [int(words[9][2 * n : 2 * n + 2], 16) for n in (3, 2, 1, 0)] == made.vectors.activations[1, 1].tolist()
    # thread 1 owns products 8 to 15, which are channels 2 and 3 of 2x2 taps
    filter_, row, column = made.positions[1].tolist()
    assert (
        made.vectors.activations[1, :, 1].tolist()
        == made.levels[2:4, row : row + 2, column : column + 2].ravel().tolist()
    )
    assert made.vectors.weights[1, :, 1].tolist() == made.weight[filter_, 2:4].ravel().tolist()
    back = read_hex(tmp_path, SmtSpec(4))
    for name in ("activations", "weights", "accumulators", "active"):
        assert np.array_equal(getattr(back, name), getattr(made.vectors, name))
    with pytest.raises(BnrecalError, match="holds vectors of 4 threads, not of 2"):
        read_hex(tmp_path, SmtSpec(2))


@pytest.mark.parametrize(
    ("name", "word", "message"),
    [
        ("accumulators.hex", "00000001", "output 0 is 1, the golden model says"),
        ("activations.hex", "00000000", "output 0 is -?[0-9]+, the golden model says"),
        ("active.hex", "0", "output 0, step 0 has 4 active threads, not 0"),
    ],
)
def test_a_wrong_word_is_found(tmp_path: Path, name: str, word: str, message: str) -> None:
    write_hex(vectors_of(small_layer(), SmtSpec(4)).vectors, tmp_path)
    lines = (tmp_path / name).read_text().split()
    (tmp_path / name).write_text("\n".join([word, *lines[1:]]))
    with pytest.raises(BnrecalError, match=f"some layer: {message}"):
        check_against_golden_model(read_hex(tmp_path, SmtSpec(4)), "some layer")


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_corners_hold_every_operand_at_every_number_of_active_threads(threads: int) -> None:
    a, b = corner_operands(SmtSpec(threads))
    both = (a != 0) & (b != 0)
    for number in range(threads + 1):
        assert (both[number].sum(1) == number).all()
        if number:
            assert set(a[number][both[number]].tolist()) == set(range(1, 256))
            assert set(b[number][both[number]].tolist()) == set(range(-128, 128)) - {0}
    assert corner_vectors(SmtSpec(threads)).active.tolist() == [[number] * 1024 for number in range(threads + 1)]


def test_vectors_leave_the_network_as_it_was() -> None:
    x, w, _, _ = small_layer()
    made: list[Tensor] = []
    tensors = {"weight": w, "scale": torch.ones(2), "bias": torch.ones(2), "input_scale": torch.tensor(1.0).double()}
    planned = PlannedConv("", SmtSpec(4), False, None, stride=(1, 1), padding=(0, 0), dilation=(1, 1), groups=1)
    folded = FoldedConv2d(tensors, planned)
    network = nn.Sequential(nn.Conv2d(8, 2, 2))
    attach(network, {"0": folded})
    for _ in range(2):
        made.append(network(x.float()))
        list(layer_vectors(network, {"0": folded}, ["0"], x.float(), 2, seed=0))
    assert torch.equal(made[0], made[1])
