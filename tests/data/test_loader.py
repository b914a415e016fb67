import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import TypeVar

import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset

import bnrecal.data.loader
from bnrecal.data.base import ImageSource, Split
from bnrecal.data.loader import ImageLoader, check_batch, fitting_workers, joined, part_of
from bnrecal.data.preprocessing import Preprocessing
from bnrecal.data.selection import choose
from bnrecal.errors import BnrecalError
from bnrecal.files import warn_once
from bnrecal.seeds import derive_seed

T = TypeVar("T")


class Items(Dataset[tuple[Tensor, int]]):
    def __init__(self, indices: Sequence[int], augment: bool, bad: int) -> None:
        self.indices, self.augment, self.bad = indices, augment, bad

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> tuple[Tensor, int]:
        index = self.indices[position]
        if index == self.bad:
            raise BnrecalError(f"/images/{index}.JPEG cannot be decoded")
        noise = torch.rand(1) if self.augment else torch.zeros(1)
        return torch.full((3, 2, 2), float(index)) + noise, -1 if index == 3 else index


class Source(ImageSource):
    name = "fake"
    num_classes = 100

    def __init__(self, bad: int = -1) -> None:
        self.bad = bad

    def size(self, split: Split) -> int:
        return 40 if split == "train" else 20

    def dataset(
        self,
        split: Split,  # noqa: ARG002
        indices: Sequence[int],
        preprocessing: Preprocessing,  # noqa: ARG002
        *,
        augment: bool = False,
    ) -> Dataset[tuple[Tensor, int]]:
        return Items(indices, augment, self.bad)

    def fingerprint(self, split: Split, indices: Sequence[int]) -> str:
        return f"{split}{sum(indices)}"


CPU = torch.device("cpu")


def test_a_label_is_the_text_of_the_bar_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    texts: list[str] = []

    def bar(batches: Iterable[T], what: str, _: str) -> Iterable[T]:
        texts.append(what)
        return batches

    monkeypatch.setattr(bnrecal.data.loader, "progress", bar)
    chosen = choose(Source(), "val", "validation", 4, 0)
    named = replace(chosen, label="six cells")
    loader = ImageLoader(Source(), Preprocessing(), CPU, workers=0)
    for selection in (chosen, named):
        list(loader.batches(selection, 2))
    assert texts == ["validation", "six cells"]
    assert named.role == "validation"
    assert named.provenance(Source()) == chosen.provenance(Source())


def test_choices_repeat_with_the_seed_and_differ_by_role() -> None:
    first = choose(Source(), "train", "calibration", 10, 0)
    assert first == choose(Source(), "train", "calibration", 10, 0)
    assert first.indices != choose(Source(), "train", "calibration", 10, 1).indices
    assert first.indices != choose(Source(), "train", "recalibration", 10, 0).indices
    assert len(set(first.indices)) == 10
    assert choose(Source(), "val", "validation", None, 0).indices == tuple(range(20))
    assert first.provenance(Source()) == {
        "split": "train",
        "images": 10,
        "seed": 0,
        "fingerprint": f"train{sum(first.indices)}",
    }


def test_too_few_images_and_too_large_batches_are_errors() -> None:
    with pytest.raises(BnrecalError, match="calibration asks for 41 images, the train split of fake has 40"):
        choose(Source(), "train", "calibration", 41, 0)
    validation = choose(Source(), "val", "validation", None, 0)
    check_batch("batch_size", 20, validation)
    with pytest.raises(BnrecalError, match="batch_size=21 is more than the 20 validation images"):
        check_batch("batch_size", 21, validation)


@pytest.mark.parametrize("workers", [0, 1])
def test_augmentation_depends_on_the_seed_alone(workers: int) -> None:
    selection = choose(Source(), "train", "recalibration", 12, 0)

    def draw(seed: int, workers: int) -> Tensor:
        loading = ImageLoader(Source(), Preprocessing(), CPU, workers)
        return torch.cat([x for x, _ in loading.batches(selection, 5, augment=True, seed=seed)])

    state = torch.random.get_rng_state()
    once = draw(1, workers)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.rand(3)
    assert torch.equal(once, draw(1, 0))
    assert not torch.equal(once, draw(2, 0))


def test_images_leaves_unreadable_ones_out() -> None:
    loading = ImageLoader(Source(), Preprocessing(), CPU)
    selection = choose(Source(), "val", "validation", None, 0)
    values = torch.cat(list(loading.images(selection, 7)))[:, 0, 0, 0].tolist()
    assert values == [float(i) for i in range(20) if i != 3]


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_in_a_loading_process_keeps_its_one_line(workers: int) -> None:
    loading = ImageLoader(Source(bad=4), Preprocessing(), CPU, workers)
    selection = choose(Source(), "val", "validation", None, 0)
    with pytest.raises(BnrecalError) as caught:
        list(loading.batches(selection, 5))
    assert str(caught.value) == "/images/4.JPEG cannot be decoded"


def test_derived_seeds_are_apart() -> None:
    assert len({derive_seed(seed, role) for seed in range(50) for role in ("a", "b")}) == 100


def test_parts_join_to_the_batches_that_were_asked_for() -> None:
    parts = [(torch.full((2, 1), float(n)), torch.tensor([2 * n, 2 * n + 1])) for n in range(5)]
    batches = list(joined([*parts[:4], (parts[4][0][:1], parts[4][1][:1])], 2))
    assert [labels.tolist() for _, labels in batches] == [[0, 1, 2, 3], [4, 5, 6, 7], [8]]
    assert [images.flatten().tolist() for images, _ in batches] == [[0, 0, 1, 1], [2, 2, 3, 3], [4]]
    for batch, part in ((512, 64), (100, 50), (48, 48), (101, 101), (8, 8), (1000, 50)):
        assert part_of(batch) == part


@pytest.mark.parametrize(
    ("free", "workers", "used", "reported"),
    [
        (
            64,
            8,
            0,
            "64 MB free, too few for 8 loading processes that hold up to 120 MB each: images are loaded without",
        ),
        (500, 8, 4, "500 MB free, too few for 8 loading processes that hold up to 120 MB each: 4 load images"),
        (1000, 8, 8, ""),
        (64, 0, 0, ""),
    ],
)
def test_loading_processes_are_as_many_as_shared_memory_has_room_for(
    free: int, workers: int, used: int, reported: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def disk(_: object) -> SimpleNamespace:
        return SimpleNamespace(f_bavail=free * 1000, f_frsize=1000)

    warn_once.cache_clear()
    monkeypatch.setattr(os, "statvfs", disk)
    assert fitting_workers(workers, 100 * 3 * 224 * 224 * 4 - 206_400) == used
    assert reported in caplog.text
    assert ("--shm-size" in caplog.text) == (used < workers)
