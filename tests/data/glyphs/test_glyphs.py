"""The embedded data set: an image is its index's alone, every class is there, every glyph is a glyph."""

import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from bnrecal.data.glyphs.atlas import CELL, CODE_POINTS, FULL_FONTS, LATIN, load_atlas
from bnrecal.data.glyphs.draw import BLOCK, CLASSES, SIDE, Difficulty, draw_block
from bnrecal.data.glyphs.source import GLYPH_PREPROCESSING, ROW, GlyphSource, _labels, shift
from bnrecal.data.preprocessing import Preprocessing
from bnrecal.errors import BnrecalError

PLAIN = Difficulty(noise=0.0, distractors=0, shading=0.0)


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> GlyphSource:
    monkeypatch.setenv("BNRECAL_CACHE", str(tmp_path))
    return GlyphSource(train_images=3 * BLOCK, val_images=BLOCK + 10)


def test_every_class_has_glyphs_in_many_fonts() -> None:
    atlas = load_atlas()
    assert len(set(CODE_POINTS)) == CLASSES
    assert len(atlas.cells) == atlas.count.sum()
    assert atlas.count.min() >= 12
    assert (atlas.count[: len(LATIN)] == len(FULL_FONTS) + 5).all()


def test_every_glyph_is_drawn_as_it_was_for_the_published_numbers() -> None:
    # FreeType 2.13 (Pillow 11) draws one of them with other greys, and with it every four hundredth image.
    assert hashlib.sha256(load_atlas().cells.tobytes()).hexdigest()[:12] == "d1accc3b8570"


def test_no_glyph_is_empty_cut_off_or_the_box_of_a_missing_one() -> None:
    cells = load_atlas().cells
    assert cells.shape[1:] == (CELL, CELL)
    ink = cells > 64
    assert ink.any(axis=(1, 2)).all()
    assert not ink[:, [0, -1]].any()
    assert not ink[:, 1:-1, 0].any()


def test_no_drawing_serves_two_classes() -> None:
    # As it would where a font has one stand-in for all the code points that it lacks.
    atlas = load_atlas()
    labels = np.repeat(np.arange(CLASSES), atlas.count)
    classes: dict[bytes, set[int]] = {}
    for cell, label in zip(atlas.cells, labels.tolist(), strict=True):
        classes.setdefault(cell.tobytes(), set()).add(label)
    assert all(len(shared) == 1 for shared in classes.values())


def test_an_image_depends_on_its_index_alone(source: GlyphSource) -> None:
    whole, labels = source.images("train")
    shorter = GlyphSource(train_images=BLOCK + 7, val_images=5)
    images, some = shorter.images("train")
    assert np.array_equal(images, whole[: BLOCK + 7])
    assert np.array_equal(some, labels[: BLOCK + 7])
    block, _ = draw_block(0, "train", 2, source.difficulty)
    assert np.array_equal(block.numpy(), whole[2 * BLOCK :])


def test_threads_do_not_change_a_byte() -> None:
    before = torch.get_num_threads()
    try:
        drawn = []
        for threads in (1, 3):
            torch.set_num_threads(threads)
            drawn.append(draw_block(3, "val", 1, Difficulty())[0])
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*drawn)


def test_splits_seeds_and_blocks_are_different_images() -> None:
    reference = draw_block(0, "train", 0, Difficulty())[0]
    others = [(1, "train", 0), (0, "val", 0), (0, "dev", 0), (0, "train", 1)]
    for seed, split, block in others:
        image = draw_block(seed, split, block, Difficulty())[0]  # type: ignore[arg-type]
        assert (image != reference).float().mean() > 0.9


def test_every_block_holds_every_class_twice() -> None:
    _, labels = draw_block(0, "val", 4, PLAIN)
    assert torch.bincount(labels, minlength=CLASSES).tolist() == [2] * CLASSES


def test_every_image_shows_its_glyph_over_a_wide_range_of_contrast() -> None:
    images = torch.cat([draw_block(0, "train", block, PLAIN)[0] for block in range(3)]).float()
    contrast = (images.amax((2, 3)) - images.amin((2, 3))).amax(1)
    # Half the range times the contrast is full ink; a glyph's own strength goes from 0.5 to 1.
    faintest, strongest = PLAIN.contrast[0] * 0.5 * 0.5 * 255, PLAIN.contrast[1] * 0.5 * 255
    assert 0.7 * faintest < contrast.min() < 1.5 * faintest
    assert 0.7 * strongest < contrast.max() <= strongest + 1


def test_items_are_normalized_and_batches_agree_with_them(source: GlyphSource) -> None:
    chosen = [5, 0, 201, 5]
    data = source.dataset("train", chosen, GLYPH_PREPROCESSING)
    images, labels = source.images("train")
    assert len(data) == 4  # type: ignore[arg-type]
    together = data.__getitems__([0, 1, 2, 3])  # type: ignore[attr-defined]
    for position, index in enumerate(chosen):
        image, label = data[position]
        assert image.shape == (3, SIDE, SIDE)
        assert image.dtype == torch.float32
        assert label == labels[index]
        assert torch.equal(image, together[position][0])
        std = torch.tensor(GLYPH_PREPROCESSING.std)[:, None, None]
        expected = (torch.from_numpy(images[index].copy()) / 255 - 0.5) / std
        assert torch.allclose(image, expected, atol=1e-5)


def test_preprocessing_is_that_of_the_training_images(source: GlyphSource) -> None:
    pixels = source.images("train")[0] / 255.0
    assert pixels.mean((0, 2, 3)) == pytest.approx(GLYPH_PREPROCESSING.mean, abs=0.02)
    assert pixels.std((0, 2, 3)) == pytest.approx(GLYPH_PREPROCESSING.std, rel=0.06)


def test_augmentation_follows_the_torch_seed(source: GlyphSource) -> None:
    data = source.dataset("train", range(20), GLYPH_PREPROCESSING, augment=True)
    draws = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        draws.append(torch.stack([image for image, _ in data.__getitems__(range(20))]))  # type: ignore[attr-defined]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_augmentation_moves_by_whole_pixels() -> None:
    torch.manual_seed(0)
    images = torch.randn(40, 3, SIDE, SIDE)
    moved = shift(images, 2)
    offsets = set()
    for before, after in zip(images, moved, strict=True):
        inside = after[:, 2:-2, 2:-2]
        found = [
            (down, right)
            for down in range(5)
            for right in range(5)
            if torch.equal(inside, before[:, down : down + SIDE - 4, right : right + SIDE - 4])
        ]
        assert len(found) == 1
        offsets.add(found[0])
    assert len(offsets) > 12
    assert torch.equal(shift(images, 0), images)


def test_a_drawn_split_is_read_from_the_cache(source: GlyphSource, tmp_path: Path) -> None:
    images = np.array(source.images("val")[0])
    (file,) = (tmp_path / "glyphs").iterdir()
    written = file.stat().st_mtime_ns
    again = GlyphSource(train_images=1, val_images=BLOCK + 10)
    assert np.array_equal(again.images("val")[0], images)
    assert file.stat().st_mtime_ns == written


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="this system does not say what is mapped")
def test_a_drawn_split_takes_memory_for_the_images_that_are_read(source: GlyphSource, tmp_path: Path) -> None:
    images, labels = source.images("train")
    assert len(set(labels)) == CLASSES
    (file,) = (tmp_path / "glyphs").iterdir()
    assert _resident(file) == 0
    assert images[0].any()
    assert 0 < _resident(file) < file.stat().st_size // 2


def test_another_process_is_sent_no_images(source: GlyphSource) -> None:
    images, labels = source.images("val")
    sent = pickle.dumps(source)
    assert len(sent) < images.nbytes // 10
    received = pickle.loads(sent)
    assert np.array_equal(received.images("val")[0], images)
    assert np.array_equal(received.images("val")[1], labels)


def test_labels_are_those_of_the_mapped_rows(source: GlyphSource, tmp_path: Path) -> None:
    _, labels = source.images("train")
    (file,) = (tmp_path / "glyphs").iterdir()
    with file.open("ab") as more:
        more.write(bytes(ROW))  # which the map leaves out
    rows = np.load(file, mmap_mode="r")
    assert np.array_equal(_labels(rows), labels)
    file.unlink()
    assert np.array_equal(_labels(rows), labels)


def _resident(file: Path) -> int:
    """Return the bytes of a mapped file that this process has in memory."""
    of_file = Path("/proc/self/smaps").read_text().split(f"{file}\n")[1]
    return 1024 * int(of_file.split("Rss:")[1].split()[0])


def test_a_cut_cache_file_is_drawn_again(source: GlyphSource, tmp_path: Path) -> None:
    images = np.array(source.images("val")[0])
    (file,) = (tmp_path / "glyphs").iterdir()
    file.write_bytes(file.read_bytes()[:-100])
    assert np.array_equal(GlyphSource(train_images=1, val_images=BLOCK + 10).images("val")[0], images)


def test_another_difficulty_is_another_cache_file(source: GlyphSource, tmp_path: Path) -> None:
    source.images("val")
    GlyphSource(val_images=BLOCK + 10, difficulty=PLAIN).images("val")
    GlyphSource(val_images=BLOCK + 10, held_out="dev").images("val")
    assert len(list((tmp_path / "glyphs").iterdir())) == 3


def test_fingerprint_names_the_images_without_drawing_them(source: GlyphSource, tmp_path: Path) -> None:
    prints = {
        source.fingerprint("val", range(10)),
        source.fingerprint("val", range(11)),
        source.fingerprint("train", range(10)),
        GlyphSource(seed=1).fingerprint("val", range(10)),
        GlyphSource(held_out="dev").fingerprint("val", range(10)),
    }
    assert len(prints) == 5
    assert GlyphSource(val_images=12).fingerprint("val", list(range(10))) in prints
    assert not (tmp_path / "glyphs").exists()


def test_bad_requests_are_named(source: GlyphSource) -> None:
    with pytest.raises(BnrecalError, match="val_images must be at least 1, not 0"):
        GlyphSource(val_images=0)
    with pytest.raises(BnrecalError, match="not -1"):
        GlyphSource(seed=-1)
    with pytest.raises(BnrecalError, match=r"image 576 asked for, train has 0\.\.575"):
        source.dataset("train", [0, 576], GLYPH_PREPROCESSING)
    with pytest.raises(BnrecalError, match="taken whole"):
        source.dataset("train", [0], Preprocessing())
