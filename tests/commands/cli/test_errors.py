import signal
from collections.abc import Iterator

import pytest

from bnrecal.commands.cli.errors import one_line_errors, raise_if_interrupted
from bnrecal.commands.parallel.local import attempt_all
from bnrecal.errors import BnrecalError


@pytest.fixture(autouse=True)
def _foreground() -> Iterator[None]:
    """SIGINT as in the foreground: where the tests run in the background, it is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class _TidiesUpBadly:
    """A context like OmegaConf's flag_override when it is interrupted half-way."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        raise AttributeError("'NoneType' object has no attribute '_invalidate_flags_cache'")


def test_an_exception_in_the_place_of_ctrl_c_is_still_ctrl_c(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended, one_line_errors(), _TidiesUpBadly():
        signal.raise_signal(signal.SIGINT)
    assert ended.value.code == 130
    assert capsys.readouterr().err == "bnrecal: interrupted; what was finished is kept\n"


class _Forgetful:
    def __del__(self) -> None:
        signal.raise_signal(signal.SIGINT)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_ctrl_c_that_a_destructor_swallowed_ends_the_next_cell_and_the_command() -> None:
    cells = []

    def sweep() -> None:
        for name in ("first", "second"):
            raise_if_interrupted()
            cells.append(name)
            forgotten = _Forgetful()
            del forgotten

    with pytest.raises(SystemExit) as ended, one_line_errors():
        sweep()
    assert ended.value.code == 130
    assert cells == ["first"]


def test_a_cell_that_fails_because_of_ctrl_c_ends_the_others() -> None:
    done = []

    def work(job: int) -> None:
        done.append(job)
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt as error:
            raise BnrecalError("the weights cannot be read") from error

    with pytest.raises(SystemExit) as ended, one_line_errors():
        attempt_all([("a", 1), ("b", 2)], "test", "job", work, lambda _, __: None)
    assert ended.value.code == 130
    assert done == [1]


def test_without_ctrl_c_errors_are_what_they_were() -> None:
    with pytest.raises(SystemExit, match="bnrecal: no such model"), one_line_errors():
        raise BnrecalError("no such model")
    with one_line_errors():
        raise_if_interrupted()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
