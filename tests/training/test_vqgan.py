import json
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from tests.commands import ENVIRONMENT, TOTO
from tests.tiny import make_images
from tests.training.test_loop import kill_everywhere
from tests.training.test_parallel import TORCHRUN
from tests.training.toys import LOOP
from toto.config import from_dict, to_dict
from toto.errors import UserError
from toto.recipes.tokenizer import RECIPES
from toto.tokenizers.base import load_tokenizer
from toto.tokenizers.sizes import VQGANSize
from toto.tokenizers.vqgan import to_signed
from toto.training.config import AdamW, TrainTokenizer, TrainVQGAN
from toto.training.loop import train
from toto.training.metrics import read_metrics
from toto.training.objectives.discriminator import PatchDiscriminator, hinge
from toto.training.objectives.perceptual import Perceptual
from toto.training.objectives.vqgan import TrainVQGANObjective
from toto.training.runs import resume, train_tokenizer
from toto.training.world import World

VECTORS = VQGANSize(
    codebook_size=16,
    code_width=4,
    latent_width=8,
    width=8,
    multipliers=(1, 2),
    blocks=1,
    attention=(),
    norm_groups=2,
    patch=2,
)
SCALARS = replace(VECTORS, codebook_size=15, levels=(5, 3))
RECIPE = TrainVQGAN(
    tokenizer=VECTORS,
    loop=LOOP,
    optimizer=AdamW(learning_rate=3e-3, warmup_steps=2, betas=(0.9, 0.99), weight_decay=0.0),
    size=8,
    batch=8,
    micro_batch=4,
    revive_every=3,
    revive_frames=24,
    adversarial_start=4,
    discriminator_width=8,
    discriminator_layers=1,
    ema_decay=0.8,
)


def frames(count: int, seed: int) -> np.ndarray:
    """Frames of 8x8 pixels, each quarter of one grey."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, 1, 2, 2), np.uint8).repeat(3, 1).repeat(4, 2).repeat(4, 3)


def vqgan(config: TrainVQGAN = RECIPE) -> TrainVQGANObjective:
    return TrainVQGANObjective(config, frames(48, seed=1), frames(6, seed=2))


def scalars() -> TrainVQGANObjective:
    return vqgan(replace(RECIPE, tokenizer=SCALARS))


def run_vqgan(run: Path) -> None:
    train(vqgan(), LOOP, run, "test")


def run_scalars(run: Path) -> None:
    train(scalars(), LOOP, run, "test")


@pytest.mark.parametrize(
    ("build", "function"),
    [(vqgan, run_vqgan), pytest.param(scalars, run_scalars, marks=pytest.mark.slow)],
    ids=["vectors", "scalars"],
)
def test_a_kill_at_any_write_changes_no_bit(build, function, tmp_path):
    """Before the discriminator begins, and after."""
    function(tmp_path / "whole")
    moments = kill_everywhere(
        tmp_path / "whole", build, function, folder=tmp_path / "killed", every=6
    )
    assert moments > 8
    rows = [row for row in read_metrics(tmp_path / "whole") if "loss" in row]
    assert [row["discriminator_loss"] > 0 for row in rows] == [step >= 4 for step in range(10)]


@pytest.mark.parametrize(
    "size", [replace(VECTORS, unit_codes=True), SCALARS], ids=["vectors", "scalars"]
)
def test_it_learns_and_its_running_mean_is_saved(size, tmp_path):
    loop = replace(LOOP, steps=240, validate_every=60, checkpoint_every=240, log_every=10)
    objective = vqgan(
        replace(RECIPE, loop=loop, tokenizer=size, micro_batch=8, adversarial_start=210)
    )
    train(objective, loop, tmp_path, "test")
    rows = [row for row in read_metrics(tmp_path) if "psnr" in row]
    assert rows[-1]["psnr"] > rows[0]["psnr"] + 1
    saved = load_tokenizer(tmp_path / "tokenizer").state_dict()
    latest, mean = objective.vqgan.state_dict(), objective.mean.module.state_dict()
    assert all(torch.equal(saved[name], mean[name]) for name in saved)
    assert any(not torch.equal(saved[name], latest[name]) for name in saved)


def test_unused_codes_are_put_where_latents_are_far_from_theirs():
    size = replace(VECTORS, codebook_size=64)
    config = replace(RECIPE, revive_every=1, revive_frames=48, tokenizer=size)
    objective = vqgan(config)
    quantizer = objective.vqgan.quantize
    with torch.no_grad():
        pixels = to_signed(torch.from_numpy(objective.train))
        latents = objective.vqgan.latents(pixels)
        before = quantizer.embedding.weight.clone()
        used = quantizer.codes(latents).unique()
        objective.after_step(0)
        after, codes = quantizer.embedding.weight, quantizer.codes(latents)
    assert len(used) < 10
    assert torch.equal(after[used], before[used])
    assert len(codes.unique()) > 40
    rows = latents.movedim(1, -1).flatten(0, 2)
    moved = [i for i in range(64) if i not in used.tolist()]
    distances = (after[moved][:, None] - rows).norm(dim=2)
    assert distances.amin(1).max() < 1e-5
    again = vqgan(config)
    again.after_step(0)
    assert torch.equal(again.vqgan.quantize.embedding.weight, after)


def test_a_run_is_rebuilt_from_its_config_alone(tmp_path):
    """Of both kinds of codes; another recipe in the same folder is refused."""
    source = make_images(tmp_path / "images", 30, side=8)
    for name, size in (("vectors", VECTORS), ("scalars", SCALARS)):
        recipe = replace(RECIPE, tokenizer=size, source=(str(source),), pool=24)
        run = tmp_path / name
        train_tokenizer(recipe, run, 0)
        whole = (run / "tokenizer/model.safetensors").read_bytes()
        (run / "checkpoints/step-000010").rename(run / "away")
        resume(TrainTokenizer, run, 0)
        assert (run / "tokenizer/model.safetensors").read_bytes() == whole
        assert json.loads((run / "config.json").read_text())["kind"] == "vqgan"
        with pytest.raises(UserError, match="adversarial_start 4, not 5"):
            train_tokenizer(replace(recipe, adversarial_start=5), run, 0)


@pytest.mark.slow
def test_two_processes_take_the_course_of_one(tmp_path):
    make_images(tmp_path / "images", 40, side=16)
    settings = (
        "tokenizer train vqgan-demo --source images --steps 8 --device cpu --precision fp32 "
        "--log-every 1 --size 16 --width 8 --norm-groups 2 --pool 36 --batch 8 --micro-batch 2 "
        "--codebook-size 16 --revive-every 3 --revive-frames 20 --adversarial-start 4 --workers 1 "
        "--discriminator-layers 1 --validation-frames 4 --warmup-steps 2 --run"
    ).split()
    torchrun = [*TORCHRUN, "--standalone", "--nproc-per-node=2", "--"]
    for start, run in (([], "alone"), (torchrun, "pair")):
        command = [*start, TOTO, *settings, run]
        subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, check=True, timeout=240)
    rows, others = (
        [row for row in read_metrics(tmp_path / run) if "loss" in row] for run in ("alone", "pair")
    )
    assert len(rows) == len(others) == 8
    for row, its in zip(rows, others, strict=True):
        for name in ("loss", "error", "commitment", "adversarial", "discriminator_loss"):
            assert row[name] == pytest.approx(its[name], rel=1e-3, abs=1e-5), (row["step"], name)
    one, other = (load_tokenizer(tmp_path / run / "tokenizer") for run in ("alone", "pair"))
    for name, values in one.state_dict().items():
        torch.testing.assert_close(values, other.state_dict()[name], rtol=1e-2, atol=1e-3)


def gradients(objective: TrainVQGANObjective, step: int) -> dict[str, torch.Tensor]:
    for phase in objective.phases:
        phase.module.zero_grad(set_to_none=True)
    for batch in objective.batches(step):
        objective.loss(batch, step)[0].backward()
    return {name: p.grad.clone() for name, p in objective.vqgan.named_parameters()}


def test_the_adversary_pulls_as_hard_as_the_error_at_the_last_layer():
    objective = vqgan(replace(RECIPE, micro_batch=8, adversarial_start=0, adversarial_weight=0.5))
    (batch,) = objective.batches(0)
    pixels = to_signed(batch)
    image, commitment, following = objective.vqgan(pixels)
    error = (image - pixels).abs().mean()
    scores = objective.discriminator(image)
    last = objective.vqgan.decoder.conv_out.weight
    parts = [torch.autograd.grad(x, last, retain_graph=True)[0] for x in (error, -scores.mean())]
    both = gradients(objective, 0)["decoder.conv_out.weight"]
    pull = both - parts[0]
    torch.testing.assert_close(pull.norm(), 0.5 * parts[0].norm(), rtol=1e-2, atol=0)
    assert F.cosine_similarity(pull.flatten(), parts[1].flatten(), dim=0) > 0.999
    _, values = objective.loss(batch, 0)
    weight = values["adversarial_weight"]
    plain = error + commitment + 0.25 * following - weight * scores.mean()
    torch.testing.assert_close(values["loss"], plain.detach())


def test_before_its_start_the_adversary_has_no_say_and_stays_as_it_is(tmp_path):
    with_one, without = (vqgan(replace(RECIPE, discriminator_width=w)) for w in (8, 16))
    a, b = gradients(with_one, 3), gradients(without, 3)
    assert all(torch.equal(a[name], b[name]) for name in a)
    before = {n: p.clone() for n, p in with_one.discriminator.state_dict().items()}
    train(with_one, replace(LOOP, steps=4), tmp_path, "test")
    after = with_one.discriminator.state_dict()
    assert all(torch.equal(value, before[name]) for name, value in after.items())


def test_micro_batches_add_up_before_the_adversary_begins():
    whole = gradients(vqgan(replace(RECIPE, micro_batch=8)), 0)
    for micro_batch in (1, 2, 4):
        parts = gradients(vqgan(replace(RECIPE, micro_batch=micro_batch)), 0)
        for name, gradient in whole.items():
            torch.testing.assert_close(parts[name], gradient, rtol=1e-4, atol=1e-6)


def test_processes_share_the_frames_of_a_step():
    objective = vqgan(replace(RECIPE, micro_batch=2))
    for step in range(4):
        alone = objective.batches(step)
        shared = [b for rank in range(2) for b in objective.batches(step, World(rank, 2))]
        assert len(alone) == len(shared) == 4
        assert all(torch.equal(a, b) for a, b in zip(alone, shared, strict=True))


def test_the_discriminator_is_compvis():
    """Its sizes, and a forward pass written out; conv weights as drawn there."""
    published = PatchDiscriminator(64, 3)
    assert sum(p.numel() for p in published.parameters()) == 2_765_633
    assert published(torch.randn(1, 3, 256, 256)).shape == (1, 1, 30, 30)
    drawn = torch.cat([p.flatten() for p in published.parameters() if p.ndim == 4])
    assert float(drawn.detach().std()) == pytest.approx(0.02, rel=0.01)
    small = PatchDiscriminator(4, 2)
    weights = iter(small.parameters())
    x = torch.randn(2, 3, 16, 16)
    y = F.leaky_relu(F.conv2d(x, next(weights), next(weights), 2, 1), 0.2)
    for stride in (2, 1):
        y = F.conv2d(y, next(weights), None, stride, 1)
        mean, variance = y.mean((0, 2, 3)), y.var((0, 2, 3), correction=0)
        y = (y - mean[:, None, None]) / (variance[:, None, None] + 1e-5).sqrt()
        y = y * next(weights)[:, None, None] + next(weights)[:, None, None]
        y = F.leaky_relu(y, 0.2)
    y = F.conv2d(y, next(weights), next(weights), 1, 1)
    torch.testing.assert_close(small(x), y, rtol=1e-4, atol=1e-5)


def test_the_hinge_counts_what_is_on_the_wrong_side():
    real, made = torch.tensor([2.0, 1.0, 0.5, -1.0]), torch.tensor([-2.0, -1.0, 0.0, 3.0])
    assert float(hinge(real, made)) == pytest.approx((0.5 + 2.0 + 1.0 + 4.0) / 4 / 2)


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_survive_config_json(name):
    recipe = RECIPES[name]()
    assert from_dict(type(recipe), to_dict(recipe), "config.json") == recipe


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"size": 10}, "size 10 is no multiple of the 4 pixels a code"),
        ({"micro_batch": 3}, "batch 8 is no multiple of micro_batch 3"),
    ],
)
def test_impossible_settings_are_refused(wrong, said):
    with pytest.raises(UserError, match=said):
        replace(RECIPE, **wrong)


def vgg16() -> nn.Sequential:
    """Its convolutions, from Simonyan and Zisserman's table D, with random weights."""
    layers: list[nn.Module] = []
    n_in = 3
    for width in (64, 64, 0, 128, 128, 0, *[256] * 3, 0, *[512] * 3, 0, *[512] * 3):
        if width:
            layers += [nn.Conv2d(n_in, width, 3, padding=1), nn.ReLU()]
            nn.init.kaiming_normal_(layers[-2].weight)
            n_in = width
        else:
            layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers).requires_grad_(False)


def test_weights_of_lpips_that_cannot_be_are_told_before_anything_is_decoded(tmp_path):
    (tmp_path / "lpips.safetensors").write_bytes(b"no weights")
    source = str(make_images(tmp_path / "images", 4))
    recipe = replace(RECIPE, perceptual=tmp_path / "lpips.safetensors", source=(source,))
    with pytest.raises(UserError, match=r"lpips.safetensors cannot be read"):
        train_tokenizer(recipe, tmp_path / "run", 0)
    assert not list((tmp_path / "run").glob("*.npy"))


def test_the_perceptual_loss_is_lpips(tmp_path):
    torch.manual_seed(0)
    network, lins = vgg16(), [torch.rand(1, width, 1, 1) for width in (64, 128, 256, 512, 512)]
    ends = (3, 8, 15, 22, 29)  # relu1_2, relu2_2, relu3_3, relu4_3, relu5_3
    weights = {f"lin{i}.model.1.weight": lin for i, lin in enumerate(lins)}
    for name, value in network.state_dict().items():
        layer = int(name.split(".")[0])
        weights[f"net.slice{1 + sum(layer > end for end in ends)}.{name}"] = value
    save_file(weights, tmp_path / "lpips.safetensors")
    a = torch.rand(2, 3, 16, 32).mul(2).sub(1).requires_grad_()
    b = torch.rand(2, 3, 16, 32).mul(2).sub(1)

    def features(x: torch.Tensor) -> list[torch.Tensor]:
        x = (x + torch.tensor([0.030, 0.088, 0.188])[:, None, None]) / torch.tensor(
            [0.458, 0.448, 0.450]
        )[:, None, None]
        found = []
        for i, layer in enumerate(network):
            x = layer(x)
            if i in ends:
                found.append(x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10))
        return found

    plain = sum(
        ((fa - fb) ** 2 * lin).sum(1).mean((1, 2))
        for fa, fb, lin in zip(features(a), features(b), lins, strict=True)
    ).mean()
    ours = Perceptual(tmp_path / "lpips.safetensors")
    found = ours(a, b)
    torch.testing.assert_close(found, plain, rtol=1e-4, atol=1e-6)
    assert float(ours(b, b)) == 0
    gradients = [torch.autograd.grad(value, a)[0] for value in (found, plain)]
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-7)

    recipe = replace(RECIPE, size=16, perceptual=tmp_path / "lpips.safetensors")
    pictures = frames(24, seed=1).repeat(2, 2).repeat(2, 3)
    objective = TrainVQGANObjective(recipe, pictures, pictures)
    (batch, *_) = objective.batches(0)
    values = objective.loss(batch, 0)[1]
    parts = values["error"] + values["perceptual"] + 1.25 * values["commitment"]
    torch.testing.assert_close(values["loss"], parts)
    assert values["perceptual"] > 0
    assert not any("slice" in name for name in objective.modules.state_dict())

    save_file({"net.slice1.0.weight": torch.zeros(3)}, tmp_path / "other.safetensors")
    for path in (tmp_path / "other.safetensors", tmp_path / "nowhere.safetensors"):
        with pytest.raises(UserError, match=path.name):
            Perceptual(path)
