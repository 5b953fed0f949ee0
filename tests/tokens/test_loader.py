import json
from pathlib import Path

import numpy as np
import pytest

from tests.tiny import make_dataset, make_images, make_videos, save_tokenizer
from toto.errors import UserError
from toto.tokens.loader import Sequences, freeze, select
from toto.tokens.store import TokenDataset

FRAMES = 4
LENGTHS = [9, 4, 3, 14, 8, 1, 7]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("loader")
    visual = save_tokenizer(folder / "tokenizer")
    make_dataset(make_videos(folder / "v", LENGTHS), visual, folder / "videos", shard_items=3)
    make_dataset(make_images(folder / "i", 9), visual, folder / "images")
    return folder


def sequences(folder: Path, *names: str, split: str = "train", seed: int = 0, **how) -> Sequences:
    data = [TokenDataset(folder / name) for name in names]
    weights = how.pop("weights", ())
    return Sequences(freeze(data, weights, FRAMES, seed, split, how.pop("fraction", 0.0)))


def test_sequences_hold_the_codes_that_they_describe(folder):
    read = sequences(folder, "videos", "images", fraction=0.1)
    vocabulary = read.vocabulary
    for i in range(60):
        tokens, parts = read.sequence(i).tolist(), read.describe(i)
        codes = []
        for item, first in parts:
            data = read.datasets[0 if item.kind == "video" else 1]
            whole = np.load(data.folder / f"shards/{item.shard:05d}.npy")
            length = FRAMES if item.kind == "video" else 1
            own = whole[item.first : item.first + item.frames]
            codes += own[first : first + length].ravel().tolist()
        start = 1 if parts[0][0].kind == "video" else 3
        plain = [start, *(code + 4 for code in codes), 2]
        assert tokens == plain + [0] * (vocabulary.length(FRAMES) - len(plain))
        # Only what is shorter than a clip is padded.
        whole = parts[0][0].frames >= FRAMES or len(parts) == FRAMES
        assert (len(plain) == vocabulary.length(FRAMES)) == whole
    assert read.batch(7, 3).tolist() == [read.sequence(i).tolist() for i in (7, 8, 9)]


def test_windows_tile_each_video_with_one_offset_an_epoch(folder):
    read = sequences(folder, "videos")
    train = select(read.datasets[0], "train", 0.0)
    items = [read.datasets[0].item(int(i)) for i in train]
    lengths = {item.key: item.frames for item in items}
    per_epoch = sum(max(length // FRAMES, 1) for length in lengths.values())
    assert read.clips == per_epoch
    offsets: dict[str, set[int]] = {key: set() for key in lengths}
    for epoch in range(12):
        firsts: dict[str, list[int]] = {key: [] for key in lengths}
        for i in range(epoch * per_epoch, (epoch + 1) * per_epoch):
            ((item, first),) = read.describe(i)
            firsts[item.key].append(first)
        for key, length in lengths.items():
            ordered, windows = sorted(firsts[key]), length // FRAMES
            offset = ordered[0]
            assert ordered == [offset + w * FRAMES for w in range(max(windows, 1))]
            assert 0 <= offset <= (length - windows * FRAMES if windows else 0)
            offsets[key].add(offset)
    longest = max(lengths, key=lambda key: lengths[key] % FRAMES if lengths[key] > FRAMES else 0)
    assert len(offsets[longest]) > 1


def test_images_are_packed_and_none_is_left_out(folder):
    read = sequences(folder, "images")
    rows = select(read.datasets[0], "train", 0.0)
    keys = set(read.datasets[0].column("key")[rows])
    assert len(keys) == 8  # one of nine is for validation
    for epoch in range(3):
        packed = [item.key for i in range(2 * epoch, 2 * epoch + 2) for item, _ in read.describe(i)]
        assert len(packed) == 8
        assert set(packed) == keys
    assert read.sequence(0)[0] == 3
    assert read.sequence(0)[-1] == 2


def test_train_and_validation_share_no_item(folder):
    for fraction in (0.0, 0.3, 0.6):
        parts = [
            set(select(TokenDataset(folder / "videos"), split, fraction).tolist())
            for split in ("train", "validation")
        ]
        assert not parts[0] & parts[1]
        assert parts[0] | parts[1] == set(range(len(LENGTHS)))
        assert parts[1]
    assert not len(select(TokenDataset(folder / "videos"), "test", 0.3))


def test_growth_moves_no_item_between_splits(tmp_path):
    visual = save_tokenizer(tmp_path / "tokenizer")
    sides = []
    for count in (12, 30):
        make_images(tmp_path / "source", count)
        data = make_dataset(tmp_path / "source", visual, tmp_path / f"data{count}")
        held_out = set(data.column("key")[select(data, "validation", 0.3)])
        sides.append({key: key in held_out for key in data.column("key")})
    assert 0 < sum(sides[0].values()) < 12
    assert sides[0].items() <= sides[1].items()


def test_named_splits_are_taken_at_their_word(tmp_path):
    visual = save_tokenizer(tmp_path / "tokenizer")
    for split, count in (("train", 5), ("val", 3), ("test", 2)):
        make_images(tmp_path / "source" / split / "cat", count, seed=count)
    data = make_dataset(tmp_path / "source", visual, tmp_path / "data")
    for split, prefix, count in (
        ("train", "train/", 5),
        ("validation", "val/", 3),
        ("test", "test/", 2),
    ):
        keys = data.column("key")[select(data, split, 0.5)]
        assert len(keys) == count
        assert all(key.startswith(prefix) for key in keys)
    assert set(data.column("label")) == {"cat"}


def test_weights_default_to_shares_of_sequences(folder):
    manifest = sequences(folder, "videos", "images").manifest
    clips = [entry.clips for entry in manifest.entries]
    shares = [entry.weight / manifest.block for entry in manifest.entries]
    expected = np.array([clips[0], -(-clips[1] // FRAMES)])
    assert shares == pytest.approx(expected / expected.sum(), abs=2e-3)
    given = sequences(folder, "videos", "images", weights=(1, 6)).manifest
    assert [entry.weight for entry in given.entries] == [1, 6]


def test_a_data_set_of_both_kinds_is_two_sources(tmp_path):
    visual = save_tokenizer(tmp_path / "tokenizer")
    make_images(make_videos(tmp_path / "source", [9, 9]), 9)
    data = make_dataset(tmp_path / "source", visual, tmp_path / "data")
    manifest = freeze([data], (), FRAMES, 0, "train", 0.1)
    assert [entry.kind for entry in manifest.entries] == ["video", "image"]
    with pytest.raises(UserError, match="videos and images"):
        freeze([data], (1,), FRAMES, 0, "train", 0.1)


def test_data_that_changed_under_a_frozen_manifest_is_refused_by_name(tmp_path):
    visual = save_tokenizer(tmp_path / "tokenizer")
    source = make_videos(tmp_path / "source", [6, 6, 6])
    data = make_dataset(source, visual, tmp_path / "data")
    manifest = freeze([data], (), FRAMES, 0, "train", 0.1)
    Sequences(manifest)
    data.folder.rename(tmp_path / "old")
    make_dataset(make_videos(source, [6, 6, 6, 6]), visual, tmp_path / "data")
    with pytest.raises(UserError, match=rf"{tmp_path / 'data'} has changed under this run"):
        Sequences(manifest)


def test_mixtures_that_make_no_sense(folder, tmp_path):
    other = save_tokenizer(tmp_path / "other", seed=3)
    source = make_videos(tmp_path / "source", [6])
    foreign = make_dataset(source, other, tmp_path / "foreign")
    videos = TokenDataset(folder / "videos")
    with pytest.raises(UserError, match="cannot be mixed"):
        freeze([videos, foreign], (), FRAMES, 0, "train", 0.1)
    with pytest.raises(UserError, match="no token data set"):
        freeze([], (), FRAMES, 0, "train", 0.1)
    with pytest.raises(UserError, match="no item for the split 'test'"):
        freeze([videos], (), FRAMES, 0, "test", 0.1)


def test_the_manifest_survives_its_dump(folder):
    from toto.config import from_dict, to_dict
    from toto.tokens.mixture import Manifest

    manifest = sequences(folder, "videos", "images").manifest
    dumped = json.loads(json.dumps(to_dict(manifest)))
    assert from_dict(Manifest, dumped, "it") == manifest
