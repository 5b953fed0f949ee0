"""Pixels and codes of the same frames, joined by key."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.tiny import make_images, make_videos, save_patches, save_tokenizer, tokenizer
from toto.errors import UserError
from toto.media.sources import read_sources
from toto.media.view import View
from toto.tokens.config import Ingest
from toto.tokens.ingest import ingest
from toto.tokens.joined import join
from toto.tokens.loader import Sequences, freeze
from toto.tokens.store import TokenDataset

VIEW = View(stride=2, size=16, crops=2)


def make(source: str, visual: Path, out: Path, view: View = VIEW, **how) -> TokenDataset:
    settings = Ingest(view, **how)
    return ingest(read_sources([source]), visual, out, settings, "toto tokenize", workers=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Videos and images; the same in shards of other sizes, of pixels and of codes."""
    folder = tmp_path_factory.mktemp("joined")
    make_videos(folder / "media", [5, 33, 1, 12, 9, 20], side=24, width=40)
    make_images(folder / "media", 9, side=24)
    source = str(folder / "media")
    make(source, save_patches(folder / "patches"), folder / "pixels", shard_items=4)
    make(source, save_tokenizer(folder / "tokenizer"), folder / "codes", shard_items=7)
    return folder


@pytest.fixture(scope="module")
def pixels(folder) -> TokenDataset:
    return TokenDataset(folder / "pixels")


@pytest.fixture(scope="module")
def codes(folder) -> TokenDataset:
    return TokenDataset(folder / "codes")


@pytest.mark.parametrize("frames", [1, 4])
def test_targets_are_the_codes_of_the_very_pixels(pixels, codes, frames):
    read = Sequences(freeze([pixels], (), frames, 3, "train", 0.0, targets=[codes]))
    visual = tokenizer()
    patches, targets = read.batch(5, 12), read.target_batch(5, 12)
    assert patches.shape[:2] == targets.shape == (12, frames * 16 + 2)
    lengths = read.lengths(5, 12)
    assert frames == 1 or (lengths < frames).any()
    assert (targets[:, 0] == patches[:, 0, 0]).all()
    for i, length in enumerate(lengths.tolist()):
        stored = torch.from_numpy(read.codes(5 + i))
        expected = visual.encode(stored).flatten() + 4
        assert torch.equal(targets[i, 1 : 1 + 16 * length], expected)
        assert targets[i, 1 + 16 * length] == 2
        assert not targets[i, 2 + 16 * length :].any()


def test_a_subset_in_another_order_finds_its_codes(folder, codes, tmp_path):
    part = tmp_path / "part.csv"
    lines = [f"{folder}/media/video00{i}.mp4 x" for i in (4, 1, 3)]
    part.write_text("\n".join(lines))
    whole = tmp_path / "whole.csv"
    whole.write_text("\n".join(sorted([*lines, f"{folder}/media/video000.mp4 x"])))
    some = make(str(part), folder / "patches", tmp_path / "some")
    more = make(str(whole), folder / "tokenizer", tmp_path / "more")
    rows = join(some, more)
    for ours, theirs in zip(some.items(np.arange(len(some))), more.items(rows), strict=True):
        assert (ours.key, ours.crop, ours.frames) == (theirs.key, theirs.crop, theirs.frames)
    every = make(str(whole), folder / "patches", tmp_path / "every")
    fewer = make(str(part), folder / "tokenizer", tmp_path / "fewer")
    with pytest.raises(UserError, match=r"does not hold .*video000.*and 1 more of"):
        join(every, fewer)


def test_larger_pixels_on_the_same_grid_are_joined(folder, codes, tmp_path):
    view = replace(VIEW, size=32)
    large = make(str(folder / "media"), save_patches(tmp_path / "p", 8), tmp_path / "x", view)
    assert join(large, codes).tolist() == list(range(len(codes)))


@pytest.mark.parametrize(
    ("view", "patch", "said"),
    [
        (replace(VIEW, stride=3), 4, r"view.stride 2, not 3|stride 2, not 3"),
        (replace(VIEW, seed=1), 4, "seed 0, not 1"),
        (VIEW, 8, r"has a grid of \(2, 2\)"),
        (replace(VIEW, crops=0), 4, "crops 2, not 0"),
    ],
)
def test_other_frames_are_refused(folder, codes, tmp_path, view, patch, said):
    other = make(str(folder / "media"), save_patches(tmp_path / "p", patch), tmp_path / "x", view)
    with pytest.raises(UserError, match=said):
        join(other, codes)


def test_other_kinds_are_refused(folder, pixels, codes, tmp_path):
    with pytest.raises(UserError, match="codes: targets are joined to pixels alone"):
        freeze([codes], (), 4, 0, "train", 0.0, targets=[codes])
    with pytest.raises(UserError, match="pixels: targets are codes"):
        freeze([pixels], (), 4, 0, "train", 0.0, targets=[pixels])
    view = replace(VIEW, crops=0)
    scanned = make(str(folder / "media"), folder / "patches", tmp_path / "s", view, online=True)
    with pytest.raises(UserError, match="stores nothing to be joined"):
        join(scanned, codes)


def test_another_video_under_the_same_name_is_refused(folder, codes, tmp_path):
    make_videos(tmp_path / "media", [5, 30, 1, 12, 9, 20], side=24, width=40)
    make_images(tmp_path / "media", 9, side=24)
    other = make(str(tmp_path / "media"), folder / "patches", tmp_path / "x")
    with pytest.raises(UserError, match=r"other frames or another crop of video001.mp4, crop 0"):
        join(other, codes)


def test_another_file_of_the_same_name_and_length_is_refused(folder, codes, tmp_path):
    shutil.copytree(folder / "media", tmp_path / "media")
    other = make(str(tmp_path / "media"), folder / "patches", tmp_path / "x")
    with pytest.raises(
        UserError, match=r"was made of another file for image000.png, crop 0 and 29 more"
    ):
        join(other, codes)


def test_a_target_that_changes_under_a_run_is_refused(folder, pixels, codes):
    manifest = freeze([pixels], (), 4, 0, "train", 0.0, targets=[codes])
    entries = tuple(replace(entry, target_fingerprint="0" * 16) for entry in manifest.entries)
    with pytest.raises(UserError, match=f"{codes.folder} has changed under this run"):
        Sequences(replace(manifest, entries=entries))
