"""Each backend by name: one that this machine lacks is reported as skipped, with the reason."""

import pytest
from helpers.nbsmt_backends import ALL_PLACES, PLACES, check_on_backend
from helpers.smt_cases import integers

from bnrecal.nbsmt.spec import SmtSpec

GEOMETRY = {"stride": (2, 1), "padding": (1, 1), "dilation": (1, 2)}


@pytest.mark.parametrize(("device", "backend", "missing"), ALL_PLACES, ids=lambda value: value if value else "here")
def test_a_backend_equals_the_golden_model(device: str, backend: str, missing: str) -> None:
    if missing:
        pytest.skip(missing)
    x = integers((2, 8, 6, 7), 0, 256, 0.3, 0.3, 1).byte()
    w = integers((4, 8, 3, 3), -128, 128, 0.1, 0.3, 2).char()
    for threads in (1, 2, 4):
        check_on_backend((x, w, GEOMETRY, 1), SmtSpec(threads, "A", True, "half_even", True), device, backend)


def test_the_list_of_backends_is_whole() -> None:
    assert [place[:2] for place in ALL_PLACES if not place[2]] == PLACES
