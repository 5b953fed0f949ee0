import os
import threading
import time
from pathlib import Path

import av
import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from tests.children import run_until_write, start
from tests.tiny import (
    contents,
    make_dataset,
    make_images,
    make_videos,
    pictures,
    save_tokenizer,
    tokenizer,
)
from toto.config import fingerprint
from toto.errors import MediaError, UserError
from toto.media.item import Item, Location
from toto.media.sources import read_sources
from toto.media.video import open_media, read_frames
from toto.media.view import View
from toto.tokens.config import Ingest
from toto.tokens.ingest import _fingerprint, ingest
from toto.tokens.mixture import key_of
from toto.tokens.store import TokenDataset
from toto.tokens.verify import verify

VIEW = View(stride=2, size=16)
SETTINGS = Ingest(VIEW, batch=8, shard_items=3)


@pytest.fixture(scope="module")
def media(tmp_path_factory) -> Path:
    """Seven readable items, a long video among them, and three that are not."""
    folder = tmp_path_factory.mktemp("media")
    make_videos(folder, [5, 33, 1, 150, 12], side=24)
    make_images(folder, 2)
    (folder / "video001b.mp4").write_text("not a video at all")
    (folder / "video003b.png").write_bytes((folder / "image000.png").read_bytes()[:60])
    broken_half_way(folder / "video002b.mp4")
    return folder


def broken_half_way(path: Path) -> None:
    """A fragmented MP4 whose end is missing: its first chunks decode."""
    options = {"movflags": "frag_keyframe+empty_moov"}
    with av.open(str(path), "w", format="mp4", options=options) as container:
        stream = container.add_stream("libx264", rate=25)
        stream.codec_context.width = stream.codec_context.height = 16
        stream.codec_context.pix_fmt = "yuv420p"
        stream.codec_context.options = {"g": "20"}
        for picture in pictures(300, 16, 7).transpose(0, 2, 3, 1):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * 0.8)])
    decoded = 0
    with pytest.raises(MediaError, match="truncated"):
        for chunk in read_frames(str(path), VIEW):
            decoded += len(chunk)
    assert decoded > 0


@pytest.fixture(scope="module")
def visual(tmp_path_factory) -> Path:
    return save_tokenizer(tmp_path_factory.mktemp("visual") / "tokenizer")


def make(media: Path, visual: Path, out: Path, workers: int = 0) -> TokenDataset:
    return tokenize(read_sources([str(media)]), visual, out, workers)


def tokenize(items: list[Item], visual: Path, out: Path, workers: int = 0) -> TokenDataset:
    return ingest(items, visual, out, SETTINGS, "toto tokenize it", workers)


@pytest.fixture(scope="module")
def whole(media, visual, tmp_path_factory) -> TokenDataset:
    return make(media, visual, tmp_path_factory.mktemp("whole") / "data")


def test_codes_are_those_of_the_frames(whole, media):
    visual = tokenizer()
    seen = set()
    assert len(whole) == 7
    for i in range(len(whole)):
        item = whole.item(i)
        frames = np.concatenate(list(read_frames(str(media / item.key), VIEW)))
        codes = visual.encode(torch.from_numpy(frames)).numpy()
        assert whole.codes(item).dtype == np.uint16
        assert np.array_equal(whole.codes(item), codes), item.key
        assert np.array_equal(whole.codes(item, 2, 3), codes[2:5])
        seen |= set(codes.ravel().tolist())
    assert len(seen) > 5  # or this test would not say much


def test_rows_and_counts_describe_the_items(whole, media):
    frames = {whole.item(i).key: whole.item(i).frames for i in range(len(whole))}
    assert frames == {
        "image000.png": 1,
        "image001.png": 1,
        "video000.mp4": 3,
        "video001.mp4": 17,
        "video002.mp4": 1,
        "video003.mp4": 75,
        "video004.mp4": 6,
    }
    first = whole.item(2)
    assert (first.kind, first.fps, first.path) == ("video", 25.0, str(media / "video000.mp4"))
    assert whole.item(0).kind == "image"
    assert (whole.info.readable, whole.info.failed, whole.info.frames) == (7, 3, 104)
    assert whole.code_counts().sum() == 104 * 16
    counts = np.bincount(whole.codes(first).ravel(), minlength=30)
    assert np.array_equal(whole.code_counts(np.array([2])), counts)
    assert whole.vocabulary.rows == whole.vocabulary.cols == 4
    verify(whole)


def test_crops_are_stored_one_after_the_other(visual, tmp_path):
    """Each crop of a video is one run of codes: those of the same square in all its frames."""
    source = tmp_path / "source"
    make_videos(source, [9, 21], side=16)
    Image.fromarray(np.ascontiguousarray(pictures(1, 64, 5)[0, :, :20].transpose(1, 2, 0))).save(
        source / "wide.png"
    )
    view = View(stride=2, size=16, crops=3, seed=4)
    items = read_sources([str(source)])
    data = ingest(items, visual, tmp_path / "data", Ingest(view, 8, 2), "it", workers=0)
    assert (data.info.readable, len(data), data.info.frames) == (3, 9, 3 * (5 + 11 + 1))
    index = pq.read_table(data.folder / "index.parquet").to_pylist()
    assert [row["crop"] for row in index] == [0, 1, 2] * 3
    for i, row in enumerate(index):
        item = next(item for item in items if item.key == row["key"])
        places = view.places(row["hash"])
        assert row["hash"] == key_of("item", row["key"])
        with open_media(item.location) as media:
            squares = np.concatenate(list(media.chunks(view, places)))[:, row["crop"]]
        codes = tokenizer().encode(torch.from_numpy(np.ascontiguousarray(squares))).numpy()
        assert np.array_equal(data.codes(data.item(i)), codes), row
        slack = max(row["width"], row["height"]) - row["crop_side"]
        corner = row["crop_x"] if row["width"] > row["height"] else row["crop_y"]
        assert corner == pytest.approx(places[row["crop"]].along * slack, rel=1e-6)


def test_segments_and_provenance_reach_the_index(visual, tmp_path):
    make_videos(tmp_path, [50])
    location = Location(str(tmp_path / "video000.mp4"), start=0.4, end=1.2)
    item = Item(location, "a@0.4-1.2", "run", "val", "manifest:mine.csv")
    data = ingest([item], visual, tmp_path / "data", SETTINGS, "it", workers=0)
    (row,) = pq.read_table(data.folder / "index.parquet").to_pylist()
    assert (row["start"], row["end"], row["frames"]) == (0.4, 1.2, 10)
    assert (row["label"], row["split"], row["source"]) == ("run", "val", "manifest:mine.csv")
    assert (row["fps"], row["rate"]) == (25.0, 12.5)
    assert data.hours() == pytest.approx(0.8 / 3600)
    frames = np.concatenate(list(read_frames(str(tmp_path / "video000.mp4"), View(1, 16))))
    codes = tokenizer().encode(torch.from_numpy(frames[10:30:2].copy())).numpy()
    assert np.array_equal(data.codes(data.item(0)), codes)


def test_a_scan_writes_the_same_rows_without_codes(whole, media, visual, tmp_path):
    """But for files whose damage only decoding finds."""
    how = Ingest(VIEW, shard_items=3, online=True)
    scan = ingest(read_sources([str(media)]), visual, tmp_path / "data", how, "it", workers=0)
    names = ["key", "path", "kind", "frames", "fps", "rate", "width", "height", "hash", "split"]
    rows = pq.read_table(scan.folder / "index.parquet", columns=names).to_pylist()
    expected = pq.read_table(whole.folder / "index.parquet", columns=names).to_pylist()
    damaged = {"video002b.mp4", "video003b.png"}
    assert [row for row in rows if row["key"] not in damaged] == expected
    assert not list((scan.folder / "shards").glob("*.npy"))
    assert scan.info.tokenizer == whole.info.tokenizer


def test_what_cannot_be_read_is_accounted_for(whole):
    assert [key for key, _ in whole.failures()] == [
        "video001b.mp4",
        "video002b.mp4",
        "video003b.png",
    ]
    assert all(reason and "\n" not in reason for _, reason in whole.failures())
    rows = pq.read_table(whole.folder / "failures.parquet").to_pylist()
    assert [row["retry"] for row in rows] == [False] * 3


def test_shards_are_plain_arrays_of_the_planned_items(whole):
    shards = sorted((whole.folder / "shards").glob("*.npy"))
    assert [path.name for path in shards] == [f"{i:05d}.npy" for i in range(4)]
    for shard in shards:
        rows = pq.read_table(shard.with_suffix(".parquet")).to_pylist()
        kept = [row for row in rows if row["failure"] is None]
        ends = np.cumsum([0] + [row["frames"] for row in kept])
        assert [row["first"] for row in kept] == ends[:-1].tolist()
        assert len(np.load(shard)) == ends[-1]


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_no_byte(whole, media, visual, tmp_path, workers):
    again = make(media, visual, tmp_path / "data", workers)
    assert contents(again.folder) == contents(whole.folder)


@pytest.mark.parametrize("every", [4, pytest.param(1, marks=pytest.mark.slow)])
def test_a_kill_at_any_write_changes_no_byte(whole, media, visual, tmp_path, every):
    moments = 0
    for moment in range(every, 200, every):
        out = tmp_path / str(moment)
        ended = run_until_write(moment, out, make, media, visual, out)
        if ended == 0:
            break
        moments += 1
        try:  # what a kill leaves is unfinished or whole
            left = TokenDataset(out)
            verify(left)
        except UserError as error:
            assert "not finished: run `toto tokenize it` again" in str(error) or moment < 12
        make(media, visual, out)
        assert contents(out) == contents(whole.folder), moment
    assert ended == 0
    assert moments * every > 20


def test_kills_of_the_first_moments_one_after_the_other_change_no_byte(
    whole, media, visual, tmp_path
):
    out = tmp_path / "data"
    for moment in (6, 5, 4, 3, 2, 3, 4, 5, 6):
        if (out / "dataset.json").exists():
            (out / "dataset.json").unlink()  # as if the kill had come just before
        run_until_write(moment, out, make, media, visual, out)
    make(media, visual, out)
    assert contents(out) == contents(whole.folder)


def test_a_kill_amid_decoding_changes_no_byte(whole, media, visual, tmp_path):
    out = tmp_path / "data"
    child = start(make, media, visual, out, 2)
    workers = []
    while not (out / "shards/00000.npy").exists():
        assert child.is_alive()
        workers = psutil.Process(child.pid).children(recursive=True) or workers
    child.kill()
    child.join()
    make(media, visual, out, 1)
    assert contents(out) == contents(whole.folder)
    psutil.wait_procs(workers, timeout=10)
    assert not any(w.is_running() and w.status() != psutil.STATUS_ZOMBIE for w in workers)


def test_a_finished_data_set_is_not_made_again(whole, media, visual):
    before = {path: path.stat().st_mtime_ns for path in whole.folder.rglob("*.*")}
    make(media, visual, whole.folder)
    assert {path: path.stat().st_mtime_ns for path in before} == before | {
        whole.folder / ".lock": (whole.folder / ".lock").stat().st_mtime_ns
    }


def test_items_that_ran_into_a_limit_are_tried_again(visual, tmp_path):
    source = make_videos(tmp_path / "source", [4, 6, 8, 10])
    expected = make(source, visual, tmp_path / "expected")
    items, victim = read_sources([str(source)]), source / "video001.mp4"
    victim.rename(tmp_path / "aside")
    os.mkfifo(victim)
    made = threading.Thread(target=tokenize, args=(items, visual, tmp_path / "data", 1))
    made.start()
    while made.is_alive():  # until the worker has opened it
        try:
            pipe = os.open(victim, os.O_WRONLY | os.O_NONBLOCK)
            break
        except OSError:
            time.sleep(0.01)
    for child in psutil.Process().children():
        if "spawn_main" in " ".join(child.cmdline()):
            child.kill()
    made.join()
    os.close(pipe)
    data = TokenDataset(tmp_path / "data")
    assert len(data) == 3
    assert data.failures() == [
        ("video001.mp4", "the decoder was killed (signal 9), perhaps for memory")
    ]
    victim.unlink()
    (tmp_path / "aside").rename(victim)
    make(source, visual, tmp_path / "data")
    assert contents(tmp_path / "data") == contents(expected.folder)


def test_an_unfinished_data_set_names_the_command(whole, media, visual, tmp_path):
    out = tmp_path / "data"
    while not (out / "shards/00001.npy").exists():
        run_until_write(14, out, make, media, visual, out)
    with pytest.raises(UserError, match="not finished: run `toto tokenize it` again"):
        TokenDataset(out)


def test_folders_that_are_no_data_set(tmp_path):
    with pytest.raises(UserError, match="is not a token data set"):
        TokenDataset(tmp_path)


def test_nothing_usable(visual, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    for i in range(5):
        (source / f"{i}.mp4").write_text("no")
    for _ in range(2):  # and again, now that the shards are there
        with pytest.raises(UserError, match="none of 5 files could be read"):
            make(source, visual, tmp_path / "data")
    with pytest.raises(UserError, match="not finished"):
        TokenDataset(tmp_path / "data")
    with pytest.raises(UserError, match="no files"):
        ingest([], visual, tmp_path / "none", SETTINGS, "it")


def test_other_settings_tokenizers_and_sources_are_refused(whole, media, visual, tmp_path):
    before = contents(whole.folder)
    items = read_sources([str(media)])
    other = save_tokenizer(tmp_path / "other", seed=1)
    for arguments, name in [
        ((items, visual, whole.folder, Ingest(VIEW, batch=4, shard_items=3)), "settings"),
        ((items, visual, whole.folder, Ingest(View(4, 16), batch=8, shard_items=3)), "settings"),
        ((items, other, whole.folder, SETTINGS), "tokenizer"),
        ((items[:-1], visual, whole.folder, SETTINGS), "items|source"),
    ]:
        with pytest.raises(UserError, match=f"was made with ({name})"):
            ingest(*arguments, command="it", workers=0)
    how = Ingest(VIEW, batch=4, shard_items=3)
    with pytest.raises(UserError, match=r"with settings\.batch 8, not 4: choose"):
        ingest(items, visual, whole.folder, how, command="it", workers=0)
    with pytest.raises(UserError, match=r"crops 2: training cuts out its own"):
        Ingest(View(2, 16, crops=2), online=True)
    for wrong, name in (({"batch": 8}, "batch 8"), ({"compiled": True}, "compiled")):
        with pytest.raises(UserError, match=f"^{name}: an online scan tokenizes nothing"):
            Ingest(VIEW, online=True, **wrong)
    with pytest.raises(UserError, match=r"size 18: .* multiple of 4"):
        ingest(items, visual, tmp_path / "new", Ingest(View(2, 18)), "it", 0)
    assert not (tmp_path / "new").exists()
    assert contents(whole.folder) == before


def test_a_second_writer_is_refused(visual, tmp_path):
    media = make_videos(tmp_path / "media", [3, 3, 3])
    items = [*read_sources([str(media)]), Item(Location(str(tmp_path / "pipe")), "pipe")]
    os.mkfifo(tmp_path / "pipe")  # the first writer waits until somebody writes into it
    child = start(tokenize, items, visual, tmp_path / "data")
    while not (tmp_path / "data/shards/00000.parquet").exists():
        assert child.is_alive()
    with pytest.raises(UserError, match="another process is writing"):
        make(media, visual, tmp_path / "data")
    child.kill()
    child.join()


def test_a_data_set_made_anew_at_the_same_place_is_read_anew(visual, tmp_path):
    source = make_videos(tmp_path / "source", [4])
    before = make_dataset(source, visual, tmp_path / "data")
    old = np.array(before.codes(before.item(0)))
    before.folder.rename(tmp_path / "old")
    other = save_tokenizer(tmp_path / "other", seed=9)
    after = make_dataset(source, other, tmp_path / "data")
    assert not np.array_equal(after.codes(after.item(0)), old)
    assert after.fingerprint != before.fingerprint


def test_the_fingerprint_of_items_is_that_of_their_json():
    items = [
        Item(Location('a é/"b"', None, 0.1, 2.0, 30.0), "k 1", "label", None),
        Item(Location("c", "bytes:1+2"), "k 2", None, "val"),
    ]
    rows = [
        ["k 1", 'a é/"b"', None, 0.1, 2.0, 30.0, "label", None],
        ["k 2", "c", "bytes:1+2", None, None, None, None, "val"],
    ]
    assert _fingerprint(items) == fingerprint(rows)
