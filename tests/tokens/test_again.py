"""Items that may be read another time, in a data set that is complete without them."""

import os
import shutil
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pytest

from tests.children import run_until_write, start
from tests.tiny import contents, make_videos, save_tokenizer
from toto.errors import UserError
from toto.media.item import Item
from toto.media.sources import read_sources
from toto.media.view import LIMITS, Limits, View
from toto.tokens.config import Ingest
from toto.tokens.ingest import ingest
from toto.tokens.store import TokenDataset
from toto.tokens.verify import verify

NAMES = ("video001.mp4", "video004.mp4")
SHORT = Limits(seconds=2.0)


def make(items: list[Item], visual: Path, out: Path, workers: int = 0, limits: Limits = LIMITS):
    how = Ingest(View(stride=2, size=16), batch=8, shard_items=2)
    return ingest(items, visual, out, how, "toto tokenize it", workers, limits=limits)


@pytest.fixture(scope="module")
def visual(tmp_path_factory) -> Path:
    return save_tokenizer(tmp_path_factory.mktemp("visual") / "tokenizer")


def hanging(source: Path) -> list[Item]:
    """Six videos in three shards, two of which hang until they are healed."""
    items = read_sources([str(make_videos(source, [4, 6, 8, 10, 12, 14]))])
    for name in NAMES:
        (source / name).rename(source / f".{name}")
        os.mkfifo(source / name)
    return items


def heal(source: Path) -> None:
    for name in NAMES:
        (source / f".{name}").replace(source / name)


def hide(source: Path) -> None:
    for name in NAMES:
        (source / name).rename(source / f".{name}")
        (source / name).write_text("no video any more")


def opened_by_reader(pipe: Path, child: BaseProcess) -> int:
    """Wait until the child reads, and let that hang."""
    while child.is_alive():
        try:
            return os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:
            time.sleep(0.01)
    raise AssertionError("the child ended")


def codes(data: TokenDataset) -> dict[str, list]:
    verify(data)
    return {item.key: data.codes(item).tolist() for item in data.items(np.arange(len(data)))}


def test_a_complete_data_set_stays_one_while_items_are_tried_again(visual, tmp_path):
    source, out = tmp_path / "source", tmp_path / "data"
    items = hanging(source)
    data = make(items, visual, out, 1, SHORT)
    assert [key for key, _ in data.failures()] == [*NAMES]
    before, old, first = contents(out), codes(data), data.item(0)
    index = (out / "index.parquet").stat()
    again = make(items, visual, out, 1, SHORT)  # in vain
    assert contents(out) == before
    assert (out / "index.parquet").stat().st_ino == index.st_ino
    assert codes(again) == codes(data) == old
    child = start(make, items, visual, out, 1)
    pipe = opened_by_reader(source / NAMES[0], child)
    assert list(out.glob(".writing-*/shards/.00000.npy.partial"))
    assert codes(TokenDataset(out)) == codes(data) == old
    child.kill()
    child.join()
    os.close(pipe)
    assert codes(TokenDataset(out)) == codes(data) == old
    heal(source)
    make(items, visual, out)
    assert contents(out) == contents(make(items, visual, tmp_path / "new").folder)
    assert codes(TokenDataset(out)).keys() == {item.key for item in items}
    for read in (lambda: data.codes(first), lambda: data.item(0), data.code_counts):
        with pytest.raises(UserError, match="has been changed since it was opened"):
            read()


@pytest.mark.slow
def test_a_kill_at_any_write_leaves_the_old_or_the_new(visual, tmp_path):
    """But for the moment in which shards change places: then it is the next run that ends it."""
    source, kept = tmp_path / "source", tmp_path / "kept"
    items = hanging(source)
    old = codes(make(items, visual, kept, 1, SHORT))
    heal(source)
    whole = make(items, visual, tmp_path / "whole")
    new = codes(whole)
    seen = []
    for moment in range(1, 100):
        out = tmp_path / str(moment)
        shutil.copytree(kept, out)
        ended = run_until_write(moment, out, make, items, visual, out)
        try:
            found = codes(TokenDataset(out))
            seen.append({str(old): "old", str(new): "new"}[str(found)])
        except UserError as error:
            assert "not finished: run `toto tokenize it` again" in str(error)
            seen.append("between")
        if ended == 0:
            break
        if seen[-1] == "between":  # nothing has to be read for it any more
            hide(source)
            make(items, visual, out)
            heal(source)
        elif moment % 3 == 0:
            make(items, visual, out)
        else:
            continue
        assert contents(out) == contents(whole.folder), moment
    assert seen == sorted(seen, key=["old", "between", "new"].index)
    assert seen.count("old") > 8 and seen.count("between") > 3 and seen[-1] == "new"
