"""Shares of the images, and evaluation by two processes against one."""

from itertools import chain

from hypothesis import given
from hypothesis import strategies as st

from bnrecal.distributed import shard


@given(st.lists(st.integers()), st.integers(1, 9))
def test_shares_joined_are_the_whole_and_even(indices: list[int], world: int) -> None:
    shares = [shard(indices, rank, world) for rank in range(world)]
    assert list(chain.from_iterable(shares)) == indices
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
