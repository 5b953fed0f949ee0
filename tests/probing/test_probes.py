from dataclasses import replace
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
from toto.probing.clips import item_clips, probe_splits
from toto.probing.config import ProbeTraining
from toto.probing.features import FrozenFeatures, pick_layers
from toto.probing.pooling import AttentionPool
from toto.probing.probes import Labelled, Probes
from toto.training.loop import train

CLIPS, POSITIONS, WIDTH, CLASSES = 96, 5, 8, 3
TRAINING = ProbeTraining(epochs=6, batch=16, learning_rates=(1e-3, 1e-2), seed=3)


def reference(pool: AttentionPool, hidden: torch.Tensor) -> torch.Tensor:
    """AIM's head as its paper writes it: keys and values for each position, head by head."""
    b, t, c = hidden.shape
    d = c // pool.heads
    mean, variance = hidden.mean((0, 1)), hidden.var((0, 1), unbiased=False)
    x = (hidden - mean) / (variance + 1e-6).sqrt()
    keys = (x @ pool.k.weight.T).view(b, t, pool.heads, d)
    values = (x @ pool.v.weight.T).view(b, t, pool.heads, d)
    pooled = torch.zeros(b, c)
    for i in range(b):
        for h in range(pool.heads):
            scores = keys[i, :, h] @ pool.query[h] / d**0.5
            pooled[i, h * d : (h + 1) * d] = scores.softmax(0) @ values[i, :, h]
    return pooled @ pool.classifier.weight.T


def test_the_folded_pool_is_the_plain_one():
    torch.manual_seed(0)
    pool = AttentionPool(WIDTH, 4, CLASSES)
    nn.init.normal_(pool.query)  # sharper than at the start
    hidden = 3 * torch.randn(6, 7, WIDTH) + torch.arange(WIDTH)
    torch.testing.assert_close(pool(hidden), reference(pool, hidden), rtol=1e-4, atol=1e-5)
    expected = torch.autograd.grad(reference(pool, hidden).square().sum(), pool.parameters())
    found = torch.autograd.grad(pool(hidden).square().sum(), pool.parameters())
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_when_read_the_pool_uses_the_statistics_of_training():
    torch.manual_seed(0)
    pool = AttentionPool(WIDTH, 2, CLASSES)
    hidden = torch.randn(6, 7, WIDTH)
    pool(hidden)
    pool.eval()
    together = pool(hidden)
    alone = torch.cat([pool(hidden[i : i + 1]) for i in range(6)])
    torch.testing.assert_close(together, alone)


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
    return Labelled(lambda rows: {name: x[rows] for name, x in hidden.items()}, labels)


def probes(layers: dict[str, float], config: ProbeTraining = TRAINING, names=None) -> Probes:
    return Probes(
        config,
        planted(layers),
        planted(layers, seed=1, clips=60),
        lambda _: AttentionPool(WIDTH, 2, CLASSES),
        names or list(layers),
    )


LAYERS = {"0": 0.0, "1": 4.0, "2": 0.0}


def test_probes_find_what_is_planted_where_it_is_planted(tmp_path):
    found = probes(LAYERS, replace(TRAINING, epochs=20))
    train(found, found.config.loop(CLIPS), tmp_path, "probe")
    rates = ("0_001", "0_01")
    assert set(found.accuracy) == {f"{rate}/{name}" for rate in rates for name in LAYERS}
    best = {name: max(found.accuracy[f"{rate}/{name}"] for rate in rates) for name in LAYERS}
    assert best["1"] > 0.9
    assert max(best["0"], best["2"]) < 0.6


def test_a_probe_does_not_depend_on_those_beside_it(tmp_path):
    together = probes(LAYERS)
    train(together, TRAINING.loop(CLIPS), tmp_path / "together", "probe")
    alone = probes(LAYERS, replace(TRAINING, learning_rates=(1e-2,)), names=["1"])
    train(alone, TRAINING.loop(CLIPS), tmp_path / "alone", "probe")
    weights = load_file(tmp_path / "together/probes.safetensors")
    for name, value in load_file(tmp_path / "alone/probes.safetensors").items():
        torch.testing.assert_close(weights[name], value, rtol=1e-5, atol=1e-7)
    assert alone.accuracy["0_01/1"] == together.accuracy["0_01/1"]


def test_each_epoch_sees_each_clip_once():
    seen = probes(LAYERS)
    per_epoch = CLIPS // TRAINING.batch
    orders = []
    for epoch in range(3):
        steps = range(epoch * per_epoch, (epoch + 1) * per_epoch)
        rows = torch.cat([batch for step in steps for batch in seen.batches(step)])
        assert rows.sort().values.tolist() == list(range(CLIPS))
        orders.append(rows.tolist())
    assert orders[0] != orders[1] != orders[2]


def test_few_clips_are_seen_in_as_many_epochs():
    assert TRAINING.loop(96).steps == 6 * 6
    assert TRAINING.loop(10).steps == 6
    few = Probes(
        TRAINING, planted(LAYERS, clips=10), planted(LAYERS), lambda _: nn.Identity(), ["0"]
    )
    assert [len(batch) for batch in few.batches(3)] == [10]


@pytest.mark.parametrize("batch", [1, 7, 60, 64])
def test_predictions_come_in_the_clips_order(batch):
    labels = torch.randint(CLASSES, (60,), generator=torch.Generator().manual_seed(1))
    shown = Labelled(lambda rows: {"x": F.one_hot(labels[rows], CLASSES)}, labels)
    guesses = shown.predictions(lambda features: {"same": features["x"].float()}, batch)
    assert torch.equal(guesses["same"], labels)


@pytest.fixture(scope="module")
def trunk() -> Llama:
    torch.manual_seed(0)
    size = LlamaSize(width=16, layers=3, heads=2, mlp_width=24, init_std=0.2)
    return Llama(size, 128).eval().requires_grad_(False)


def test_features_are_the_trunks_hidden_states_stored_or_not(trunk):
    tokens = torch.randint(4, 34, (7, 10))
    expected = trunk.hidden_states(tokens[:, :-1], (1, 3))
    done = []
    fresh = FrozenFeatures(trunk, tokens, (1, 3))
    stored = FrozenFeatures(trunk, tokens, (1, 3), batch=3, limit=10**6, advance=done.append)
    assert (fresh.bytes, stored.bytes) == (0, 7 * 2 * 8 * 16 * 2)
    assert sum(done) == 7
    rows = torch.tensor([5, 0, 6])
    for features in (fresh, stored):
        found = features(rows)
        assert set(found) == {"1", "3"}
        for layer in (1, 3):
            assert found[str(layer)].dtype == torch.float32
            # bf16 has 8 bits: 3 blocks of it stay within a few percent of the largest state.
            torch.testing.assert_close(
                found[str(layer)], expected[layer][rows, 1:], rtol=0.05, atol=0.1
            )


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
    assert {item.split for part in (train_part, chosen_by) for item in part.items} == {"train"}
    assert {item.split for item in test.items} == {"test"}
    assert not {i.key for i in train_part.items} & {i.key for i in chosen_by.items}
    for part in (train_part, chosen_by, test):
        for i, item in enumerate(part.items):
            codes = data.codes(item)
            first = {9: 2, 3: 0, 4: 0, 6: 1, 5: 0}[item.frames]
            assert part.firsts[i] == first
            frames = [codes[min(first + k, item.frames - 1)].ravel().tolist() for k in range(4)]
            assert part.tokens[i].tolist() == [1, *(c + 4 for f in frames for c in f), 2]
            assert classes[part.labels(classes)[i]] == item.label


def test_labels_that_are_missing_or_strange_are_named(tmp_path):
    visual = save_tokenizer(tmp_path / "tokenizer")
    source = make_videos(tmp_path / "plain", [5] * 20)
    data = make_dataset(source, visual, tmp_path / "unlabelled")
    with pytest.raises(UserError, match="has no label"):
        probe_splits(data, 0.3, 4)
    make_videos(tmp_path / "one" / "cat", [5] * 20)
    data = make_dataset(tmp_path / "one", visual, tmp_path / "data")
    with pytest.raises(UserError, match="1 class in the training part"):
        probe_splits(data, 0.3, 4)
    with pytest.raises(UserError, match=r"label 'cat' of cat/video000\.mp4 does not occur"):
        item_clips(data, np.array([0]), 4).labels(["dog", "eel"])
