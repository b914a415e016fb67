import zlib
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
from bnrecal.export.vector_files import check_against_golden_model, corner_vectors, read_hex, write_hex, write_layer
from bnrecal.export.vectors import LayerVectors, corner_operands, layer_vectors
from bnrecal.nbsmt.geometry import Geometry
from bnrecal.nbsmt.policies.custom import CustomPolicy
from bnrecal.nbsmt.spec import SmtSpec
from bnrecal.quantization.intercept import attach
from bnrecal.seeds import derive_seed


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
    folded = FoldedConv2d(tensors, PlannedConv("", spec, signed, None, Geometry(**geometry, groups=groups)))
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


def test_outputs_are_drawn_by_the_seed_and_the_name_of_the_layer() -> None:
    made = vectors_of(small_layer(), SmtSpec(4), outputs=5)
    generator = torch.Generator().manual_seed(derive_seed(0, "vectors", "0"))
    chosen = torch.randperm(2 * 2 * 2, generator=generator)[:5].tolist()
    assert made.positions.tolist() == [[place // 4, place // 2 % 2, place % 2] for place in chosen]
    assert (made.name, str(made.positions.dtype), str(made.vectors.accumulators.dtype)) == ("0", "int32", "int32")


def test_the_arrays_of_a_layer_are_written_as_they_are(tmp_path: Path) -> None:
    made = vectors_of(small_layer(), SmtSpec(4), outputs=3)
    write_layer(made, tmp_path)
    expected = {
        "input": made.levels,
        "weight": made.weight,
        "sums": made.sums,
        "positions": made.positions,
        "activations": made.vectors.activations,
        "weights": made.vectors.weights,
        "active": made.vectors.active,
        "accumulators": made.vectors.accumulators,
    }
    with np.load(tmp_path / "vectors.npz") as arrays:
        assert arrays.keys() == expected.keys()
        for name, array in expected.items():
            assert arrays[name].dtype == array.dtype
            assert np.array_equal(arrays[name], array), name
    texts = ["accumulators.hex", "activations.hex", "active.hex", "parameters.vh", "weights.hex"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*texts, "vectors.npz"])
    assert all((tmp_path / name).read_text().endswith("\n") for name in texts)
    assert (tmp_path / "active.hex").read_text().split() == [f"{n:x}" for n in made.vectors.active.ravel().tolist()]


CUSTOM = CustomPolicy("mine:RULE", lambda a, b, _: a * b)


@pytest.mark.parametrize(
    ("spec", "policy", "sparsity", "floor", "saturate"),
    [
        (SmtSpec(4), 0, 1, 0, 1),
        (SmtSpec(4, "aW", sparsity=False, rounding="floor"), 3, 0, 1, 1),
        (SmtSpec(4, "W", saturate=False), 2, 1, 0, 0),
        (SmtSpec(4, CUSTOM), -1, 1, 0, 1),
    ],
)
def test_a_test_bench_knows_the_machine(
    tmp_path: Path, spec: SmtSpec, policy: int, sparsity: int, floor: int, saturate: int
) -> None:
    write_hex(vectors_of(small_layer(), spec, outputs=3).vectors, tmp_path)
    assert (tmp_path / "parameters.vh").read_text().splitlines() == [
        "localparam THREADS = 4;",
        "localparam OUTPUTS = 3;",
        "localparam STEPS = 8;",
        f"localparam POLICY = {policy};",
        f"localparam SPARSITY = {sparsity};",
        f"localparam FLOOR = {floor};",
        f"localparam SATURATE = {saturate};",
        "localparam SIGNED = 0;",
    ]


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
    corners = corner_vectors(SmtSpec(threads))
    assert (str(corners.accumulators.dtype), corners.accumulators.shape) == ("int32", (threads + 1,))
    check_against_golden_model(corners, "corners")
    assert corners.active.tolist() == [[number] * 1024 for number in range(threads + 1)]


def test_corners_are_the_same_in_every_export() -> None:
    a, b = corner_operands(SmtSpec(4))
    assert (str(a.dtype), str(b.dtype), a.shape, b.shape) == ("uint8", "int8", (5, 1024, 4), (5, 1024, 4))
    assert a[4, :2].tolist() == [[1, 65, 129, 193], [2, 66, 130, 194]]  # all active, one more at each step
    assert b[4, :2].tolist() == [[-128, -27, 75, -80], [-91, 11, 112, -43]]
    assert (zlib.crc32(a.tobytes()), zlib.crc32(b.tobytes())) == (1414601241, 674475844)


def test_vectors_leave_the_network_as_it_was() -> None:
    x, w, _, _ = small_layer()
    made: list[Tensor] = []
    tensors = {"weight": w, "scale": torch.ones(2), "bias": torch.ones(2), "input_scale": torch.tensor(1.0).double()}
    planned = PlannedConv("", SmtSpec(4), False, None, Geometry((1, 1), (0, 0), (1, 1), 1))
    folded = FoldedConv2d(tensors, planned)
    network = nn.Sequential(nn.Conv2d(8, 2, 2))
    attach(network, {"0": folded})
    for _ in range(2):
        made.append(network(x.float()))
        list(layer_vectors(network, {"0": folded}, ["0"], x.float(), 2, seed=0))
    assert torch.equal(made[0], made[1])
