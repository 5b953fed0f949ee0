import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.common import random_dataset
from toto.config import from_dict, to_dict
from toto.errors import UserError
from toto.tokens.loader import Sequences, freeze, select
from toto.tokens.mixture import Manifest
from toto.tokens.store import TokenDataset

FRAMES = 4
LENGTHS = [9, 4, 3, 14, 8, 1, 7]
# Tokens of a whole sequence of four 2x2 frames.
WHOLE = 18


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("loader")
    random_dataset(folder / "videos", 7, LENGTHS, 2, 30, shard_items=3)
    random_dataset(folder / "images", 0, 1, 2, 30, images=9, shard_items=4)
    random_dataset(folder / "crops", 7, LENGTHS, 2, 30, crops=3, shard_items=3)
    random_dataset(folder / "both", 9, 9, 2, 30, images=20)
    return folder


def sequences(folder: Path, *names: str, split: str = "train", seed: int = 0, **how) -> Sequences:
    data = [TokenDataset(folder / name) for name in names]
    weights = how.pop("weights", ())
    return Sequences(freeze(data, weights, FRAMES, seed, split, how.pop("fraction", 0.0)))


def test_sequences_hold_the_codes_that_they_describe(folder):
    read = sequences(folder, "videos", "images", "crops", fraction=0.1)
    seen = set()
    for i in range(80):
        tokens, parts = read.sequence(i).tolist(), read.describe(i)
        codes = []
        for item, first in parts:
            (data,) = (d for d in read.datasets if str(d.folder) == item.path.rpartition("/")[0])
            whole = np.load(data.folder / f"shards/{item.shard:05d}.npy")
            length = FRAMES if item.kind == "video" else 1
            own = whole[item.first : item.first + item.frames]
            codes += own[first : first + length].ravel().tolist()
            seen.add((data.folder.name, item.kind, len(own) < length))
        start = 1 if parts[0][0].kind == "video" else 3
        plain = [start, *(code + 4 for code in codes), 2]
        # Only what is shorter than a clip is padded.
        assert tokens == plain + [0] * (WHOLE - len(plain))
        assert (len(plain) == WHOLE) == (parts[0][0].frames >= FRAMES or len(parts) == FRAMES)
        assert read.codes(i).ravel().tolist() == codes
    assert ("videos", "video", True) in seen
    assert ("images", "image", False) in seen


def test_a_short_video_is_one_short_sequence(folder):
    read = sequences(folder, "videos")
    short = [i for i in range(read.clips) if read.describe(i)[0][0].frames in (1, 3)]
    assert short
    for i in short:
        frames = read.describe(i)[0][0].frames
        tokens = read.sequence(i)
        assert tokens[0] == 1
        assert (tokens[1 : 1 + 4 * frames] >= 4).all()
        assert tokens[1 + 4 * frames] == 2
        assert (tokens[2 + 4 * frames :] == 0).all()


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10**6), st.integers(1, 40), st.integers(0, 3))
def test_a_batch_is_its_sequences(folder, first, count, seed):
    read = sequences(folder, "videos", "images", "crops", "both", seed=seed)
    batch = read.batch(first, count)
    assert batch.dtype == torch.int64
    assert batch.tolist() == [read.sequence(i).tolist() for i in range(first, first + count)]


def test_batches_do_not_depend_on_what_was_read_before(folder):
    names = "videos", "images", "crops"
    read = sequences(folder, *names)
    forwards = [read.batch(5 * i, 5) for i in range(20)]
    fresh = sequences(folder, *names)
    backwards = [fresh.batch(5 * i, 5) for i in reversed(range(20))][::-1]
    with ThreadPoolExecutor(4) as threads:
        together = list(threads.map(lambda i: read.batch(5 * i, 5), range(20)))
    for one, other, third in zip(forwards, backwards, together, strict=True):
        assert torch.equal(one, other)
        assert torch.equal(one, third)


SCRIPT = """
import sys
from pathlib import Path
from tests.tokens.test_loader import sequences
read = sequences(Path(sys.argv[1]), "videos", "images", "crops", seed=4)
print(read.batch(40, 9).tolist())
"""


def test_a_fresh_process_reads_the_same(folder):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(folder)],
        env={**os.environ, "PYTHONHASHSEED": "7"},
        capture_output=True,
        text=True,
        check=True,
    )
    read = sequences(folder, "videos", "images", "crops", seed=4)
    read.batch(0, 3)
    assert json.loads(done.stdout) == read.batch(40, 9).tolist()


def test_the_data_of_a_run_never_change(folder):
    """Written down once, like the order in test_mixture."""
    read = sequences(folder, "videos", "images", "crops", seed=5, fraction=0.2)
    assert [(e.kind, e.weight, e.clips) for e in read.manifest.entries] == [
        ("video", 438, 7),
        ("image", 125, 5),
        ("video", 438, 7),
    ]
    described = [
        [(item.key, item.crop, first) for item, first in read.describe(i)] for i in (0, 1, 2, 10**6)
    ]
    assert described == [
        [("video/1", 0, 0)],
        [("video/1", 0, 0)],
        [("video/0", 0, 1)],
        [("video/0", 0, 1)],
    ]


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


def test_sixteen_images_fill_a_sequence(tmp_path):
    random_dataset(tmp_path / "images", 0, 1, 2, 30, images=40)
    read = Sequences(freeze([TokenDataset(tmp_path / "images")], (), 16, 0, "train", 0.0))
    batch = read.batch(0, 5)
    assert batch.shape == (5, 16 * 4 + 2)
    assert (batch[:, 0] == 3).all()
    assert (batch[:, -1] == 2).all()
    assert (batch[:, 1:-1] >= 4).all()
    packed = [len(read.describe(i)) for i in range(5)]
    assert packed == [16] * 5


def test_each_epoch_picks_one_crop_of_each_item(folder):
    read = sequences(folder, "crops")
    per_epoch = read.clips
    assert per_epoch == sequences(folder, "videos").clips
    picked: dict[str, Counter] = {}
    for epoch in range(30):
        crops: dict[str, set[int]] = {}
        for i in range(epoch * per_epoch, (epoch + 1) * per_epoch):
            ((item, _),) = read.describe(i)
            crops.setdefault(item.key, set()).add(item.crop)
        assert all(len(of_one) == 1 for of_one in crops.values())
        for key, of_one in crops.items():
            picked.setdefault(key, Counter()).update(of_one)
    assert len(picked) == len(select(read.datasets[0], "train", 0.0)) / 3
    assert all(set(counts) == {0, 1, 2} for counts in picked.values())


def test_train_and_validation_share_no_item(folder):
    for name, crops in (("videos", 1), ("crops", 3)):
        for fraction in (0.0, 0.3, 0.6):
            data = TokenDataset(folder / name)
            parts = [
                set(select(data, split, fraction).tolist()) for split in ("train", "validation")
            ]
            assert not parts[0] & parts[1]
            assert parts[0] | parts[1] == set(range(len(LENGTHS) * crops))
            assert parts[1]
            keys = [set(data.column("key")[list(part)]) for part in parts]
            assert not keys[0] & keys[1]
            assert not len(select(data, "test", fraction))


@settings(deadline=None, max_examples=10)
@given(st.integers(2, 30), st.integers(1, 30), st.floats(0, 0.5))
def test_growth_never_takes_an_item_from_training_to_validation(
    tmp_path_factory, count, more, fraction
):
    folder = tmp_path_factory.mktemp("growth")
    sides = []
    for images in (count, count + more):
        random_dataset(folder / str(images), 0, 1, 1, 30, images=images)
        data = TokenDataset(folder / str(images))
        held_out = set(data.column("key")[select(data, "validation", fraction)])
        assert 0 < len(held_out) < images
        sides.append({key: key in held_out for key in data.column("key")})
    moved = [key for key, held in sides[0].items() if held != sides[1][key]]
    # Where too few items are there for the fraction, the one that stood in for it can go back.
    assert all(sides[0][key] for key in moved)
    assert len(moved) <= (sum(sides[0].values()) == 1)


def test_named_splits_are_taken_at_their_word(tmp_path):
    splits = ["train"] * 5 + ["val"] * 3 + ["test"] * 2
    random_dataset(tmp_path / "data", 0, 1, 1, 30, images=10, splits=splits)
    random_dataset(tmp_path / "no val", 0, 1, 1, 30, images=10, splits=["train", "test"])
    for split, rows in (("train", range(5)), ("validation", range(5, 8)), ("test", range(8, 10))):
        assert select(TokenDataset(tmp_path / "data"), split, 0.5).tolist() == [*rows]
    parts = [
        select(TokenDataset(tmp_path / "no val"), split, 0.5).tolist()
        for split in ("train", "validation", "test")
    ]
    assert sorted(parts[0] + parts[1]) == [0, 2, 4, 6, 8]
    assert parts[0]
    assert parts[1]
    assert parts[2] == [1, 3, 5, 7, 9]


def test_weights_default_to_shares_of_sequences(folder):
    mixture = sequences(folder, "videos", "images").manifest
    clips = [entry.clips for entry in mixture.entries]
    shares = [entry.weight / mixture.block for entry in mixture.entries]
    expected = np.array([clips[0], -(-clips[1] // FRAMES)])
    assert shares == pytest.approx(expected / expected.sum(), abs=2e-3)
    given = sequences(folder, "videos", "images", weights=(1, 6)).manifest
    assert [entry.weight for entry in given.entries] == [1, 6]


@settings(deadline=None, max_examples=10)
@given(st.lists(st.integers(1, 9), min_size=3, max_size=3), st.integers(0, 5))
def test_every_block_of_batches_has_the_exact_proportions(folder, weights, block):
    read = sequences(folder, "videos", "images", "crops", weights=tuple(weights))
    size = sum(weights)
    names = [
        read.describe(i)[0][0].path.split("/")[-2] for i in range(block * size, (block + 1) * size)
    ]
    assert Counter(names) == dict(zip(("videos", "images", "crops"), weights, strict=True))
    assert (read.batch(block * size, size)[:, 0] == 3).sum() == weights[1]


def test_a_data_set_of_both_kinds_is_two_sources(folder):
    data = TokenDataset(folder / "both")
    mixture = freeze([data], (), FRAMES, 0, "train", 0.1)
    assert [entry.kind for entry in mixture.entries] == ["video", "image"]
    with pytest.raises(UserError, match="videos and images"):
        freeze([data], (1,), FRAMES, 0, "train", 0.1)


def test_data_that_changed_under_a_frozen_manifest_is_refused_by_name(folder, tmp_path):
    shutil.copytree(folder / "videos", tmp_path / "data")
    mixture = freeze([TokenDataset(tmp_path / "data")], (), FRAMES, 0, "train", 0.1)
    Sequences(mixture)
    shutil.rmtree(tmp_path / "data")
    random_dataset(tmp_path / "data", 8, [*LENGTHS, 5], 2, 30, shard_items=3)
    with pytest.raises(UserError, match=rf"{tmp_path / 'data'} has changed under this run"):
        Sequences(mixture)


def test_a_shard_that_was_cut_or_lost_under_a_run_is_named(folder, tmp_path):
    shutil.copytree(folder / "images", tmp_path / "data")
    read = sequences(tmp_path, "data")
    shard = tmp_path / "data" / "shards" / "00001.npy"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-8])
    with pytest.raises(UserError, match=f"{shard} has been cut short|{shard} is missing or dam"):
        read.batch(0, 8)
    np.save(shard, np.zeros((4, 3, 3), np.uint16))
    with pytest.raises(UserError, match=f"{shard} holds uint16"):
        sequences(tmp_path, "data").batch(0, 8)
    shard.unlink()
    with pytest.raises(UserError, match=f"{shard} is missing"):
        sequences(tmp_path, "data").batch(0, 8)


def test_mixtures_that_make_no_sense(folder, tmp_path):
    random_dataset(tmp_path / "few", 1, 6, 2, 30)
    few = TokenDataset(tmp_path / "few")
    with pytest.raises(UserError, match="has weight 2, but no item for training"):
        freeze([few, TokenDataset(folder / "images")], (2, 1), FRAMES, 0, "train", 1.0)
    random_dataset(tmp_path / "foreign", 2, 6, 2, 30, tokenizer="other")
    random_dataset(tmp_path / "larger", 2, 6, 4, 30)
    videos = TokenDataset(folder / "videos")
    with pytest.raises(UserError) as refused:
        freeze([videos, TokenDataset(tmp_path / "foreign")], (), FRAMES, 0, "train", 0.1)
    assert str(refused.value) == (
        f"{folder}/videos was made by tokenizer random, "
        f"{tmp_path}/foreign was made by tokenizer other: they cannot be mixed"
    )
    with pytest.raises(UserError, match=r"grid of \(2, 2\), .*larger has a grid of \(4, 4\)"):
        freeze([videos, TokenDataset(tmp_path / "larger")], (), FRAMES, 0, "train", 0.1)
    with pytest.raises(UserError, match="no token data set"):
        freeze([], (), FRAMES, 0, "train", 0.1)
    with pytest.raises(UserError, match="no item for the split 'test'"):
        freeze([videos], (), FRAMES, 0, "test", 0.1)


def test_the_manifest_survives_its_dump(folder):
    mixture = sequences(folder, "videos", "images").manifest
    dumped = json.loads(json.dumps(to_dict(mixture)))
    assert from_dict(Manifest, dumped, "it") == mixture
