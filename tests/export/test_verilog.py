"""The test bench of docs/hardware on golden vectors, and on processing elements that are wrong in one place."""

import shutil
import subprocess
from pathlib import Path

import pytest

import bnrecal.experiment.setup
from bnrecal.commands.cli.compose import read_config
from bnrecal.commands.cli.schemas import ExportConfig
from bnrecal.commands.export import make_export
from bnrecal.data.glyphs.source import GlyphSource
from bnrecal.export.vector_files import corner_vectors, write_hex
from bnrecal.nbsmt.spec import SmtSpec

HARDWARE = Path(__file__).parents[2] / "docs" / "hardware"

pytestmark = pytest.mark.skipif(
    shutil.which("iverilog") is None, reason="Icarus Verilog is missing (Debian: apt-get install iverilog)"
)


def simulate(vectors: Path, folder: Path, element: str | None = None) -> str:
    """What the test bench prints about the vectors, with another text for pe.v if given."""
    source = folder / "pe.v"
    source.write_text(element or (HARDWARE / "pe.v").read_text())
    program = folder / "pe_tb"
    files = [str(source), str(HARDWARE / "pe_tb.v")]
    compiler = ["iverilog", "-g2005", "-Wall", "-I", str(vectors), "-o", str(program), *files]
    built = subprocess.run(compiler, capture_output=True, text=True, check=False, timeout=300)
    assert built.returncode == 0, built.stderr
    assert not built.stderr  # no warning either
    run = subprocess.run(
        ["vvp", "-n", str(program), f"+dir={vectors}"], capture_output=True, text=True, check=True, timeout=300
    )
    return run.stdout


@pytest.mark.parametrize("threads", [1, 2, 4])
@pytest.mark.parametrize(
    ("policy", "sparsity", "rounding", "saturate"),
    [
        ("A", True, "half_even", True),
        ("Aw", True, "half_even", True),
        ("W", True, "floor", True),
        ("aW", False, "half_even", True),
        ("aW", True, "half_even", False),
    ],
)
def test_the_processing_element_equals_the_golden_model(
    tmp_path: Path, threads: int, policy: str, sparsity: bool, rounding: str, saturate: bool
) -> None:
    vectors = tmp_path / "vectors"
    write_hex(corner_vectors(SmtSpec(threads, policy, sparsity, rounding, saturate)), vectors)
    assert simulate(vectors, tmp_path).startswith(f"PASS: {threads + 1} outputs of 1024 steps, {threads} threads")


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("value + 10'sd7 + (value[4] ? 10'sd1 : 10'sd0)", "value + 10'sd8"),  # half up
        ("value + 10'sd7 + (value[4] ? 10'sd1 : 10'sd0)", "value + 10'sd7"),  # half down
        ("a <= 15", "a <= 14"),
        ("b >= -8", "b >= -7"),
        ("r > 240", "r > 256"),
        ("r > 112", "r > 128"),
        ("together >= 3 || (together == 2 && (POLICY == 0", "together >= 2 || (together == 2 && (POLICY == 2"),
        ("reduce_b = together >= 3", "reduce_b = together >= 4"),
        ("clear ? step : sum + step", "sum + step"),
        ("widened(weights[8*t +: 8], 1)", "widened(weights[8*t +: 8], 0)"),
        ("activations[8*t +: 8] != 0 && weights", "weights"),
    ],
)
def test_a_wrong_processing_element_fails(tmp_path: Path, right: str, wrong: str) -> None:
    element = (HARDWARE / "pe.v").read_text()
    assert element.count(right) == 1
    mutated = element.replace(right, wrong)
    policy = "W" if "POLICY == 2" in wrong else "A"
    write_hex(corner_vectors(SmtSpec(4, policy)), tmp_path / "vectors")
    assert simulate(tmp_path / "vectors", tmp_path).startswith("PASS")
    assert simulate(tmp_path / "vectors", tmp_path, mutated).startswith("FAIL: output ")


def test_vectors_of_an_exported_network_pass_and_damaged_ones_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bnrecal.experiment.setup, "build_source", lambda *_: GlyphSource(0, 40, 20))
    small = [
        "model=custom",
        "device=cpu",
        "model.factory=helpers.nets:glyph_net",
        "calibration.images=32",
        "smt.threads=4",
    ]
    small += ["recalibration.images=16", "recalibration.batch_size=16", "vectors.layers=[conv2,depthwise]"]
    out = make_export(read_config(ExportConfig, [*small, f"out={tmp_path / 'out'}"]), []).folder

    def bench() -> "subprocess.CompletedProcess[str]":
        command = [str(HARDWARE / "run.sh"), str(out)]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)

    done = bench()
    assert done.returncode == 0
    assert done.stdout.splitlines() == [
        "conv2: PASS: 16 outputs of 18 steps, 4 threads",
        "corners-1T: PASS: 2 outputs of 1024 steps, 1 threads",
        "corners-4T: PASS: 5 outputs of 1024 steps, 4 threads",
        "depthwise: PASS: 16 outputs of 9 steps, 1 threads",
    ]
    damaged = out / "vectors" / "conv2" / "accumulators.hex"
    damaged.write_text("00000001\n" * 16)
    done = bench()
    assert done.returncode == 1
    assert done.stdout.startswith("conv2: FAIL: output 0, step 17: expected 1, found ")
