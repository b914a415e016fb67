"""A layer's preparations for the shapes of its inputs, of which it meets few."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

import torch

V = TypeVar("V")
SHAPES = 2  # a loader's full batches and its last


class ByShape(Generic[V]):
    """Values that were made for the last SHAPES shapes."""

    def __init__(self) -> None:
        self._made: OrderedDict[torch.Size, V] = OrderedDict()

    def get(self, shape: torch.Size, make: Callable[[], V]) -> V:
        """Return what `make` made for a shape, now or earlier."""
        if shape not in self._made:
            if len(self._made) == SHAPES:
                self._made.popitem(last=False)
            self._made[shape] = make()
        self._made.move_to_end(shape)
        return self._made[shape]
