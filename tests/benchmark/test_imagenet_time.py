"""The estimate is the arithmetic that it says it is."""

import pytest

from bnrecal.benchmark import imagenet_time
from bnrecal.benchmark.bench import Row
from bnrecal.benchmark.imagenet_time import decoding_rate, describe_estimates, estimate

SPEEDS = {"float32": 100.0, "TF32": 1e9, "1T": 200.0, "2T": 50.0, "4T": 25.0}
ROWS = [Row("net", variant, 100 / speed, speed, "torch", 2, 8) for variant, speed in SPEEDS.items()]
ROWS += [Row("net", variant, 100 / speed, speed / 2, "torch", 1, 8) for variant, speed in SPEEDS.items()]
ROWS += [Row("a layer", variant, 1.0, 1.0, "torch", 2, 8) for variant in ("float32", "4T")]
COMPUTING = 52_048 / 100 + 102_048 / 200 + 102_048 / 50 + 102_048 / 25
DECODING = 58_192 / 10


@pytest.mark.parametrize(("beside", "together"), [(False, COMPUTING + DECODING), (True, max(COMPUTING, DECODING))])
def test_every_cell_and_every_image_counts(beside: bool, together: float) -> None:
    (found,) = estimate(ROWS, 10.0, beside=beside)
    assert found.model == "net"
    assert found.computing == pytest.approx(COMPUTING)
    assert found.decoding == pytest.approx(DECODING)
    assert found.together == pytest.approx(together)


def test_it_is_labelled_as_an_estimate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imagenet_time, "decoding_rate", lambda: 5.0)
    monkeypatch.setattr(imagenet_time, "usual_workers", lambda: 2)
    first, _, line = describe_estimates(ROWS, beside=False).splitlines()
    assert first.startswith("Estimate, not a measurement: 50,000 images")
    assert line.split() == ["net", *(f"{s / 60:.1f}" for s in (COMPUTING, DECODING, COMPUTING + DECODING))]


def test_decoding_is_measured() -> None:
    assert decoding_rate(0.01) > 1
