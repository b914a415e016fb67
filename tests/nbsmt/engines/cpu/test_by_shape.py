"""What a layer keeps for the shapes of its inputs."""

import torch

from bnrecal.nbsmt.engines.cpu.by_shape import ByShape


def test_the_two_shapes_used_last_are_kept() -> None:
    kept: ByShape[str] = ByShape()
    made: list[str] = []

    def get(images: int) -> str:
        def make() -> str:
            made.append(f"of {images}")
            return made[-1]

        return kept.get(torch.Size([images, 3, 8, 8]), make)

    assert [get(images) for images in (4, 1, 4, 2, 4, 1)] == ["of 4", "of 1", "of 4", "of 2", "of 4", "of 1"]
    assert made == ["of 4", "of 1", "of 2", "of 1"]
