import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from bnrecal.evaluation.packed import pack, unpack


@given(st.lists(st.booleans(), max_size=40))
def test_unpacking_gives_back_what_was_packed(right: list[bool]) -> None:
    assert unpack(pack(np.array(right, dtype=bool)), len(right)).tolist() == right


def test_fifty_thousand_images_are_eight_kilobytes() -> None:
    assert len(pack(np.ones(50_000, dtype=bool))) < 8400
