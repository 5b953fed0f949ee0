"""Pre-training on patches: what is lost on what, kills, and what comes of the saved model."""

import json
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import toto
from tests import children
from tests.children import run_until_write
from tests.tiny import make_dataset, make_images, make_videos, save_patches, save_tokenizer
from tests.training.toys import PRETRAIN
from toto.errors import UserError
from toto.generation.patches import continue_patches
from toto.generation.sampling import Sampling
from toto.models.patches import norm_pix, to_pixels
from toto.studies.curves import draw_curves
from toto.studies.inspect import describe
from toto.tokens.loader import Sequences, freeze
from toto.tokens.store import TokenDataset
from toto.training.config import Pretrain
from toto.training.metrics import read_metrics
from toto.training.objectives.next_patch import NextPatch
from toto.training.parallel import place
from toto.training.runs import pretrain, resume
from toto.training.world import ALONE, World

MODEL = replace(PRETRAIN.model, tied_head=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Long and short videos, and images that do not fill their last sequence."""
    folder = tmp_path_factory.mktemp("patches")
    source = make_videos(folder / "source", [9, 2, 3, 14, 1, 12, 7, 3])
    make_images(source, 7)
    make_dataset(source, save_patches(folder / "patches"), folder / "pixels")
    make_dataset(source, save_tokenizer(folder / "tokenizer"), folder / "codes")
    return folder


@pytest.fixture(scope="module", params=["patch-patch", "patch-dvae"])
def recipe(request, folder) -> Pretrain:
    targets = (folder / "codes",) if request.param == "patch-dvae" else ()
    return replace(PRETRAIN, model=MODEL, data=(folder / "pixels",), targets=targets)


def objective(config: Pretrain) -> NextPatch:
    data, targets = ([TokenDataset(p) for p in ps] for ps in (config.data, config.targets))
    how = (), config.frames, config.loop.seed
    read = [Sequences(freeze(data, *how, split, 0.2, targets)) for split in ("train", "validation")]
    made = NextPatch(config, *read)
    place(made.modules, torch.device("cpu"), ALONE, "none")
    made.initialise()
    return made


def reference(made: NextPatch, i: int) -> list[float]:
    """The losses of sequence `i` of training, patch after patch, the end left out."""
    patches = torch.from_numpy(made.train.sequence(i))[None]
    count = int(made.train.lengths(i, 1)[0]) * 4
    outputs = made.model(patches)[0].detach()
    if not made.train.targets:
        wanted = norm_pix(patches[0, 1 : count + 1])
        return ((outputs[:count] - wanted) ** 2).mean(1).tolist()
    tokens = made.train.target_batch(i, 1)[0, 1 : count + 1]
    return F.cross_entropy(outputs[:count], tokens, reduction="none").tolist()


@pytest.mark.parametrize("micro_batch", [2, 8])
def test_the_logged_loss_is_the_mean_over_patches(recipe, micro_batch):
    made = objective(replace(recipe, micro_batch=micro_batch, curriculum=()))
    logged = sum(float(made.loss(batch, 0)[1]["loss"]) for batch in made.batches(0))
    losses = [loss for i in range(8) for loss in reference(made, i)]
    assert len(losses) < 8 * 16
    assert logged == pytest.approx(np.mean(losses), rel=1e-5)


@pytest.mark.parametrize("curriculum", [(), ((1.0, 1),), ((1.0, 3),)], ids=str)
def test_micro_batches_and_processes_add_up(recipe, curriculum):
    def gradients(micro_batch: int, world: World = ALONE) -> list[torch.Tensor]:
        made = objective(replace(recipe, micro_batch=micro_batch, curriculum=curriculum))
        for batch in made.batches(0, world):
            made.loss(batch, 0)[0].backward()
        return [p.grad for p in made.model.parameters()]

    whole = gradients(8)
    halves = [gradients(4, World(rank, 2)) for rank in range(2)]
    for one, split, *shared in zip(whole, gradients(2), *halves, strict=True):
        torch.testing.assert_close(split, one, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(sum(shared), one, rtol=1e-4, atol=1e-6)


def test_padding_teaches_nothing(folder):
    """The gradient of a short clip alone is that of the clip without its padding."""
    made = objective(
        replace(PRETRAIN, model=MODEL, data=(folder / "pixels",), batch=16, curriculum=())
    )
    (batch,) = made.batches(0)[:1]
    short = [i for i, filled in enumerate(batch.filled.tolist()) if filled < 16]
    one = batch._replace(
        sequences=batch.sequences[short[:1]],
        filled=batch.filled[short[:1]],
        sources=batch.sources[short[:1]],
        positions=1,
    )
    other = one._replace(sequences=one.sequences.clone())
    other.sequences[:, 1 + int(one.filled[0]) :] = 200
    torch.testing.assert_close(made.loss(one, 0)[0], made.loss(other, 0)[0])


def losses(run: Path) -> list[float]:
    return [row["loss"] for row in read_metrics(run) if "loss" in row]


def test_a_killed_run_ends_as_one_that_was_not(recipe, tmp_path):
    pretrain(recipe, tmp_path / "whole")
    killed, kills = tmp_path / "killed", 0
    for moment in range(8, 100, 3):
        kills += run_until_write(moment, killed, pretrain, recipe, killed) == -signal.SIGKILL
        if (killed / "checkpoints/step-000005").exists():
            break
    assert kills and not (killed / "model").exists()
    resume(Pretrain, killed)
    for name in ("model.safetensors", "config.json"):
        whole = (tmp_path / "whole/model" / name).read_bytes()
        assert (killed / "model" / name).read_bytes() == whole
    assert losses(killed) == losses(tmp_path / "whole")


@pytest.fixture(scope="module")
def run(recipe, tmp_path_factory) -> Path:
    """Trained until it has learnt something."""
    run = tmp_path_factory.mktemp("trained") / "run"
    loop = replace(recipe.loop, steps=80, checkpoint_every=80, log_every=10, validate_every=80)
    pretrain(replace(recipe, loop=loop, curriculum=()), run)
    assert losses(run)[-1] < 0.8 * losses(run)[0]
    assert "validation_loss" in read_metrics(run)[-1]
    return run


def test_features_are_hidden_states_of_the_patches(run, folder):
    loaded = toto.load(run, "cpu")
    frames = np.random.default_rng(0).integers(0, 256, (3, 3, 8, 8), np.uint8)
    assert torch.equal(loaded.tokenize(frames), torch.from_numpy(frames))
    states = loaded.features(frames, "0,2")
    patches = torch.from_numpy(loaded.layout.sequence(frames, "video", 3))
    expected = loaded.model.hidden_states(patches[None, :-1], [0, 2])
    for layer in (0, 2):
        assert states[layer].shape == (3 * 4, 32)
        assert torch.equal(states[layer], expected[layer][0, 1:])
    with pytest.raises(UserError, match="reads patches of pixels, no tokens"):
        _ = loaded.vocabulary


def test_a_folder_whose_tokenizer_is_another_is_refused(run, tmp_path):
    import shutil

    copy = shutil.copytree(run / "model", tmp_path / "model")
    shutil.rmtree(tmp_path / "model/tokenizer")
    save_patches(tmp_path / "model/tokenizer", 2)
    with pytest.raises(UserError, match="does not fit its tokenizer"):
        toto.load(copy, "cpu")


def test_it_is_told_what_it_is(run, recipe):
    said = describe(run / "model")
    assert "LLaMA over patches of width 32, 2 layers, 4 heads" in said
    assert ("predicts their codes" in said) == bool(recipe.targets)
    assert "2x2 patches of 4x4 px" in said


def test_the_future_is_what_a_plain_loop_predicts(run, recipe):
    loaded = toto.load(run, "cpu")
    frames = np.random.default_rng(0).integers(0, 256, (4, 3, 8, 8), np.uint8)
    if recipe.targets:
        with pytest.raises(UserError, match="predicts codes of patches"):
            loaded.predict(frames)
        return
    future = loaded.predict(frames, frames=2, prompt=2)
    known = torch.from_numpy(loaded.layout.sequence(frames[:2], "video", 2))[:-1]
    for _ in range(8):
        predicted = loaded.model(known[None])[0, -1]
        known = torch.cat((known, to_pixels(predicted, like=known[-4])[None]))
    assert (future == loaded.layout.pixels(known[None, -8:])[0].numpy()).all()
    # Past the context it reads the last half of what is there, made frames among them.
    assert loaded.predict(frames, frames=5).shape == (5, 3, 8, 8)
    plain = continue_patches(
        loaded.model, torch.from_numpy(frames[None, :2]), 5, 4, Sampling(), cached=False
    )
    assert (loaded.predict(frames, frames=5, prompt=2) == plain[0].numpy()).all()
    with pytest.raises(UserError, match="patches are not drawn"):
        loaded.predict(frames, sampling=Sampling(temperature=0.5))


def test_a_run_begins_with_the_weights_of_another(run, recipe, tmp_path):
    still = replace(recipe.optimizer, learning_rate=0.0)
    again = replace(recipe, loop=replace(recipe.loop, steps=1), optimizer=still, curriculum=())
    pretrain(replace(again, init_from=run), tmp_path / "again")
    for name in ("model.safetensors", "config.json"):
        before = (run / "model" / name).read_bytes()
        assert (tmp_path / "again/model" / name).read_bytes() == before


def test_weights_that_read_something_else_are_refused(run, recipe, folder, tmp_path):
    tokens = replace(recipe, data=(folder / "codes",), targets=(), init_from=run)
    with pytest.raises(UserError, match="has inputs patches of 4 pixels, this run tokens"):
        pretrain(tokens, tmp_path / "tokens")
    other = () if recipe.targets else (folder / "codes",)
    with pytest.raises(UserError, match="has vocabulary"):
        pretrain(replace(recipe, targets=other, init_from=run), tmp_path / "other")


def test_its_curves_are_drawn(run, tmp_path):
    draw_curves([run], tmp_path / "curves.svg")
    assert "</svg>" in (tmp_path / "curves.svg").read_text()


def test_mup_is_refused(recipe, tmp_path):
    mup = replace(recipe, model=replace(MODEL, mup_base=16))
    with pytest.raises(UserError, match="mup_base and tied_head are for models of tokens"):
        pretrain(mup, tmp_path / "run")


def test_targets_need_data_each(folder):
    with pytest.raises(UserError, match="1 targets for 0 data sets"):
        replace(PRETRAIN, targets=(folder / "codes",))


def test_the_run_says_what_is_joined(run, recipe, folder):
    entries = json.loads((run / "config.json").read_text())["manifests"]["train"]["entries"]
    expected = str(folder / "codes") if recipe.targets else None
    assert {entry["target"] for entry in entries} == {expected}


def compare_compiled(recipe: Pretrain) -> None:
    made = objective(replace(recipe, curriculum=()))
    batches = made.batches(0)
    plain = [float(made.loss(batch, 0)[0].detach()) for batch in batches]
    made.compile()
    compiled = [float(made.loss(batch, 0)[0].detach()) for batch in batches]
    assert compiled == pytest.approx(plain, rel=1e-4)


@pytest.mark.slow
def test_compiled_losses_are_those_of_eager(recipe):
    """In a process whose functions nothing wraps to check their shapes: that cannot be compiled."""
    assert children.run(compare_compiled, recipe) == 0
