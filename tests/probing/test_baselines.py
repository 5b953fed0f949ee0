"""Other encoders beside what `transformers` itself makes of the same pixels."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers as tf
from PIL import Image

from tests.probing import encoders
from toto.errors import UserError
from toto.probing.baselines import is_baseline, load_baseline

PROCESSORS = {
    "dinov2": tf.BitImageProcessorPil,
    "mae": tf.ViTImageProcessorPil,
    "videomae": tf.VideoMAEImageProcessorPil,
    "aimv2": tf.CLIPImageProcessorPil,
    "clip": tf.CLIPImageProcessorPil,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("encoders")
    for kind in encoders.KINDS:
        encoders.save(kind, folder)
    # At its usual size DINOv2 would be slow here.
    for kind in ("dinov2", "dinov2-registers"):
        size = {"do_center_crop": True, "crop_size": {"height": 16, "width": 16}}
        (folder / kind / "preprocessor_config.json").write_text(json.dumps(size))
    return folder


def load(folder: Path, kind: str):
    return load_baseline(f"{kind.split('-')[0]}:{folder / kind}")


def pictures(clips: int, frames: int, height: int, width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    shape = (clips, frames, 3, height, width)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


SPECIAL = {"dinov2": 1, "dinov2-registers": 4, "dinov3": 3, "mae": 1, "clip": 1, "clip-text": 1}


def theirs(kind: str, pixels: torch.Tensor) -> list[torch.Tensor]:
    """`transformers`' own hidden states, special tokens left out, clip by clip."""
    model = encoders.model(kind)
    for name in ("vision_model", "vit", "videomae"):
        model = getattr(model, name, model)
    if kind in ("videomae", "vjepa2"):
        return list(model(pixels, output_hidden_states=True).hidden_states)
    noise = {}
    if kind == "mae":
        model.config.mask_ratio = 0.0
        noise = {"noise": torch.rand(len(pixels) * pixels.shape[1], 16)}
    out = model(pixels.flatten(0, 1), **noise, output_hidden_states=True)
    states = [x[:, SPECIAL.get(kind, 0) :] for x in out.hidden_states]
    if kind == "mae":  # patches stand in the order of their noise
        states = [torch.take_along_dim(x, out.ids_restore[..., None], 1) for x in states]
    return [x.reshape(len(pixels), -1, x.shape[-1]) for x in states]


@torch.no_grad()
@pytest.mark.parametrize("kind", encoders.KINDS)
def test_states_are_those_of_transformers(folder, kind):
    encoder = load(folder, kind)
    frames = pictures(2, 4, 16, 16)
    mean, std = (torch.tensor(x)[:, None, None] for x in (encoder.pixels.mean, encoder.pixels.std))
    expected = theirs(kind, (frames.double() / 255 - mean).div(std).float())
    found = encoder.hidden_states(frames, range(4))
    assert (encoder.layers, encoder.width, encoder.heads) == (3, 24, 2) and len(expected) == 4
    places = (2 if kind in ("videomae", "vjepa2") else 4) * 16
    for layer in range(4):
        assert found[layer].shape == (2, places, 24)
        torch.testing.assert_close(found[layer], expected[layer], atol=1e-4, rtol=1e-4)
    # Places and layers differ: what is compared is not one state again and again.
    assert found[3].std(1).min() > 1e-4 and (found[3] - found[2]).abs().mean() > 1e-3


@torch.no_grad()
@pytest.mark.parametrize("kind", encoders.KINDS)
def test_no_block_above_the_highest_runs(folder, kind):
    encoder, ran = load(folder, kind), []
    for i, block in enumerate(encoder.blocks, 1):
        block.register_forward_hook(lambda *_, i=i: ran.append(i))
    frames = pictures(1, 2, 16, 16)
    every = encoder.hidden_states(frames, [0, 1, 2, 3])
    assert ran == [1, 2, 3]
    for layers, blocks in (([0], []), ([2], [1, 2]), ([2, 0], [1, 2])):
        ran.clear()
        found = encoder.hidden_states(frames, layers)
        assert ran == blocks and set(found) == set(layers)
        assert all(torch.equal(found[layer], every[layer]) for layer in layers)


@pytest.mark.parametrize("kind", PROCESSORS)
def test_pixels_are_those_of_the_processor(folder, tmp_path, kind):
    """Of a picture that is not square and has another size, and with a mean of its own."""
    size = {"height": 16, "width": 16}
    processor = PROCESSORS[kind](
        size=size if kind == "mae" else {"shortest_edge": 16},
        crop_size=size,
        image_mean=[0.4, 0.5, 0.6],
        image_std=[0.2, 0.25, 0.3],
    )
    encoders.save(kind, tmp_path)
    processor.save_pretrained(tmp_path / kind)
    encoder = load(tmp_path, kind)
    # MAE's processor squeezes what is not square, of which ours reads the middle.
    height, width = (40, 40) if kind == "mae" else (40, 60)
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 256, (10, 15, 3), np.uint8))
    picture = small.resize((width, height), Image.Resampling.BICUBIC)
    expected = processor(picture, return_tensors="pt")["pixel_values"].reshape(3, 16, 16)
    frames = torch.from_numpy(np.asarray(picture).transpose(2, 0, 1).copy())[None, None]
    found = encoder.pixels(frames)[0, 0]
    assert encoder.pixels.size == 16 and encoder.pixels.mean == (0.4, 0.5, 0.6)
    # Pillow rounds between columns and rows.
    levels = (found - expected) * torch.tensor([0.2, 0.25, 0.3])[:, None, None] * 255
    assert levels.abs().max() < 2.5 and levels.abs().mean() < 0.5


def test_size_and_pixels_that_no_processor_tells(folder):
    for kind, size in (("mae", 16), ("vjepa2", 16), ("clip", 16), ("dinov3", 16)):
        assert load(folder, kind).pixels.size == size
    assert load(folder, "clip").pixels.mean[0] == pytest.approx(0.48145466)
    assert load(folder, "dinov2").pixels.mean == (0.485, 0.456, 0.406)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["videomae", "vjepa2"])
def test_short_clips_end_with_their_last_frame(folder, kind):
    encoder = load(folder, kind)
    frames = pictures(1, 3, 16, 16)
    longer = torch.cat((frames, frames[:, -1:]), 1)
    short, long = (encoder.hidden_states(x, [3])[3] for x in (frames, longer))
    torch.testing.assert_close(short, long)
    if kind == "videomae":
        with pytest.raises(UserError, match="5 frames: this VideoMAE reads 4"):
            encoder.hidden_states(pictures(1, 5, 16, 16), [1])
    else:
        assert encoder.hidden_states(pictures(1, 6, 16, 16), [1])[1].shape == (1, 48, 24)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["dinov3", "mae", "clip"])
def test_frames_of_image_models_know_nothing_of_each_other(folder, kind):
    encoder = load(folder, kind)
    frames = pictures(2, 3, 16, 16)
    clips = encoder.hidden_states(frames, [2])[2]
    alone = encoder.hidden_states(frames[1:, 2:], [2])[2]
    torch.testing.assert_close(clips[1:, 32:], alone, atol=1e-5, rtol=1e-5)


def test_gradients_reach_the_parameters_below_alone(folder):
    encoder = load(folder, "dinov3")
    frames = pictures(1, 1, 16, 16)
    assert not encoder.hidden_states(frames, [2])[2].requires_grad
    encoder.requires_grad_(True)
    encoder.hidden_states(frames, [2])[2].square().sum().backward()
    reached = [
        all(p.grad is not None for name, p in block.named_parameters()) for block in encoder.blocks
    ]
    assert reached == [True, True, False]


def test_fingerprints_tell_weights_and_pixels_apart(folder, tmp_path):
    first = load(folder, "clip").fingerprint
    assert load(folder, "clip").fingerprint == first
    encoders.save("clip", tmp_path)
    assert load(tmp_path, "clip").fingerprint == first
    (tmp_path / "clip" / "preprocessor_config.json").write_text('{"image_mean": [0.5, 0.5, 0.5]}')
    assert load(tmp_path, "clip").fingerprint != first
    found = {load(folder, kind).fingerprint for kind in encoders.KINDS}
    assert len(found) == len(encoders.KINDS) and all(len(x) == 16 for x in found)


def test_what_is_no_encoder(folder, tmp_path, monkeypatch):
    for name, said in (
        ("dinov4:x", "did you mean 'dinov"),
        ("clip:", "a folder, or a name"),
        (f"clip:{folder / 'mae'}", "model_type is 'vit_mae', not clip or clip_vision_model"),
        (f"clip:{tmp_path}", "cannot be opened"),
    ):
        with pytest.raises(UserError, match=said):
            load_baseline(name)
    encoders.save("dinov2", tmp_path)
    path = tmp_path / "dinov2" / "model.safetensors"
    from safetensors.torch import load_file, save_file

    weights = load_file(path)
    save_file({k: v for k, v in weights.items() if ".layer.1." not in k}, path, {"format": "pt"})
    with pytest.raises(UserError, match=r"lacks weights, like encoder\.layer\.1"):
        load(tmp_path, "dinov2")
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match="cannot be opened"):
        load(tmp_path, "dinov2")
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(UserError, match=r"toto\[hf\]"):
        load_baseline("clip:x")


def test_which_names_are_those_of_encoders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert all(is_baseline(name) for name in ("mae:some/where", "clip:/some/where", "dinov4:x"))
    (tmp_path / "clip:x").mkdir()
    assert not any(is_baseline(name) for name in ("runs/a", "clip", "C:/models/mae", "clip:x"))
