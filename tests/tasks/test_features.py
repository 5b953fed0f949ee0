"""Features of other encoders as files, by the command."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from tests.probing import encoders
from tests.tiny import contents, make_dataset, make_images, make_videos, save_tokenizer
from toto.cli.models import features
from toto.cli.tokenizers import tokenizer_patches
from toto.errors import UserError
from toto.media.video import read_clip
from toto.media.view import View
from toto.probing.baselines import load_baseline

LENGTHS = (40, 80, 30)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("features")
    for kind in ("dinov3", "videomae"):
        encoders.save(kind, folder)
    make_videos(folder / "videos", LENGTHS, side=24)
    return folder


def write(folder: Path, kind: str, source: str, out: Path, **how: str) -> dict[str, torch.Tensor]:
    features(Path(f"{kind}:{folder / kind}"), source, out, workers=0, device="cpu", **how)
    return load_file(out / "00000.safetensors")


@torch.no_grad()
@pytest.mark.parametrize("kind", ["dinov3", "videomae"])
def test_features_are_states_of_the_middle_clips(folder, tmp_path, kind):
    found = write(folder, kind, str(folder / "videos"), tmp_path / "out", layers="1,3", pool="none")
    encoder, view = load_baseline(f"{kind}:{folder / kind}"), View(size=16)
    frames = 16 if kind == "dinov3" else 4
    for row, item in enumerate(pq.read_table(tmp_path / "out" / "items.parquet").to_pylist()):
        kept = -(-LENGTHS[row] // view.stride)
        first = max(kept - frames, 0) // 2
        assert item["key"].endswith(f"video{row:03d}.mp4") and item["first_frame"] == first
        clip = read_clip(str(folder / "videos" / f"video{row:03d}.mp4"), first, frames, view)
        clip = np.concatenate((clip, clip[-1:].repeat(frames - len(clip), 0)))
        states = encoder.hidden_states(torch.from_numpy(clip)[None], [1, 3])
        for layer in (1, 3):
            ours = found[f"layer_{layer}"][row]
            assert ours.shape == states[layer][0].shape
            error = (ours - states[layer][0]).norm() / states[layer].norm()
            assert error < 0.02  # a CPU may compute in bf16


def test_features_go_on_and_data_of_pixels_serve_too(folder, tmp_path):
    out = tmp_path / "out"
    found = write(folder, "dinov3", str(folder / "videos"), out)
    assert found["layer_0"].shape == (3, 24) and len(found) == 4
    before = contents(out)
    (out / "00000.safetensors").unlink()
    write(folder, "dinov3", str(folder / "videos"), out)
    assert contents(out) == before
    again = write(folder, "dinov3", str(out / "tokens"), tmp_path / "again")
    assert all(torch.equal(again[name], found[name]) for name in found)
    # Of another size they are resized.
    tokenizer_patches(tmp_path / "patches", patch=4)
    make_dataset(folder / "videos", tmp_path / "patches", tmp_path / "larger", side=20)
    larger = write(folder, "dinov3", str(tmp_path / "larger"), tmp_path / "of-larger")
    assert larger["layer_3"].shape == (3, 24)


def test_an_image_is_one_frame(folder, tmp_path):
    make_images(tmp_path / "images", 3)
    found = write(folder, "dinov3", str(tmp_path / "images"), tmp_path / "out", pool="none")
    assert found["layer_2"].shape == (3, 16, 24)


def test_codes_are_not_read(folder, tmp_path):
    save_tokenizer(tmp_path / "tokenizer")
    make_dataset(folder / "videos", tmp_path / "tokenizer", tmp_path / "codes")
    with pytest.raises(UserError, match="stores codes, this encoder reads pixels"):
        write(folder, "dinov3", str(tmp_path / "codes"), tmp_path / "out")
    with pytest.raises(UserError, match="unknown encoder 'dinov4'"):
        write(folder, "dinov4", str(tmp_path / "codes"), tmp_path / "out")
