"""The kernels in processes of their own: on lesser processors, without numba, after an edit."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.processors import NARROW_VNNI, PROCESSORS, run, skip_if_missing

from bnrecal.nbsmt.engines.cpu.dense_sparse import kernels_compile
from bnrecal.nbsmt.prepared_conv import PreparedConv2d
from bnrecal.nbsmt.spec import SmtSpec
from bnrecal.options import POLICIES

pytestmark = pytest.mark.usefixtures("several_processes")

# Every thread count and policy with every engine there is, on layers that golden results came with.
CHECK = """
import json, sys, torch
from bnrecal.nbsmt.prepared_conv import PreparedConv2d
from bnrecal.nbsmt.engines.cpu.dense_sparse import kernels_compile
from bnrecal.nbsmt.engines.cpu.kernels.instructions import PRODUCTS
from bnrecal.nbsmt.engines.cpu.onednn import Exactness, onednn_exactness
from bnrecal.nbsmt.spec import SmtSpec
engines = ["float32"] + ["onednn-int8"] * (onednn_exactness() is not Exactness.NONE)
for case in torch.load(sys.argv[1]):
    for engine in [*engines, None]:
        options = {name: case[name] for name in ("stride", "padding", "dilation", "groups")}
        with torch.backends.mkldnn.flags(enabled=engine != "float32"):
            prepared = PreparedConv2d(case["w"], SmtSpec(*case["spec"]), engine=engine, **options)
            assert torch.equal(prepared.accumulate(case["x"]), case["sums"]), (engine, case["spec"])
print(json.dumps({"kernels": kernels_compile(), "exactness": onednn_exactness().value, "products": PRODUCTS.name}))
"""


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of layers with their sums by the plain form, which other tests compare with the golden model."""
    generator = torch.Generator().manual_seed(0)
    found: list[Any] = []
    for spec in [(1,), (2,), (4,), *((threads, policy) for threads in (2, 4) for policy in POLICIES[1:])]:
        for shape, kernel, options in (
            ((16, 16, 6, 6), (20, 16, 3, 3), {"stride": 1, "padding": 1, "dilation": 1, "groups": 1}),
            ((2, 24, 7, 7), (6, 8, 3, 2), {"stride": 2, "padding": 1, "dilation": 2, "groups": 3}),
            ((3, 20, 9, 8), (20, 1, 3, 3), {"stride": 1, "padding": 1, "dilation": 1, "groups": 20}),
        ):
            x = torch.randint(0, 256, shape, generator=generator) * (torch.rand(shape, generator=generator) < 0.7)
            w = torch.randint(-128, 128, kernel, generator=generator)
            w[0], w[1, ::2] = -128, 127
            w *= torch.rand(w.shape, generator=generator) < (0.5 if len(found) % 2 else 0.9)
            prepared = PreparedConv2d(w.to(torch.int8), SmtSpec(*spec), engine="float64", **options)  # type: ignore[arg-type]
            sums = prepared.accumulate(x.byte())
            found.append({"spec": spec, "x": x.byte(), "w": w.to(torch.int8), "sums": sums, **options})
    path = tmp_path_factory.mktemp("cases") / "cases.pt"
    torch.save(found, path)
    return path


PRODUCTS = {
    "SSE41": "PLAIN",
    "AVX2": "AVX2",
    "AVX2_VNNI": "VNNI_256",
    "AVX512_CORE": "AVX2",
    "AVX512_CORE_VNNI": "VNNI_512",
}


@pytest.mark.parametrize("processor", PROCESSORS)
def test_lesser_processors_compute_the_same(processor: str, cases: Path) -> None:
    skip_if_missing(processor)
    found = json.loads(run([CHECK, str(cases)], PROCESSORS[processor]))
    assert found["kernels"] == kernels_compile()
    assert found["products"] == PRODUCTS[processor]
    if processor in ("SSE41", "AVX2", "AVX512_CORE"):
        assert found["exactness"] != "full"


def test_256_bit_vnni_computes_the_same(cases: Path) -> None:
    skip_if_missing("AVX512_CORE_VNNI")
    found = json.loads(run([CHECK, str(cases)], NARROW_VNNI))
    assert found["products"] == "VNNI_256"


SUM = """
import torch
from bnrecal.nbsmt.prepared_conv import PreparedConv2d
from bnrecal.nbsmt.engines.cpu.dense_sparse import kernels_compile
from bnrecal.nbsmt.spec import SmtSpec
w = torch.arange(-64, 64).view(4, 8, 2, 2).to(torch.int8)
y = PreparedConv2d(w, SmtSpec(4))(torch.arange(200).float().view(1, 8, 5, 5), 1.0, torch.ones(4))
print(kernels_compile(), float(y.double().sum()))
"""


def true_sum() -> float:
    w = torch.arange(-64, 64).view(4, 8, 2, 2).to(torch.int8)
    x = torch.arange(200).float().view(1, 8, 5, 5)
    return float(PreparedConv2d(w, SmtSpec(4), engine="float64")(x, 1.0, torch.ones(4)).double().sum())


@pytest.mark.parametrize("trouble", ["no jit", "no cache folder"])
def test_numba_in_trouble(trouble: str, tmp_path: Path) -> None:
    environment = {"NUMBA_DISABLE_JIT": "1"}
    if trouble == "no cache folder":
        (tmp_path / "file").touch()
        environment = {
            "NUMBA_CACHE_DIR": str(tmp_path / "file" / "below"),
            "NUMBA_CACHE_LOCATOR_CLASSES": "UserWideCacheLocator",
        }
    compiled, total = run([SUM], environment).split()
    assert float(total) == true_sum()
    assert compiled == str(trouble == "no cache folder")
