"""Data sets of the tokenizer `patches`: pixels in place of codes."""

import shutil
import signal
from pathlib import Path

import numpy as np
import pytest

from tests.children import run_until_write
from tests.tiny import contents, make_images, make_videos, save_patches
from toto.config import read_json
from toto.errors import UserError
from toto.media.sources import read_sources
from toto.media.video import open_media, read_frames
from toto.media.view import View
from toto.studies.datasets import contact_sheet
from toto.studies.inspect import describe
from toto.studies.tokens import study_tokens
from toto.tokenizers.base import load_tokenizer
from toto.tokens.config import Ingest
from toto.tokens.ingest import ingest
from toto.tokens.loader import Sequences, freeze
from toto.tokens.mixture import key_of
from toto.tokens.patches import patchify
from toto.tokens.store import TokenDataset

VIEW = View(stride=2, size=16)


@pytest.fixture(scope="module")
def media(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("media")
    make_videos(folder, [5, 33, 1, 12], side=24, width=40)
    make_images(folder, 3, side=24)
    return folder


@pytest.fixture(scope="module")
def visual(tmp_path_factory) -> Path:
    return save_patches(tmp_path_factory.mktemp("visual") / "tokenizer")


def make(media: Path, visual: Path, out: Path, workers: int = 0, **settings) -> TokenDataset:
    how = Ingest(**{"view": VIEW, "batch": 8, "shard_items": 3} | settings)
    return ingest(read_sources([str(media)]), visual, out, how, "toto tokenize it", workers)


@pytest.fixture(scope="module")
def data(media, visual, tmp_path_factory) -> TokenDataset:
    return make(media, visual, tmp_path_factory.mktemp("pixels") / "data")


def test_what_is_stored_are_the_frames(data, media):
    info = read_json(data.folder / "dataset.json", "a data set")
    assert (info["dtype"], info["grid"], info["codebook_size"]) == ("uint8", [4, 4], 0)
    assert data.is_pixels
    for i in range(len(data)):
        item = data.item(i)
        frames = np.concatenate(list(read_frames(str(media / item.key), VIEW)))
        assert data.codes(item).dtype == np.uint8
        assert (data.codes(item) == frames).all()
    shard = np.load(data.folder / "shards/00000.npy")
    assert shard.dtype == np.uint8 and shard.shape[1:] == (3, 16, 16)
    assert "everything as recorded" in describe(data.folder, deep=True)


def test_bytes_depend_on_no_worker_and_no_kill(media, visual, data, tmp_path):
    whole = contents(data.folder)
    assert contents(make(media, visual, tmp_path / "workers", workers=2).folder) == whole
    arguments = (media, visual, tmp_path / "killed")
    kills = 0
    while run_until_write(30, tmp_path / "killed", make, *arguments) == -signal.SIGKILL:
        kills += 1
    assert kills and contents(tmp_path / "killed") == whole


def test_crops_stand_in_rows_of_their_own(media, visual, tmp_path):
    view = View(stride=2, size=16, crops=2)
    data = make(media, visual, tmp_path / "data", view=view)
    assert len(data) == 14
    for item in data.items(np.arange(len(data))):
        with open_media(str(media / item.key)) as opened:
            frames = np.concatenate(
                list(opened.chunks(view, view.places(key_of("item", item.key))))
            )
        assert (data.codes(item) == frames[:, item.crop]).all()


def test_sequences_are_patches_of_the_very_frames(data):
    read = Sequences(freeze([data], (), 4, 0, "train", 0.0))
    batch = read.batch(0, 8).numpy()
    assert batch.shape == (8, 4 * 16 + 2, 48)
    for index in range(8):
        found = []
        for item, first in read.describe(index):
            found.append(data.codes(item, first, 4 if item.kind == "video" else 1))
        patches = patchify(np.concatenate(found), 4).reshape(-1, 48)
        assert (batch[index, 1 : len(patches) + 1] == patches).all()
        assert not batch[index, len(patches) + 1 :].any()
        assert set(batch[index, 0]) == {3 if item.kind == "image" else 1}


def test_frames_are_decoded_as_training_asks_for_them(media, visual, data, tmp_path):
    """In validation both give the middle of each frame."""
    scanned = make(media, visual, tmp_path / "scan", batch=32, online=True)
    how = (), 4, 0, "validation", 0.99
    stored, online = (Sequences(freeze([part], *how)) for part in (data, scanned))
    with online:
        assert (online.batch(0, 6) == stored.batch(0, 6)).all()


def test_it_is_told_and_shown(data, tmp_path):
    said = describe(data.folder)
    assert "pixels     16x16 a frame, in patches of 4x4" in said
    assert "patches    " in said
    contact_sheet(data, tmp_path / "sheet.png")
    assert (tmp_path / "sheet.png").stat().st_size > 100


def test_what_needs_codes_refuses_pixels(data, visual, tmp_path):
    with pytest.raises(UserError, match="stores pixels, no codes"):
        study_tokens([data.folder], tmp_path / "study")
    with pytest.raises(UserError, match="stores pixels"):
        data.code_counts()


def test_a_size_that_is_no_multiple_is_refused(media, visual, tmp_path):
    with pytest.raises(UserError, match="needs a multiple of 4"):
        make(media, visual, tmp_path / "data", view=View(size=18))


def test_pixels_and_codes_are_not_mixed(data, media, tmp_path):
    other = make(media, save_patches(tmp_path / "eight", 8), tmp_path / "data")
    with pytest.raises(UserError, match="cannot be mixed"):
        freeze([data, other], (), 4, 0, "train", 0.0)


def test_the_tokenizer_is_a_folder_like_others(visual, tmp_path):
    found = load_tokenizer(visual, precision="bf16")
    assert found.fingerprint == load_tokenizer(visual).fingerprint
    assert found.fingerprint != load_tokenizer(save_patches(tmp_path / "eight", 8)).fingerprint
    assert "tokenizer patches" in describe(visual)
    copy = Path(shutil.copytree(visual, tmp_path / "copy"))
    (copy / "model.safetensors").unlink()
    with pytest.raises(UserError, match="does not fit"):
        load_tokenizer(copy)
