"""Clips decoded in training, beside the same clips stored."""

import multiprocessing
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.tiny import make_images, make_videos, save_tokenizer, tokenizer
from toto.errors import UserError
from toto.media.pool import Task, _Worker
from toto.media.sources import read_sources
from toto.media.video import open_media
from toto.media.view import LIMITS, Limits, Place, View
from toto.tokens.config import Ingest
from toto.tokens.ingest import ingest
from toto.tokens.loader import Sequences, freeze
from toto.tokens.mixture import draw, places_of
from toto.tokens.online import _Encoder
from toto.tokens.store import TokenDataset
from toto.tokens.vocabulary import PAD

FRAMES = 4
VIEW = View(stride=2, size=16)


def make(
    source: Path,
    visual: Path,
    out: Path,
    online: bool,
    limits: Limits = LIMITS,
    view: View = VIEW,
) -> TokenDataset:
    how = Ingest(view, batch=32 if online else 8, shard_items=3, online=online)
    items = read_sources([str(source)])
    return ingest(items, visual, out, how, "toto tokenize it", workers=0, limits=limits)


@pytest.fixture(scope="module")
def visual(tmp_path_factory) -> Path:
    return save_tokenizer(tmp_path_factory.mktemp("visual") / "tokenizer")


@pytest.fixture(scope="module")
def media(tmp_path_factory) -> Path:
    """Videos wider than high, so that places differ, and images."""
    folder = tmp_path_factory.mktemp("media")
    make_videos(folder, [9, 41, 3, 60, 26], side=24, width=48)
    make_images(folder, 5)
    return folder


@pytest.fixture(scope="module")
def stored(media, visual, tmp_path_factory) -> TokenDataset:
    return make(media, visual, tmp_path_factory.mktemp("stored") / "data", online=False)


@pytest.fixture(scope="module")
def scanned(media, visual, tmp_path_factory) -> TokenDataset:
    return make(media, visual, tmp_path_factory.mktemp("scanned") / "data", online=True)


def sequences(*datasets: TokenDataset, split: str = "train", weights=(), workers: int = 0):
    manifest = freeze(datasets, weights, FRAMES, 3, split, 0.4)
    return Sequences(manifest, "cpu", workers)


def test_validation_is_that_of_the_stored_codes(stored, scanned):
    """There everything is in the middle; the order is the same for both."""
    expected = sequences(stored, split="validation")
    found = sequences(scanned, split="validation", workers=2)
    count = 3 * expected.clips
    assert torch.equal(found.batch(0, count), expected.batch(0, count))
    assert (
        found.describe(1)
        == [(replace(item, first=0), first) for item, first in expected.describe(1)]
        or found.describe(1)[0][0].key == expected.describe(1)[0][0].key
    )


def test_whole_frames_are_those_of_the_stored_codes_in_training_too(media, visual, tmp_path):
    view = replace(VIEW, whole=True)
    pair = [
        make(media, visual, tmp_path / name, online=name == "scan", view=view)
        for name in ("stored", "scan")
    ]
    stored, scanned = map(sequences, pair)
    assert torch.equal(scanned.batch(0, stored.clips), stored.batch(0, stored.clips))


def test_training_takes_fresh_places(scanned, media):
    found = sequences(scanned, workers=1)
    first = found.batch(0, 4 * found.clips)
    assert torch.equal(first, sequences(scanned).batch(0, 4 * found.clips))
    assert first[5].tolist() == found.sequence(5).tolist()
    seen: dict[tuple, set] = {}
    for i in range(4 * found.clips):
        (item, start), *others = found.describe(i)
        if not others and item.frames >= FRAMES:
            seen.setdefault((item.key, start), set()).add(tuple(first[i].tolist()))
    assert max(len(tokens) for tokens in seen.values()) > 1


def test_codes_are_those_of_some_square(scanned, media):
    """Of the very frames that the sequence names."""
    found = sequences(scanned)
    index = next(i for i in range(20) if found.describe(i)[0][0].frames == 30)
    item, start = found.describe(index)[0]
    places = tuple(
        map(Place, np.linspace(0, 1, 25).tolist())
    )  # every offset of 8 pixels in steps of a third
    with open_media(item.location) as opened:
        squares = np.concatenate(list(opened.chunks(VIEW, places, start, FRAMES)))
    candidates = [
        tokenizer().encode(torch.from_numpy(np.ascontiguousarray(squares[:, i]))).numpy()
        for i in range(len(places))
    ]
    assert any(np.array_equal(found.codes(index), codes) for codes in candidates)


def test_a_file_that_fails_late_gives_its_place_to_the_next(visual, tmp_path, capsys):
    make_videos(tmp_path / "media", [20] * 8, side=16)
    whole = make(tmp_path / "media", visual, tmp_path / "stored", online=False)
    scan = make(tmp_path / "media", visual, tmp_path / "scan", online=True)
    expected, found = sequences(whole), sequences(scan, workers=1)
    clips = found.manifest.entries[0].clips
    lost = sorted({found.describe(i)[0][0].key for i in range(clips)})[:2]
    (tmp_path / "media" / lost[0]).write_bytes(b"no longer a video")
    (tmp_path / "media" / lost[1]).unlink()
    for i in range(2 * clips):
        (share,) = draw(found.manifest, np.array([i]))
        epochs, rank = share.epochs[0], int(share.ranks[0, 0])
        for ranks in range(rank, rank + clips):
            place = places_of(found.manifest, 0, epochs, np.array([ranks % clips]))
            where = expected.sources[0].locate(epochs, place, found.manifest.seed)
            row = whole.item(int(where.rows[0]))
            if row.key not in lost:
                break
        codes = whole.codes(row, int(where.firsts[0]), int(where.frames[0]))
        assert np.array_equal(found.codes(i), codes), i
    said = capsys.readouterr().err.replace("\n", " ")
    assert said.count(lost[0]) == said.count(lost[1]) == 1
    for path in (tmp_path / "media").iterdir():
        path.write_text("none is left")
    with pytest.raises(UserError, match="100 clips in a row cannot be read"):
        found.batch(0, 4)


def test_the_lengths_of_sequences_stay_those_of_the_index(visual, tmp_path):
    """Short and long clips take turns; half of both are lost."""
    make_videos(tmp_path / "media", [20, 3] * 8, side=16)
    found = sequences(make(tmp_path / "media", visual, tmp_path / "scan", online=True))
    count = found.clips
    lengths = found.lengths(0, count)
    assert set(lengths.tolist()) == {2, FRAMES}
    paths = sorted((tmp_path / "media").iterdir())
    for path in paths[: len(paths) // 2]:
        path.write_bytes(b"no longer a video")
    tokens = found.batch(0, count)
    assert ((tokens != PAD).sum(1) - 2).tolist() == (lengths * found.vocabulary.frame).tolist()
    for index in range(count):
        kept = found.codes(index)
        assert len(kept) == lengths[index]
        assert found.vocabulary.sequence(kept, "video", FRAMES).tolist() == tokens[index].tolist()


def test_a_clip_without_its_like_takes_the_only_other_of_its_length(visual, tmp_path):
    """However far away that is in the order."""
    make_videos(tmp_path / "media", [8, 8] + [1] * 40, side=16)
    scan = make(tmp_path / "media", visual, tmp_path / "scan", online=True)
    found = Sequences(freeze([scan], (), FRAMES, 3, "train", 0.0), workers=0)
    (tmp_path / "media/video000.mp4").unlink()
    whole = [i for i in range(found.clips) if found.lengths(i, 1)[0] == FRAMES]
    one, other = (found.codes(i) for i in whole)
    assert len(whole) == 2 and np.array_equal(one, other)


def test_training_keeps_to_the_limits_of_the_scan(visual, tmp_path, capsys):
    make_videos(tmp_path / "media", [20] * 4, side=16)
    limits = Limits(seconds=2.0, memory=3.0)
    scan = make(tmp_path / "media", visual, tmp_path / "scan", True, limits)
    assert scan.info.limits == limits
    limits = replace(limits, seconds=1.0)
    scan = make(tmp_path / "media", visual, tmp_path / "scan", True, limits)  # nothing to do
    assert TokenDataset(scan.folder).info.limits == limits
    with sequences(scan, workers=1) as found:
        ((item, _),) = found.describe(0)
        Path(item.path).unlink()
        os.mkfifo(item.path)
        assert len(found.codes(0)) == FRAMES
    said = " ".join(capsys.readouterr().err.split())
    assert "time limit: nothing decoded for 1 s; another clip takes its place" in said


def test_a_decoder_that_is_killed_changes_nothing(scanned, monkeypatch):
    expected, found = sequences(scanned), sequences(scanned, workers=1)
    give, killed = _Worker.give, []

    def give_and_kill(worker: _Worker, number: int, task: Task) -> None:
        give(worker, number, task)
        if not killed:
            worker.process.terminate()
            killed.append(number)

    with found:
        found.batch(0, 1)
        monkeypatch.setattr(_Worker, "give", give_and_kill)
        assert torch.equal(found.batch(0, 2), expected.batch(0, 2))
    assert killed


def test_the_precision_around_it_changes_no_code(stored, scanned):
    """Validation runs within autocast."""
    expected, found = (sequences(data, split="validation") for data in (stored, scanned))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(found.batch(0, 8), expected.batch(0, 8))


def test_closing_ends_the_decoders_and_what_is_being_read(scanned, monkeypatch):
    begun, may_go_on = threading.Event(), threading.Event()
    others = decoders()  # of tests before, not yet collected

    def wait(*_: object) -> None:
        begun.set()
        assert may_go_on.wait(60)

    monkeypatch.setattr(_Encoder, "add", wait)
    read = sequences(scanned, workers=1)
    with ThreadPoolExecutor(2) as threads:
        coming = threads.submit(read.batch, 0, 8)
        assert begun.wait(60)
        assert decoders() - others
        closing = threads.submit(read.__exit__)
        while not read._online._is_closed:
            time.sleep(0.01)
        may_go_on.set()
        with pytest.raises(RuntimeError, match="closed"):
            coming.result()
        closing.result()
    assert not decoders() - others
    with pytest.raises(RuntimeError, match="closed"):
        read.batch(0, 1)


def decoders() -> set[BaseProcess]:
    return {child for child in multiprocessing.active_children() if child.name == "toto-decode"}


def test_stored_and_online_mix(stored, scanned, visual, tmp_path):
    make_images(tmp_path / "images", 30)
    images = make(tmp_path / "images", visual, tmp_path / "data", online=False)
    make_videos(tmp_path / "videos", [20] * 8)
    videos = make(tmp_path / "videos", visual, tmp_path / "scan", online=True)
    found = sequences(images, videos, weights=(1, 3))
    batch = found.batch(0, 8)
    assert sorted(batch[:, 0].tolist()) == [1] * 6 + [3] * 2


def test_what_needs_codes_refuses_a_scan(scanned):
    with pytest.raises(UserError, match="stores no codes"):
        scanned.codes(scanned.item(0))
    with pytest.raises(UserError, match="stores no codes"):
        scanned.code_counts()
