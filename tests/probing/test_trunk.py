from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from tests.children import run_until_write
from tests.tiny import make_dataset, make_images, make_videos, save_tokenizer
from toto.models.llama import Llama
from toto.models.saved import load_model
from toto.models.sizes import LlamaSize
from toto.probing.clips import Items, items_of
from toto.probing.config import ProbeTraining
from toto.probing.encoder import TrainedEncoder
from toto.probing.features import FrozenFeatures
from toto.probing.pooling import build_bank
from toto.probing.probes import Labelled, Probes
from toto.probing.trunk import next_token_phase, trainable_copy
from toto.tasks.question import Question
from toto.tasks.recognition import recognise
from toto.tokens.store import TokenDataset
from toto.training.loop import train
from toto.training.optimizer import build_optimizers
from toto.training.schedule import learning_rate

CONFIG = ProbeTraining(
    epochs=4,
    batch=8,
    learning_rates=(1e-2,),
    weight_decays=(0.1,),
    random_start=True,
    trunk_update="next_token",
    trunk_learning_rate=3e-3,
)
STEPS = 12


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> TokenDataset:
    """24 videos, some of them shorter than a clip of four frames."""
    folder = tmp_path_factory.mktemp("trunk")
    tokenizer = save_tokenizer(folder / "tokenizer")
    for i, name in enumerate(("cat", "dog")):
        make_videos(folder / "source" / name, [9, 4, 3, 6] * 3, seed=i)
    return make_dataset(folder / "source", tokenizer, folder / "data")


def model(data: TokenDataset) -> Llama:
    torch.manual_seed(0)
    size = LlamaSize(width=16, layers=2, heads=2, mlp_width=24, init_std=0.2)
    return Llama(size, data.vocabulary.size).eval().requires_grad_(False)


def items(data: TokenDataset) -> Items:
    return items_of(data, np.arange(24), 4)


def objective(data: TokenDataset, config: ProbeTraining = CONFIG) -> Probes:
    trunk = trainable_copy(model(data))
    clips = items(data)

    def drawn(rows, epoch):
        return clips[rows].drawn(config.seed, epoch, config.random_start)

    features = FrozenFeatures(TrainedEncoder(trunk), (1, 2))
    labels = torch.arange(24) // 12
    labelled = Labelled(lambda rows, epoch: features(drawn(rows, epoch)), labels)
    banks = {
        f"attention/{layer}": partial(build_bank, "attention", 16, 2, 2, 1) for layer in (1, 2)
    }
    phase = next_token_phase(trunk, drawn, config, config.loop(24).steps, "fp32")
    return Probes(config, labelled, labelled, banks, phase)


def test_the_trunk_takes_the_steps_of_next_token_loss_alone(data, tmp_path):
    """Against torch's AdamW on cross-entropy of tokens, read item by item: no probe beside it."""
    probes = objective(data)
    loop = CONFIG.loop(24, "cpu")
    assert loop.steps == STEPS
    train(probes, loop, tmp_path, "test")
    found = probes.phases[-1].module

    trunk, clips = trainable_copy(model(data)), items(data)
    how = probes.phases[-1].optimizer
    optimizer = torch.optim.AdamW(
        [
            {"params": [p], "weight_decay": 0.1 if p.ndim > 1 else 0.0, "name": name}
            for name, p in trunk.named_parameters()
        ],
        betas=(0.9, 0.95),
    )
    depth = {"embed": 0, "layers.0.": 1, "layers.1.": 2, "model.norm": 3, "lm_head": 3}
    for step in range(STEPS):
        ((rows, epoch, count),) = probes.batches(step)
        optimizer.zero_grad()
        for row in rows.tolist():
            first = int(clips[np.array([row])].drawn(0, epoch, True).firsts[0])
            codes = data.codes(data.item(row), first, 4).astype(np.int64)
            tokens = [1, *(codes.ravel() + 4).tolist(), 2]
            # The end is a target where a clip is short, and none that is full.
            tokens = torch.tensor(tokens[:17])
            loss = F.cross_entropy(trunk(tokens[None, :-1])[0], tokens[1:], reduction="sum")
            (loss / (count * 16)).backward()
        torch.nn.utils.clip_grad_norm_(trunk.parameters(), 1.0)
        for group in optimizer.param_groups:
            (layer,) = (i for part, i in depth.items() if part in group["name"])
            group["lr"] = learning_rate(how, step, STEPS) * 0.9 ** (3 - layer)
        optimizer.step()
    for (name, mine), theirs in zip(found.named_parameters(), trunk.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-5, msg=name)
    assert not torch.allclose(found.lm_head.weight, model(data).lm_head.weight, atol=1e-3)


def test_probes_read_the_states_of_the_moment(data, tmp_path):
    """A probe's gradient after three steps is that on the states of the trunk of then."""
    probes = objective(data)
    loop = replace(CONFIG.loop(24, "cpu"), steps=3, validate_every=9)
    train(probes, loop, tmp_path, "test")
    trunk = probes.phases[-1].module
    rows, epoch, _ = probes.batches(3)[0]
    clips = items(data)[rows].drawn(0, epoch, True)
    with torch.no_grad():
        states = trunk.hidden_states(clips.inputs(), (1, 2))
    for layer, found in probes.train.features(rows, epoch).items():
        assert not found.requires_grad
        torch.testing.assert_close(found, states[int(layer)][:, 1:], rtol=0.05, atol=0.1)
        before = model(data).hidden_states(clips.inputs(), (1, 2))[int(layer)][:, 1:]
        assert (found - states[int(layer)][:, 1:]).norm() < (found - before).norm()


def run_probes(folder: Path, run: Path) -> None:
    train(
        objective(TokenDataset(folder)), replace(CONFIG.loop(24, "cpu"), log_every=1), run, "test"
    )


def end_of(data: TokenDataset, run: Path) -> dict[str, torch.Tensor]:
    from toto.training.checkpoint import Checkpoints
    from toto.training.world import ALONE

    probes = objective(data)
    optimizers = [(p, build_optimizers(p.module, p.optimizer)) for p in probes.phases]
    checkpoints = Checkpoints(run, probes, optimizers, ALONE, CONFIG.loop(24, "cpu"))
    assert checkpoints.restore() == STEPS
    return {name: value.clone() for name, value in probes.modules.state_dict().items()}


def test_a_kill_changes_no_bit_of_probes_or_trunk(data, tmp_path):
    run_probes(data.folder, tmp_path / "whole")
    expected = end_of(data, tmp_path / "whole")
    assert any(name.startswith("trunk.") for name in expected)
    for moment in (9, 17):
        here = tmp_path / str(moment)
        assert run_until_write(moment, here, run_probes, data.folder, here) != 0
        run_probes(data.folder, here)
        found = end_of(data, here)
        assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_a_result_of_a_trunk_that_was_trained_further_leaves_it_behind(tmp_path):
    tokenizer = save_tokenizer(tmp_path / "tokenizer")
    for i, name in enumerate(("cat", "dog")):
        make_images(tmp_path / "source" / name, 16, seed=i)
        make_videos(tmp_path / "source" / name, [3], seed=i)
    data = make_dataset(tmp_path / "source", tokenizer, tmp_path / "data")
    config = replace(CONFIG, epochs=2, held_out=0.3, rope_base=500.0)
    encoder = TrainedEncoder(model(data))
    before = {name: value.clone() for name, value in encoder.model.state_dict().items()}
    result = recognise(Question(encoder, data, "image", 1, config), tmp_path / "out")
    assert len(result.test_accuracy) == 3 and len(result.knn.test_accuracy) == 3
    for name, value in encoder.model.state_dict().items():
        assert torch.equal(value, before[name])
    trunk, details = load_model(tmp_path / "out" / "model")
    assert trunk.size.rope_base == 500.0 and details["frames"] == 1
    assert details["kinds"] == ["image"]  # the videos beside them were not read
    assert not torch.equal(trunk.lm_head.weight, before["lm_head.weight"])
    # Read again from its checkpoint, it says the same.
    (tmp_path / "out" / "result.json").unlink()
    assert recognise(Question(encoder, data, "image", 1, config), tmp_path / "out") == result
