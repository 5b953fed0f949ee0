import argparse
import json
import sys
import types
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from tests.commands import made, toto
from tests.tokenizers.reference_diffusers import VQModel
from tests.tokenizers.reference_vqgan import Reference, Shape, Weights, random_weights
from toto.errors import UserError
from toto.tokenizers.base import load_tokenizer
from toto.tokenizers.taming import convert_taming

NARROW = {"ch": 32, "resolution": 64, "attn_resolutions": (4,)}  # f16 otherwise


def lightning_checkpoint(path: Path, weights: Weights) -> Path:
    """What Lightning 1.0 leaves: weights, the loss' networks, optimizers, a class for a key."""
    name = "pytorch_lightning.callbacks.model_checkpoint"
    package = [types.ModuleType(name.rsplit(".", i)[0]) for i in (2, 1)]
    module = types.ModuleType(name)
    callback = type("ModelCheckpoint", (), {"__module__": name})
    module.ModelCheckpoint = callback
    networks = {
        "loss.perceptual_loss.scaling_layer.shift": torch.randn(1, 3, 1, 1),
        "loss.perceptual_loss.lin0.model.1.weight": torch.randn(1, 4, 1, 1),
        "loss.discriminator.main.0.weight": torch.randn(4, 3, 4, 4),
    }
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.randn(3))])
    checkpoint = {
        "epoch": 3,
        "global_step": 1000,
        "pytorch-lightning_version": "1.0.8",
        "callbacks": {callback: {"best_model_score": torch.tensor(0.3), "best_model_path": "x"}},
        "optimizer_states": [optimizer.state_dict()],
        "lr_schedulers": [],
        "state_dict": weights | networks,
    }
    modules = dict(zip([m.__name__ for m in package] + [name], [*package, module], strict=True))
    sys.modules |= modules
    try:
        torch.save(checkpoint, path)
    finally:
        for one in modules:
            del sys.modules[one]
    return path


def model_yaml(path: Path, shape: Shape, **changes: object) -> Path:
    network = {
        "double_z": False,
        "z_channels": shape.z_channels,
        "resolution": shape.resolution,
        "in_channels": 3,
        "out_ch": 3,
        "ch": shape.ch,
        "ch_mult": list(shape.ch_mult),
        "num_res_blocks": shape.num_res_blocks,
        "attn_resolutions": list(shape.attn_resolutions),
        "dropout": 0.0,
    }
    values = {"embed_dim": shape.embed_dim, "n_embed": shape.n_embed, "ddconfig": network}
    model = {"target": "taming.models.vqgan.VQModel", "params": values | changes}
    path.write_text(yaml.safe_dump({"model": {"base_learning_rate": 4.5e-6} | model}))
    return path


def llamagen_weights(weights: Weights, levels: int) -> Weights:
    """Under LlamaGen's names, whose decoder counts resolutions the other way."""
    renamed = {"quantize.codebook_used": torch.zeros(65536)}
    for name, value in weights.items():
        words = name.split(".")
        if words[1] in ("down", "up"):
            number = int(words[2])
            words[2] = str(number if words[1] == "down" else levels - 1 - number)
            words[1] = "conv_blocks"
            words[3] = {"block": "res"}.get(words[3], words[3])
        elif words[1] == "mid":
            words[2] = str(["block_1", "attn_1", "block_2"].index(words[2]))
        renamed[".".join(words)] = value
    return renamed


def diffusers_folder(folder: Path, model: VQModel, **changes: object) -> tuple[Path, Path]:
    """Weights and config.json as `save_pretrained` leaves them."""
    folder.mkdir()
    weights, config = folder / "diffusion_pytorch_model.safetensors", folder / "config.json"
    save_file(model.state_dict(), weights)
    config.write_text(json.dumps(model.config() | changes))
    return weights, config


def assert_same(folder: Path, reference: Reference | VQModel, side: int, count: int = 2) -> None:
    """Codes identical, images to rounding."""
    converted = load_tokenizer(folder)
    blocks = torch.randint(256, (count, 3, side // 8, side // 8), dtype=torch.uint8)
    frames = blocks.repeat_interleave(8, 2).repeat_interleave(8, 3)
    codes = converted.encode(frames)
    assert torch.equal(codes, reference.encode(frames))
    assert len(codes.unique()) >= 6
    image = reference.decode(codes)
    torch.testing.assert_close(converted.decode(codes).float(), image.round(), rtol=0, atol=1)
    assert (converted.decode(codes).float() != image.round()).float().mean() < 0.01


@pytest.mark.parametrize("codes", [1024, 16_384])
def test_compvis_checkpoints(tmp_path, codes):
    shape = Shape(codes, **NARROW)
    weights = random_weights(shape)
    checkpoint = lightning_checkpoint(tmp_path / "last.ckpt", weights)
    config = model_yaml(tmp_path / "model.yaml", shape)
    convert_taming(checkpoint, config, tmp_path / "out")
    assert_same(tmp_path / "out", Reference(shape, weights), 64)
    assert load_tokenizer(tmp_path / "out").codebook_size == codes


@pytest.mark.slow
@pytest.mark.parametrize("codes", [1024, 16_384])
def test_compvis_checkpoints_at_their_size(tmp_path, codes):
    shape = Shape(codes)
    weights = random_weights(shape)
    checkpoint = lightning_checkpoint(tmp_path / "last.ckpt", weights)
    convert_taming(checkpoint, model_yaml(tmp_path / "model.yaml", shape), tmp_path / "out")
    assert_same(tmp_path / "out", Reference(shape, weights), 256, count=1)


@pytest.mark.parametrize("multipliers", [(1, 1, 2, 2, 4), (1, 2, 2, 4)])
@pytest.mark.parametrize("place", ["model", "ema"])
def test_llamagen_checkpoints(tmp_path, multipliers, place):
    levels = len(multipliers)
    shape = Shape(512, 8, 32, multipliers, 2, (64 >> (levels - 1),), 64)
    weights = random_weights(shape)
    other = llamagen_weights(random_weights(shape, seed=1), levels)
    found = {"steps": 9, "args": argparse.Namespace(vq_model="VQ-16"), "model": other}
    torch.save(found | {place: llamagen_weights(weights, levels)}, tmp_path / "vq.pt")
    convert_taming(tmp_path / "vq.pt", None, tmp_path / "out")
    assert_same(tmp_path / "out", Reference(shape, weights, unit=True), 64)


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("groups", [32, 8])
def test_diffusers_folders(tmp_path, groups, first):
    torch.manual_seed(0)
    model = VQModel(Shape(300, 8, 32, (1, 2, 2), 2, (16, 64), 64, 16), groups, first)
    files = diffusers_folder(tmp_path / "vqvae", model)
    convert_taming(*files, tmp_path / "out")
    assert_same(tmp_path / "out", model, 64)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"norm_type": "spatial"}, "has norm_type 'spatial': we compute 'group' alone"),
        ({"act_fn": "mish"}, "has act_fn 'mish'"),
        ({"mid_block_add_attention": False}, "has mid_block_add_attention False"),
        ({"in_channels": 4}, "has in_channels 4"),
        ({"num_vq_embeddings": 301}, "has codebook_size 20, not 301 as .*config.json says"),
        ({"down_block_types": ["DownEncoderBlock2D"] * 2}, r"has attention \[1\], not \[\] as"),
        ({"norm_num_groups": 64}, "width 32 x 1 is no multiple of norm_groups 64"),
        ({"vq_embed_dim": None}, "has code_width 4, not 8 as"),
        ({"block_out_channels": []}, "does not describe a VQGAN"),
        ({"block_out_channels": [0, 0]}, "does not describe a VQGAN"),
        ({"down_block_types": 3}, "does not describe a VQGAN"),
    ],
)
def test_a_vqmodel_that_is_another_is_refused(tmp_path, changes, said):
    files = diffusers_folder(tmp_path / "vqvae", VQModel(SMALL), **changes)
    refused(*files, tmp_path / "out", said)


def test_a_vqmodel_needs_its_configuration(tmp_path):
    weights, _ = diffusers_folder(tmp_path / "vqvae", VQModel(SMALL))
    refused(weights, None, tmp_path / "out", "it needs the config.json beside it as --config")


def test_a_decoder_with_other_attention_is_refused(tmp_path):
    weights, config = diffusers_folder(tmp_path / "vqvae", VQModel(SMALL))
    others = VQModel(Shape(20, 4, 32, (1, 2), 1, (), 16, 8)).state_dict()
    mixed = {n: v for n, v in others.items() if n.startswith("decoder")}
    mixed |= {n: v for n, v in VQModel(SMALL).state_dict().items() if not n.startswith("decoder")}
    save_file(mixed, weights)
    refused(weights, config, tmp_path / "out", r"decoder.up.1.attn.0.* is missing")


@pytest.mark.parametrize(
    "prefix", ["module.", "first_stage_model.", "_orig_mod.", "_orig_mod.module.", "a.b.c."]
)
@pytest.mark.parametrize("of", ["CompVis", "LlamaGen", "diffusers"])
def test_what_stands_before_all_names_is_left_out(tmp_path, prefix, of):
    model = VQModel(SMALL)
    weights = model.state_dict() if of == "diffusers" else random_weights(SMALL)
    if of == "LlamaGen":
        weights = llamagen_weights(weights, 2)
    (tmp_path / "config.json").write_text(json.dumps(model.config()))
    config = tmp_path / "config.json" if of == "diffusers" else None
    wrapped = {prefix + name: value for name, value in weights.items()}
    # Of other models in the same file.
    wrapped |= {
        "cond_stage_model.encoder.conv_in.weight": torch.zeros(3),
        "encoder.x": torch.ones(1),
    }
    save_file(weights, tmp_path / "plain.safetensors")
    torch.save({"state_dict": wrapped}, tmp_path / "wrapped.ckpt")
    convert_taming(tmp_path / "plain.safetensors", config, tmp_path / "plain")
    convert_taming(tmp_path / "wrapped.ckpt", config, tmp_path / "out")
    plain, out = load_tokenizer(tmp_path / "plain"), load_tokenizer(tmp_path / "out")
    assert out.fingerprint == plain.fingerprint


def test_of_two_models_with_prefixes_neither_is_guessed(tmp_path):
    weights = random_weights(SMALL)
    both = {f"{p}.{name}": value for name, value in weights.items() for p in ("teacher", "student")}
    torch.save(both, tmp_path / "x.pt")
    said = r"holds 2 codebooks, under student\., teacher\.: which one"
    refused(tmp_path / "x.pt", None, tmp_path / "out", said)
    # Without a prefix is the model itself.
    torch.save(weights | both, tmp_path / "x.pt")
    convert_taming(tmp_path / "x.pt", None, tmp_path / "out")


@pytest.mark.parametrize("empty", [{}, {"decay": 0.999}, None, {3: torch.zeros(1)}])
def test_an_empty_running_mean_hides_nothing(tmp_path, empty):
    weights = random_weights(SMALL)
    torch.save({"ema": empty, "model": weights}, tmp_path / "x.pt")
    convert_taming(tmp_path / "x.pt", None, tmp_path / "out")
    stored = load_file(tmp_path / "out/model.safetensors")
    assert torch.equal(stored["encoder.conv_in.weight"], weights["encoder.conv_in.weight"])


def test_lpips_comes_with_compvis_checkpoints(tmp_path):
    checkpoint = lightning_checkpoint(tmp_path / "last.ckpt", random_weights(SMALL))
    convert_taming(checkpoint, None, tmp_path / "out", tmp_path / "lpips.safetensors")
    (found,) = load_file(tmp_path / "lpips.safetensors").items()
    assert (found[0], found[1].shape) == ("lin0.model.1.weight", (1, 4, 1, 1))
    torch.save(random_weights(SMALL), tmp_path / "bare.pt")
    with pytest.raises(UserError, match=r"bare\.pt holds no weights of LPIPS"):
        convert_taming(tmp_path / "bare.pt", None, tmp_path / "other", tmp_path / "x.safetensors")
    assert not (tmp_path / "other").exists()


SMALL = Shape(20, 4, 32, (1, 2), 1, (8,), 16, 8)


@pytest.fixture
def good(tmp_path) -> tuple[Path, Path]:
    checkpoint = lightning_checkpoint(tmp_path / "last.ckpt", random_weights(SMALL))
    config = model_yaml(tmp_path / "model.yaml", SMALL)
    convert_taming(checkpoint, config, tmp_path / "good")
    return checkpoint, config


def refused(checkpoint: Path, config: Path | None, out: Path, said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        convert_taming(checkpoint, config, out)
    assert "\n" not in str(caught.value)
    assert not out.exists()
    assert not list(out.parent.glob(".*"))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"n_embed": 1024}, "has codebook_size 20, not 1024 as .*model.yaml says"),
        ({"embed_dim": 256}, "has code_width 4, not 256 as"),
        ({"remap": "x.npy"}, "double_z and remap"),
        ({"n_embed": "many"}, "expected int, not 'many'"),
        ({"ddconfig": None}, "does not describe a VQGAN"),
        ({"ddconfig": {"ch": 32}}, "does not describe a VQGAN: it has no ch_mult"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(good, tmp_path, changes, said):
    model_yaml(good[1], SMALL, **changes)
    refused(*good, tmp_path / "out", said)


@pytest.mark.parametrize("text", ["", "model: [", "model: 3", "!!python/name:os.system", "[1]"])
def test_files_that_configure_nothing_are_refused(good, tmp_path, text):
    good[1].write_text(text)
    refused(*good, tmp_path / "out", r"model\.yaml")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda w: {"a": torch.zeros(3)}, r"holds no VQGAN: it is a dict of 4 \(a, loss"),
        (lambda w: without(w, "decoder.up.1.block.0.conv1.bias"), "conv1.bias is missing"),
        (lambda w: without(w, "quantize.embedding.weight"), "has no quantize.embedding.weight"),
        (lambda w: without(w, "encoder.conv_in.weight"), "has no encoder.conv_in.weight"),
        (lambda w: w | {"quant_conv.bias": torch.zeros(9)}, r"quant_conv.bias is \[9\], not \[4\]"),
        (lambda w: w | {"encoder.extra": torch.zeros(9)}, "encoder.extra is unknown"),
        (
            lambda w: w | {"decoder.conv_blocks.x.res.0": torch.zeros(9)},
            "conv_blocks.x.res.0 is unk",
        ),
        (lambda w: w | {"encoder.conv_in.weight": torch.zeros(())}, r"conv_in.weight is \[\], not"),
        *(
            (lambda w, size=size: w | {"quantize.embedding.weight": torch.zeros(size)}, said)
            for size, said in {
                (9,): r"x.ckpt .*quantize.embedding.weight is \[9\], not of 2 dimensions",
                (0, 4): r"x.ckpt .*quantize.embedding.weight is \[0, 4\]",
                (70_000, 4): r"x.ckpt .*codebook_size 70000.*embedding.weight is \[70000, 4\]",
            }.items()
        ),
        (
            lambda w: w | {"encoder.conv_in.weight": torch.zeros(20, 3, 3, 3)},
            r"x.ckpt .*down.0.block.0.conv1.weight has 32 channels, no multiple of the 20",
        ),
        (
            lambda w: w | {"encoder.conv_in.weight": torch.zeros(16, 3, 3, 3)},
            r"x.ckpt .*width 16 x 1 is no multiple.*\(encoder.conv_in.weight is \[16, 3, 3, 3\]",
        ),
        *(
            (lambda w, bad=bad: w | {"quant_conv.bias": torch.tensor([0, bad, 0, 0])}, said)
            for bad, said in [
                (float("nan"), "x.ckpt is of no use: quant_conv.bias holds NaN or infinity"),
                (float("inf"), "quant_conv.bias holds NaN"),
                (torch.tensor(1e300, dtype=torch.float64), "quant_conv.bias holds NaN"),
            ]
        ),
        (
            lambda w: w | {f"decoder.up_blocks.{'9' * 5000}.resnets.0.conv1.bias": torch.zeros(1)},
            r"does not fit: decoder\.up_blocks\.9999",
        ),
    ],
)
def test_foreign_weights_are_refused(tmp_path, change, said):
    weights = change(random_weights(SMALL))
    refused(lightning_checkpoint(tmp_path / "x.ckpt", weights), None, tmp_path / "out", said)


def without(weights: Weights, name: str) -> Weights:
    return {other: value for other, value in weights.items() if other != name}


def test_damaged_and_foreign_files_are_refused(good, tmp_path):
    whole, out = good[0].read_bytes(), tmp_path / "out"
    for part in (0, 10, len(whole) // 2, len(whole) - 100):
        (tmp_path / "cut.ckpt").write_bytes(whole[:part])
        refused(tmp_path / "cut.ckpt", None, out, "cut.ckpt")
        (tmp_path / "cut.safetensors").write_bytes(whole[:part])
        refused(tmp_path / "cut.safetensors", None, out, "cut.safetensors cannot be read: ")
    for name in ("nowhere.ckpt", "nowhere.safetensors"):
        refused(tmp_path / name, None, out, "No such file")
    for found in ([1, 2], {"state_dict": 3}, torch.zeros(3)):
        torch.save(found, tmp_path / "x.pt")
        refused(tmp_path / "x.pt", None, out, "holds no")
    torch.save({"state_dict": {}, "more": argparse.ArgumentError}, tmp_path / "x.pt")
    refused(tmp_path / "x.pt", None, out, "refused, and nothing of it was run")
    with pytest.raises(UserError, match="good holds something already: choose another"):
        convert_taming(*good, tmp_path / "good")


def test_the_command(good, tmp_path):
    command = "tokenizer convert taming last.ckpt --config model.yaml --out".split()
    assert made(tmp_path, *command, "new") == ["new"]
    converted, same = load_tokenizer(tmp_path / "new"), load_tokenizer(tmp_path / "good")
    assert converted.fingerprint == same.fingerprint
    model_yaml(good[1], SMALL, n_embed=7)
    done = toto(tmp_path, *command, "other")
    assert done.returncode == 2
    assert done.stderr.startswith("toto: last.ckpt has codebook_size 20, not 7 as model.yaml says")
    assert done.stderr.count("\n") == 1
