import math
import shutil
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

from tests.tiny import make_dataset, make_videos, save_tokenizer
from toto.errors import UserError
from toto.models.llama import Llama
from toto.models.sizes import LlamaSize
from toto.probing.clips import items_of, probe_splits
from toto.probing.config import ProbeKind, ProbeTraining
from toto.probing.encoder import TrainedEncoder
from toto.probing.features import FrozenFeatures, pick_layers
from toto.probing.neighbours import Neighbours, Passing
from toto.probing.pooling import build_bank
from toto.probing.probes import Labelled, Probes
from toto.training.loop import train
from toto.training.schedule import learning_rate

CLIPS, POSITIONS, WIDTH, HEADS, CLASSES = 96, 5, 8, 2, 3
TRAINING = ProbeTraining(
    epochs=4,
    batch=16,
    probes=("attention", "mean", "last", "cross"),
    learning_rates=(1e-3, 1e-2),
    weight_decays=(0.01, 0.5),
    seed=3,
)


def plain_attention(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Attention of one clip's one query, head by head: `(h, d), (t, c), (t, c)` to `(c,)`."""
    heads, d = query.shape
    parts = []
    for h in range(heads):
        part = slice(h * d, (h + 1) * d)
        parts.append((keys[:, part] @ query[h] / d**0.5).softmax(0) @ values[:, part])
    return torch.cat(parts)


def aim(p: dict[str, torch.Tensor], hidden: torch.Tensor) -> torch.Tensor:
    """AIM's head as its paper writes it: keys and values for each position."""
    mean, variance = hidden.mean((0, 1)), hidden.var((0, 1), unbiased=False)
    x = (hidden - mean) / (variance + 1e-6).sqrt()
    pooled = [plain_attention(p["query"], y @ p["k.weight"].T, y @ p["v.weight"].T) for y in x]
    return torch.stack(pooled) @ p["classifier.weight"].T


def jepa(p: dict[str, torch.Tensor], hidden: torch.Tensor) -> torch.Tensor:
    """V-JEPA's head, each module in its turn; its keys have a bias, which must not matter."""

    def apply(name: str, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, p[f"{name}.weight"], p[f"{name}.bias"])

    def norm(name: str, x: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(x, x.shape[-1:], p[f"{name}.weight"], p[f"{name}.bias"])

    query = apply("q", p["query"]).view(HEADS, -1)
    bias = torch.arange(float(WIDTH))
    rows = []
    for x in F.layer_norm(hidden, hidden.shape[-1:], p["scale"], p["shift"]):
        keys = x @ p["k.weight"].T + bias
        rows.append(p["query"] + plain_attention(query, keys, apply("v", x)))
    x = torch.stack(rows)
    x = x + apply("fc2", F.gelu(apply("fc1", norm("norm", x))))
    return apply("classifier", x)


def linear(p: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    x = (x - x.mean(0)) / (x.var(0, unbiased=False) + 1e-6).sqrt()
    return F.linear(x, p["weight"], p["bias"])


REFERENCES: dict[ProbeKind, Callable[[dict[str, torch.Tensor], torch.Tensor], torch.Tensor]] = {
    "attention": aim,
    "cross": jepa,
    "mean": lambda p, x: linear(p, x.mean(1)),
    "last": lambda p, x: linear(p, x[:, -1]),
}


@pytest.mark.parametrize("kind", REFERENCES)
def test_a_bank_computes_what_each_plain_probe_would(kind):
    torch.manual_seed(0)
    bank = build_bank(kind, WIDTH, HEADS, CLASSES, 3)
    for parameter in bank.parameters():  # each another one, and sharper than at the start
        nn.init.normal_(parameter, std=0.7)
    hidden = 3 * torch.randn(6, 7, WIDTH) + torch.arange(WIDTH)
    logits = bank(hidden)
    for i, member in enumerate(bank.members):
        p = dict(member.named_parameters())
        expected = REFERENCES[kind](p, hidden)
        torch.testing.assert_close(logits[i], expected, rtol=1e-4, atol=1e-4)
        # Not the square of the logits: that of a batch-normed linear layer has no slope by chance.
        weight = torch.randn(expected.shape)
        slopes = torch.autograd.grad((expected * weight).sum(), list(p.values()))
        found = torch.autograd.grad((bank(hidden)[i] * weight).sum(), list(p.values()))
        for a, b in zip(found, slopes, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", REFERENCES)
def test_when_read_a_probe_sees_each_clip_alone(kind):
    torch.manual_seed(0)
    bank = build_bank(kind, WIDTH, HEADS, CLASSES, 2)
    hidden = torch.randn(6, 7, WIDTH)
    bank(hidden)
    bank.eval()
    together = bank(hidden)
    alone = torch.cat([bank(hidden[i : i + 1]) for i in range(6)], 1)
    torch.testing.assert_close(together, alone)
    torch.testing.assert_close(bank(hidden, [1]), together[1:])


def planted(layers: dict[str, float], seed: int = 0, clips: int = CLIPS) -> Labelled:
    """Noise, and in each layer the class at one position with the given strength."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, (clips,), generator=generator)
    directions = torch.randn(CLASSES, WIDTH, generator=torch.Generator().manual_seed(99))
    hidden = {}
    for name, strength in layers.items():
        noise = torch.randn(clips, POSITIONS, WIDTH, generator=generator)
        noise[:, 2] += strength * directions[labels]
        hidden[name] = noise
    return Labelled(lambda rows, turn: {name: x[rows] for name, x in hidden.items()}, labels)


def probes(
    layers: dict[str, float],
    config: ProbeTraining = TRAINING,
    names: Iterable[str] = (),
    heads: int = HEADS,
) -> Probes:
    return Probes(
        config,
        planted(layers),
        planted(layers, seed=1, clips=60),
        {
            f"{kind}/{name}": partial(build_bank, kind, WIDTH, heads, CLASSES, len(config.grid))
            for kind in config.probes
            for name in names or layers
        },
    )


LAYERS = {"0": 0.0, "1": 4.0, "2": 0.0}


def test_probes_find_what_is_planted_where_it_is_planted(tmp_path):
    found = probes(LAYERS, replace(TRAINING, epochs=15, weight_decays=(0.1,)))
    train(found, found.config.loop(CLIPS), tmp_path, "probe")
    chosen = found.chosen()
    assert set(chosen) == {f"{kind}/{name}" for kind in TRAINING.probes for name in LAYERS}
    best = {name: found.accuracy[name][point] for name, point in chosen.items()}
    for kind in ("attention", "mean", "cross"):
        assert best[f"{kind}/1"] > 0.8
        assert max(best[f"{kind}/0"], best[f"{kind}/2"]) < 0.6
    # The class is at one position, which is not the last.
    assert best["last/1"] < 0.6


def test_the_grid_in_one_pass_is_what_each_probe_is_alone(tmp_path):
    """Alone, and by no code of the bank: torch's AdamW on the plain reference."""
    together = probes(LAYERS)
    train(together, TRAINING.loop(CLIPS), tmp_path / "together", "probe")
    weights = load_file(tmp_path / "together/probes.safetensors")
    steps = TRAINING.loop(CLIPS).steps
    for kind in ("attention", "cross", "mean"):
        begun = probes(LAYERS).banks[f"{kind}/1"]
        for point, (rate, decay) in enumerate(TRAINING.grid):
            p = dict(begun.members[point].named_parameters())
            optimizer = torch.optim.AdamW(
                [
                    {"params": [x for x in p.values() if x.ndim > 1], "weight_decay": decay},
                    {"params": [x for x in p.values() if x.ndim == 1], "weight_decay": 0.0},
                ],
                betas=(0.9, 0.999),
            )
            config = together.phases[point].optimizer
            assert (config.learning_rate, config.weight_decay) == (rate, decay)
            for step in range(steps):
                ((rows, epoch, _),) = together.batches(step)
                logits = REFERENCES[kind](p, together.train.features(rows, epoch)["1"])
                optimizer.zero_grad()
                F.cross_entropy(logits, together.train.labels[rows]).backward()
                for group in optimizer.param_groups:
                    group["lr"] = learning_rate(config, step, steps)
                optimizer.step()
            for name, value in p.items():
                found = weights[f"{kind}/1.members.{point}.{name}"]
                torch.testing.assert_close(found, value.detach(), rtol=1e-3, atol=1e-4)


def test_a_probe_does_not_depend_on_those_beside_it(tmp_path):
    together = probes(LAYERS)
    train(together, TRAINING.loop(CLIPS), tmp_path / "together", "probe")
    one = replace(TRAINING, probes=("cross",), learning_rates=(1e-2,), weight_decays=(0.5,))
    alone = probes(LAYERS, one, names=["1"])
    train(alone, TRAINING.loop(CLIPS), tmp_path / "alone", "probe")
    weights = load_file(tmp_path / "together/probes.safetensors")
    for name, value in load_file(tmp_path / "alone/probes.safetensors").items():
        beside = weights[name.replace("members.0", "members.3")]
        torch.testing.assert_close(beside, value, rtol=1e-4, atol=1e-6)
    assert alone.accuracy["cross/1"] == together.accuracy["cross/1"][3:]


def test_a_training_goes_on_from_a_checkpoint_as_if_it_had_not_stopped(tmp_path):
    config = replace(TRAINING, probes=("attention", "last"), weight_decays=(0.1,))
    train(probes(LAYERS, config), config.loop(CLIPS), tmp_path / "whole", "probe")
    checkpoints = tmp_path / "whole/checkpoints"
    names = sorted(path.name for path in checkpoints.iterdir())
    assert len(names) > 1
    shutil.rmtree(checkpoints / names[-1])
    weights = tmp_path / "whole/probes.safetensors"
    expected = weights.read_bytes()
    weights.unlink()
    train(probes(LAYERS, config), config.loop(CLIPS), tmp_path / "whole", "probe")
    assert weights.read_bytes() == expected


def test_each_epoch_sees_each_clip_once():
    seen = probes(LAYERS)
    per_epoch = CLIPS // TRAINING.batch
    orders = []
    for epoch in range(3):
        steps = range(epoch * per_epoch, (epoch + 1) * per_epoch)
        rows = torch.cat([rows for step in steps for rows, _, _ in seen.batches(step)])
        assert rows.sort().values.tolist() == list(range(CLIPS))
        orders.append(rows.tolist())
    assert orders[0] != orders[1] != orders[2]


def test_few_clips_are_seen_in_as_many_epochs():
    assert TRAINING.loop(96).steps == 4 * 6
    assert TRAINING.loop(10).steps == 4
    few = Probes(TRAINING, planted(LAYERS, clips=10), planted(LAYERS), {})
    assert [len(rows) for rows, _, _ in few.batches(3)] == [10]


@pytest.mark.parametrize("batch", [1, 7, 60, 64])
def test_predictions_come_in_the_clips_order(batch):
    labels = torch.randint(CLASSES, (60,), generator=torch.Generator().manual_seed(1))
    shown = Labelled(lambda rows, turn: {"x": F.one_hot(labels[rows], CLASSES)}, labels)
    guesses = shown.predictions(lambda features: {"same": features["x"].float()[None]}, batch)
    assert guesses["same"].shape == (1, 60, CLASSES)
    assert torch.equal(guesses["same"][0, :, 0], labels)
    assert shown.accuracy(guesses["same"]) == [1.0]


def test_probabilities_are_averaged_over_the_views():
    """A view that is sure outweighs two that are not, which a vote or a mean of logits need not."""
    torch.manual_seed(0)
    logits = 4 * torch.randn(3, 2, 50, CLASSES)
    labels = torch.zeros(50, dtype=torch.long)
    shown = Labelled(lambda rows, view: {"x": logits[view][:, rows]}, labels, views=3)
    guesses = shown.predictions(lambda features: {"it": features["x"]}, 7)["it"]
    means = logits.softmax(-1).mean(0)
    assert torch.equal(guesses[..., 0], means.argmax(-1))
    assert torch.equal(guesses, means.topk(min(CLASSES, 5)).indices)
    assert not torch.equal(guesses[..., 0], logits.mean(0).argmax(-1))


def test_neighbours_vote_as_scikit_learn_would_count_them():
    """Of clips apart by more than the vote can bridge, and of all means, passed by or not."""
    known, asked = planted({"0": 4.0}), planted({"0": 4.0}, seed=1, clips=40)
    passing = Passing(known.features, CLIPS, seed=0)
    passing(torch.arange(0, CLIPS, 2))
    means, rows = passing.means(batch=7)
    assert sorted(rows.tolist()) == list(range(CLIPS))
    plain = known.features(rows, 0)["0"].mean(1)
    torch.testing.assert_close(means["0"], plain)
    knn = Neighbours(means, known.labels[rows], CLASSES)
    votes = knn(asked.features(torch.arange(40), 0))["knn/0"][0].exp()
    centre = plain.mean(0)
    x = asked.features(torch.arange(40), 0)["0"].mean(1) - centre
    expected = torch.zeros(40, CLASSES)
    for i in range(40):
        cosines = F.cosine_similarity(x[i][None], plain - centre)
        for j in cosines.argsort(descending=True)[:20].tolist():
            expected[i, known.labels[rows][j]] += math.exp((float(cosines[j]) - 1) / 0.07)
    torch.testing.assert_close(votes, expected, rtol=1e-4, atol=1e-5)


def test_means_that_do_not_fit_are_those_of_some_clips_at_random():
    known = planted({"0": 0.0, "1": 0.0})
    passing = Passing(known.features, CLIPS, seed=0, limit=10 * 2 * WIDTH * 4)
    passing(torch.arange(CLIPS))
    means, rows = passing.means(batch=7)
    assert len(rows) == len(means["0"]) == len(means["1"]) == 10
    assert rows.tolist() != sorted(rows.tolist()) and len(set(rows.tolist())) == 10
    torch.testing.assert_close(means["1"], known.features(rows, 0)["1"].mean(1))


@pytest.fixture(scope="module")
def trunk() -> Llama:
    torch.manual_seed(0)
    size = LlamaSize(width=16, layers=3, heads=2, mlp_width=24, init_std=0.2)
    return Llama(size, 128).eval().requires_grad_(False)


def test_features_are_the_trunks_hidden_states_kept_or_not(trunk, tmp_path):
    visual = save_tokenizer(tmp_path / "tokenizer")
    data = make_dataset(make_videos(tmp_path / "videos", [4] * 7), visual, tmp_path / "data")
    clips = items_of(data, np.arange(7), 4).middle()
    expected = trunk.hidden_states(clips.inputs(), (1, 3))
    done = []
    fresh, kept = (FrozenFeatures(TrainedEncoder(trunk), (1, 3)) for _ in range(2))
    fresh.keep(clips, limit=7 * 2 * 16 * 16 * 4 - 1)
    kept.keep(clips, batch=3, limit=7 * 2 * 16 * 16 * 4, advance=done.append)
    assert (fresh.bytes, kept.bytes) == (0, 7 * 2 * 16 * 16 * 4)
    assert sum(done) == 7
    rows = torch.tensor([5, 0, 6])
    for features in (fresh, kept):
        found = features(clips[rows])
        assert set(found) == {"1", "3"}
        for layer in (1, 3):
            assert found[str(layer)].dtype == torch.float32
            # bf16 has 8 bits: 3 blocks of it stay within a few percent of the largest state.
            torch.testing.assert_close(
                found[str(layer)], expected[layer][rows, 1:], rtol=0.05, atol=0.1
            )


@pytest.mark.parametrize("kind", REFERENCES)
def test_states_in_the_precision_of_the_trunk_change_little(kind):
    torch.manual_seed(0)
    bank = build_bank(kind, WIDTH, HEADS, CLASSES, 2)
    hidden = torch.randn(6, 7, WIDTH)
    logits, rough = bank(hidden), bank(hidden.bfloat16())
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough, logits, rtol=0.03, atol=0.03)


def test_layers_by_name():
    assert pick_layers("all", 3) == [0, 1, 2, 3]
    assert pick_layers("0,2", 3) == [0, 2]
    assert pick_layers("0.5", 12) == [6]
    assert pick_layers("1.0", 12) == [12]
    for wrong in ("4", "-1", "1.5", "0,9"):
        with pytest.raises(UserError, match="this model has layers 0 to 3"):
            pick_layers(wrong, 3)
    for wrong in ("last", "", "1,,2", "0.x"):
        with pytest.raises(UserError, match="numbers like 0,4,8"):
            pick_layers(wrong, 3)


def labelled(folder: Path) -> Path:
    source = folder / "source"
    for split, count in (("train", 12), ("val", 3), ("test", 2)):
        for i, name in enumerate(("cat", "dog")):
            make_videos(
                source / split / name, [9, 3, 4, 6] * 3 if split == "train" else [5] * count, seed=i
            )
    return source


def test_labelled_clips_are_the_middle_of_their_items(tmp_path):
    visual = save_tokenizer(tmp_path / "tokenizer")
    data = make_dataset(labelled(tmp_path), visual, tmp_path / "data")
    parts = probe_splits(data, 0.25, 4)
    train_part, chosen_by, test, classes = parts
    assert classes == ["cat", "dog"]
    assert len(train_part) + len(chosen_by) == 24
    assert {item.split for part in (train_part, chosen_by) for item in part.middle().items} == {
        "train"
    }
    assert {item.split for item in test.middle().items} == {"test"}
    assert not set(train_part.rows) & set(chosen_by.rows)
    for part in (train_part, chosen_by, test):
        clips, labels = part.middle(), part.labels(classes)
        inputs = clips.inputs()
        for i, item in enumerate(clips.items):
            codes = data.codes(item)
            first = {9: 2, 3: 0, 4: 0, 6: 1, 5: 0}[item.frames]
            assert clips.firsts[i] == first
            frames = [codes[min(first + k, item.frames - 1)].ravel().tolist() for k in range(4)]
            assert inputs[i].tolist() == [1, *(c + 4 for f in frames for c in f)]
            assert classes[labels[i]] == item.label


def test_labels_that_are_missing_or_strange_are_named(tmp_path):
    visual = save_tokenizer(tmp_path / "tokenizer")
    source = make_videos(tmp_path / "plain", [5] * 20)
    data = make_dataset(source, visual, tmp_path / "unlabelled")
    with pytest.raises(UserError, match="has no label"):
        probe_splits(data, 0.3, 4)
    make_videos(tmp_path / "one" / "cat", [5] * 20)
    data = make_dataset(tmp_path / "one", visual, tmp_path / "data")
    with pytest.raises(UserError, match="1 class in training"):
        probe_splits(data, 0.3, 4)
    with pytest.raises(UserError, match=r"label 'cat' of cat/video000\.mp4 does not occur"):
        items_of(data, np.array([0]), 4).labels(["dog", "eel"])
