"""Exceptions in one line, whatever their message is."""

import pytest

from bnrecal.errors import first_line, one_line, with_place, with_type


@pytest.mark.parametrize(
    ("message", "first", "typed"),
    [
        ("bad", "bad", "ValueError: bad"),
        ("\n  bad  \n more", "bad  ", "ValueError: bad more"),
        ("", "ValueError", "ValueError"),
    ],
)
def test_messages_of_any_shape_are_one_line(message: str, first: str, typed: str) -> None:
    assert first_line(ValueError(message)) == first
    assert with_type(ValueError(message)) == typed


def test_the_place_is_where_it_was_raised_not_where_it_was_caught() -> None:
    def raising() -> None:
        raise KeyError("no\nsuch column")

    with pytest.raises(KeyError) as caught:
        raising()
    line = raising.__code__.co_firstlineno + 1
    assert with_place(caught.value) == f"KeyError: 'no\\nsuch column' ({__file__}, line {line})"


def test_blanks_are_single() -> None:
    assert one_line(" a \n\n b\tc ") == "a b c"
