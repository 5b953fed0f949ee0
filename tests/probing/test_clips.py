"""Which views of items are trained on and tested on."""

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.tiny import make_dataset, make_images, make_videos, save_patches, save_tokenizer
from toto.errors import UserError
from toto.media.sources import read_sources
from toto.media.view import View
from toto.probing.clips import items_of, probe_splits
from toto.tokens.config import Ingest
from toto.tokens.ingest import ingest
from toto.tokens.store import TokenDataset

FRAMES = 4
LENGTHS = [9, 3, 4, 6, 30, 17]


@pytest.fixture(scope="module")
def visual(tmp_path_factory):
    return save_tokenizer(tmp_path_factory.mktemp("visual") / "tokenizer")


@pytest.fixture(scope="module")
def cropped(tmp_path_factory, visual) -> TokenDataset:
    """Videos wider than high, three crops of each."""
    folder = tmp_path_factory.mktemp("cropped")
    make_videos(folder / "media", LENGTHS, side=16, width=40)
    view = View(stride=1, size=8, crops=3, spread="even")
    items = read_sources([str(folder / "media")])
    return ingest(items, visual, folder / "data", Ingest(view), "it", workers=0)


@pytest.fixture(scope="module")
def items(cropped):
    rows = np.flatnonzero(cropped.column("crop") == 0)
    return items_of(cropped, rows, FRAMES)


def newer_start(length: int, clip: int, index: int, clips: int) -> int:
    """SlowFast's `get_start_end_idx` with an offset."""
    delta = max(length - clip, 0)
    return delta // 2 if clips == 1 else int(index * delta / (clips - 1))


def older_start(length: int, clip: int, index: int, clips: int) -> int:
    delta = max(length - clip, 0)
    return int(delta * index / clips)


@pytest.mark.parametrize("clips", [1, 2, 4, 10])
def test_starts_of_test_clips_are_slowfasts(items, clips):
    assert items.views(clips) == 3 * clips
    for number in range(items.views(clips)):
        found = items.view(number, clips)
        index, crop = divmod(number, 3)
        expected = [newer_start(n, FRAMES, index, clips) for n in items.lengths.tolist()]
        assert found.firsts.tolist() == expected
        assert (found.rows - items.rows).tolist() == [crop] * len(LENGTHS)
        # The older rule for a clip less begins at the same frames, but never at the last one.
        if index < clips - 1:
            older = [older_start(n, FRAMES, index, clips - 1) for n in items.lengths.tolist()]
            assert found.firsts.tolist() == older


def test_a_view_is_read_from_its_own_crop_and_start(cropped, items):
    for number in (0, 4, 8):
        clips = items.view(number, 3)
        tokens = clips.inputs()
        for i, (item, first) in enumerate(zip(clips.items, clips.firsts.tolist(), strict=True)):
            assert item.crop == number % 3
            codes = cropped.codes(item)
            kept = [min(first + k, item.frames - 1) for k in range(FRAMES)]
            assert tokens[i].tolist() == [1, *(codes[kept].ravel() + 4).tolist()]


def test_what_an_epoch_sees_depends_on_seed_epoch_and_item_alone(items):
    rows = np.array([5, 0, 4])
    some, every = items[rows].drawn(3, 7, True), items.drawn(3, 7, True)
    assert some.rows.tolist() == every.rows[rows].tolist()
    assert some.firsts.tolist() == every.firsts[rows].tolist()
    epochs = [items.drawn(3, epoch, True) for epoch in range(200)]
    crops = np.stack([clips.rows - items.rows for clips in epochs])
    assert np.bincount(crops.ravel()) / crops.size == pytest.approx([1 / 3] * 3, abs=0.05)
    firsts = np.stack([clips.firsts for clips in epochs])
    for length, own in zip(items.lengths.tolist(), firsts.T, strict=True):
        assert set(own.tolist()) == set(range(max(length - FRAMES, 0) + 1))
    assert items.drawn(4, 7, True).firsts.tolist() != every.firsts.tolist()
    assert items.drawn(3, 7, False).firsts.tolist() == items.middle().firsts.tolist()


def test_every_crop_in_the_order_of_the_index(cropped, items):
    clips = items.every_crop()
    assert clips.rows.tolist() == list(range(len(cropped)))
    assert clips.firsts.tolist() == np.repeat(items.middle().firsts, 3).tolist()


def test_pixels_are_the_frames_themselves(tmp_path):
    make_images(tmp_path / "media", 3, side=8)
    data = make_dataset(tmp_path / "media", save_patches(tmp_path / "patches"), tmp_path / "data")
    stored = items_of(data, np.arange(3), 1).middle().stored()
    assert stored.shape == (3, 1, 3, 8, 8) and stored.dtype == np.uint8
    assert np.array_equal(stored[1], data.codes(data.item(1)))


def test_a_test_of_its_own_spares_no_training_item(tmp_path, visual):
    for split, counts in (("train", (12, 12)), ("val", (3, 3))):
        for name, count in zip(("cat", "dog"), counts, strict=True):
            make_videos(tmp_path / split / name, [5] * count, seed=count)
    train, test = (
        make_dataset(tmp_path / split, visual, tmp_path / f"data-{split}")
        for split in ("train", "val")
    )
    kept, chosen_by, tested, classes = probe_splits(train, 0.25, FRAMES, test=test)
    assert classes == ["cat", "dog"]
    assert len(kept) + len(chosen_by) == 24 and len(tested) == 6
    assert tested.dataset is test
    assert tested.labels(classes).tolist() == [0, 0, 0, 1, 1, 1]
    shared, *_ = probe_splits(train, 0.25, FRAMES)
    assert len(shared) < len(kept)  # some are held out to test on


def test_what_is_trained_on_is_not_tested_on(tmp_path, visual):
    for name in ("cat", "dog"):
        make_videos(tmp_path / "media" / name, [5] * 6, seed=len(name))
    data = make_dataset(tmp_path / "media", visual, tmp_path / "data")
    with pytest.raises(UserError, match=r"12 items of \S+, like cat/\S+, are trained on in"):
        probe_splits(data, 0.25, FRAMES, test=data)


def test_a_named_test_leaves_all_of_train_to_train_and_choose(tmp_path, visual):
    for split, count in (("train", 20), ("test", 3)):
        for name in ("cat", "dog"):
            make_videos(tmp_path / "media" / split / name, [5] * count, seed=count)
    data = make_dataset(tmp_path / "media", visual, tmp_path / "data")
    kept, chosen_by, tested, _ = probe_splits(data, 0.25, FRAMES)
    assert len(kept) + len(chosen_by) == 40 and len(tested) == 6


def test_segments_of_a_file_stay_together(tmp_path, visual):
    """Neighbours in time are nearly the same: no file is on two sides."""
    names = [p.name for p in make_videos(tmp_path / "videos", [24] * 30).iterdir()]
    rows = [
        f"videos/{name},{start},{start + 0.4},{'early' if start < 0.3 else 'late'}"
        for name in names
        for start in (0.0, 0.4)
    ]
    (tmp_path / "segments.csv").write_text("\n".join(["path,start,end,label", *rows]))
    data = make_dataset(tmp_path / "segments.csv", visual, tmp_path / "data")
    parts = probe_splits(data, 0.3, FRAMES)[:3]
    files = [{item.path for item in part.middle().items} for part in parts]
    assert sum(map(len, files)) == len(set().union(*files)) == 30
    assert all(len(part) == 2 * len(own) for part, own in zip(parts, files, strict=True))


@pytest.mark.parametrize("fraction", [0.0, 0.001])
def test_one_item_at_least_is_chosen_by(tmp_path, visual, fraction):
    for split, count in (("train", 3), ("val", 1)):
        for name in ("cat", "dog"):
            make_videos(tmp_path / "media" / split / name, [5] * count, seed=count)
    data = make_dataset(tmp_path / "media", visual, tmp_path / "data")
    kept, chosen_by, tested, _ = probe_splits(data, fraction, FRAMES)
    assert (len(kept), len(chosen_by), len(tested)) == (5, 1, 2)


def test_boxes_reach_the_index(tmp_path, visual):
    make_images(tmp_path / "media", 2, side=40)
    view = View(size=8, crops=4, scale=(0.1, 0.5), flip=True)
    items = read_sources([str(tmp_path / "media")])
    data = ingest(items, visual, tmp_path / "data", Ingest(view), "it", workers=0)
    names = ["hash", "crop", "crop_x", "crop_y", "crop_side", "crop_height", "mirrored"]
    rows = pq.read_table(data.folder / "index.parquet", columns=names).to_pylist()
    for row in rows:
        place = view.places(row["hash"])[row["crop"]]
        box = (row["crop_x"], row["crop_y"], row["crop_side"], row["crop_height"])
        assert box == tuple(place.box(40, 40)) and row["mirrored"] == place.mirrored
