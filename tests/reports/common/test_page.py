import pytest

from bnrecal.reports.common.page import Axis, duration, number


def test_an_axis_holds_its_values_between_round_ticks() -> None:
    axis = Axis.over([3.4, -0.2, 9.9])
    assert (axis.low, axis.high) == (-2.5, 10)
    assert axis.labels() == ["−2.5", "0.0", "2.5", "5.0", "7.5", "10.0"]
    assert axis.x(-2.5) < axis.x(0) < axis.x(9.9) < axis.x(10)
    assert axis.share(25) == 1  # on the edge
    assert Axis.over([2.0, 4.0], zero=False).low == 2
    assert Axis.over([]).share(0) == 0
    assert Axis(0.0, 3e-7, (0.0, 1.5e-7, 3e-7)).labels() == ["0.000000"] * 3  # six decimals at most


@pytest.mark.parametrize(
    ("value", "text"), [(-1.234, "−1.23"), (0.0, "0.00"), (None, "–"), (float("nan"), "–"), (12.0, "12.00")]
)
def test_numbers_for_people(value: float | None, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (4.4, "4 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (60, "1 min 00 s"),
        (191, "3 min 11 s"),
        (3599, "59 min 59 s"),
        (3600, "1 h 00 min"),
        (3725, "1 h 02 min"),
        (7199, "1 h 59 min"),
    ],
)
def test_times_for_people(seconds: float, text: str) -> None:
    assert duration(seconds) == text
