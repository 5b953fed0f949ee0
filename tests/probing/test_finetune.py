import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

from tests.children import run_until_write
from tests.tiny import make_dataset, make_images, save_tokenizer
from toto.errors import UserError
from toto.models.llama import Llama, rotate
from toto.models.saved import load_model
from toto.models.sizes import LlamaSize
from toto.probing.finetune.config import FineTune
from toto.probing.finetune.mixing import Mix, cut_and_paste, draw_mix, mixed_targets
from toto.probing.finetune.network import Classifier, Head, layer_factor
from toto.probing.finetune.objective import Examples, FineTuning
from toto.probing.finetune.saved import load_classifier
from toto.probing.trunk import trainable_copy
from toto.tokens.store import TokenDataset
from toto.tokens.vocabulary import OFFSET, VIDEO, Vocabulary
from toto.training.config import AdamW
from toto.training.loop import train
from toto.training.metrics import read_metrics
from toto.training.optimizer import build_optimizers
from toto.training.world import World

SIZE = LlamaSize(width=16, layers=3, heads=2, mlp_width=24, init_std=0.3)
VOCABULARY = Vocabulary(codebook_size=30, rows=2, cols=2)
CLASSES = ["cat", "dog", "eel"]
CLIPS = 24
CONFIG = FineTune(
    epochs=4,
    warmup_epochs=1,
    batch=8,
    micro_batch=4,
    base_learning_rate=0.2,
    drop_path=0.3,
    precision="fp32",
    log_every=1,
    checkpoint_every=5,
)


def trunk(**changes: object) -> Llama:
    torch.manual_seed(0)
    return Llama(replace(SIZE, **changes), VOCABULARY.size).eval().requires_grad_(False)


def sequences(count: int, frames: int = 2, seed: int = 0) -> torch.Tensor:
    codes = torch.randint(27, (count, frames * 4), generator=torch.Generator().manual_seed(seed))
    return torch.cat((torch.full((count, 1), VIDEO), codes + OFFSET), 1)


def planted(count: int = CLIPS, seed: int = 0) -> Examples:
    """Noise, but for a code of each frame that says the class."""
    tokens = sequences(count, seed=seed)
    labels = torch.randint(3, (count,), generator=torch.Generator().manual_seed(seed))
    tokens[:, 3] = tokens[:, 7] = OFFSET + 27 + labels
    return Examples(lambda rows, turn: tokens[rows], labels)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> TokenDataset:
    """What the objective asks of its data set: a grid, a tokenizer and a view."""
    folder = tmp_path_factory.mktemp("data")
    tokenizer = save_tokenizer(folder / "tokenizer")
    return make_dataset(make_images(folder / "images", 3), tokenizer, folder / "data")


def objective(
    data: TokenDataset, config: FineTune = CONFIG, clips: int = CLIPS, **size: object
) -> FineTuning:
    model = trainable_copy(trunk(**size), config.rope_base)
    return FineTuning(config, model, CLASSES, planted(clips), planted(seed=1), data, 2, "video")


def test_learning_rates_fall_from_layer_to_layer_as_in_mae():
    """lr_decay.py written out: 12 blocks are layers 1 to 12 between embedding and head."""
    num_layers = 12 + 1
    scales = [0.65 ** (num_layers - i) for i in range(num_layers + 1)]
    names = {
        "trunk.model.embed_tokens.weight": 0,
        "trunk.model.layers.0.self_attn.q_proj.weight": 1,
        "trunk.model.layers.1.mlp.up_proj.weight": 2,
        "model.layers.11.input_layernorm.weight": 12,
        "trunk.model.norm.weight": 13,
        "head.read.weight": 13,
    }
    for name, layer in names.items():
        assert layer_factor(name, 12, 0.65) == pytest.approx(scales[layer])


def test_a_layers_decay_shrinks_with_its_rate_where_it_should():
    """A step without gradients, of torch's AdamW: by rate x decay, or by rate x factor x decay."""
    for alike, expected in ((True, 1 - 0.1 * 0.5), (False, 1 - 0.1 * 0.25 * 0.5)):
        module = nn.Linear(2, 2)
        before = module.weight.detach().clone()
        config = AdamW(learning_rate=0.1, weight_decay=0.5)
        (optimizer,) = build_optimizers(module, config, lambda name: 0.25, alike)
        for parameter in module.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        torch.testing.assert_close(module.weight, before * expected)


def test_full_attention_is_attention_without_a_mask():
    """Against softmax(q k / sqrt(d)) v over all positions; causal attention stays as it was."""
    model, tokens = trunk(), sequences(5)
    before = model.hidden_states(tokens, (0, 1, 3))
    attention = model.model.layers[0].self_attn
    x = torch.randn(5, 9, 16)
    cos, sin = model.rotary(0, 9, x.device)
    causal = attention(x, cos, sin, None, 0)
    Classifier(model, "full", "mean", 3)
    q, k, v = (
        F.linear(x, p.weight).view(5, 9, 2, 8).transpose(1, 2)
        for p in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    weights = (rotate(q, cos, sin) @ rotate(k, cos, sin).mT / 8**0.5).softmax(-1)
    expected = F.linear((weights @ v).transpose(1, 2).flatten(-2), attention.o_proj.weight)
    full = attention(x, cos, sin, None, 0)
    torch.testing.assert_close(full, expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(full[:, :-1], causal[:, :-1], atol=1e-2)
    torch.testing.assert_close(full[:, -1], causal[:, -1])  # the last one sees all either way

    Classifier(model, "causal", "mean", 3)
    assert torch.equal(attention(x, cos, sin, None, 0), causal)
    for layer, states in model.hidden_states(tokens, (0, 1, 3)).items():
        assert torch.equal(states, before[layer])


@pytest.mark.parametrize("pool", ["mean", "attention"])
def test_the_head_reads_what_is_pooled_of_the_last_layer_after_its_norm(pool):
    model, tokens = trunk(), sequences(5)
    classifier = Classifier(model, "causal", pool, 3)
    read = classifier.head.read
    final = read.classifier.weight if pool == "attention" else read.weight
    assert float(final.detach().std()) == pytest.approx(2e-5, rel=0.4)
    nn.init.normal_(final)
    hidden = model.model.norm(model.hidden_states(tokens, (3,))[3])[:, 1:]
    if pool == "mean":
        expected = F.linear(hidden.mean(1), read.weight, read.bias)
    else:
        keys, values = hidden @ read.k.weight.T, hidden @ read.v.weight.T
        keys, values = (z.view(5, 8, 2, 8) for z in (keys, values))
        weights = (torch.einsum("hd,bthd->bth", read.query, keys) / 8**0.5).softmax(1)
        pooled = torch.einsum("bth,bthd->bhd", weights, values).flatten(1)
        expected = pooled @ read.classifier.weight.T
    torch.testing.assert_close(classifier(tokens), expected, rtol=1e-4, atol=1e-4)


def test_dropped_paths_are_left_out_and_the_rest_keeps_its_expectation(data):
    fine, tokens = objective(data), sequences(4)
    model = fine.model.eval()
    nn.init.normal_(model.head.read.weight)
    whole = model(tokens)
    assert torch.equal(model(tokens, kept=torch.ones(4, 3, 2)), whole)

    # By hand: the first clip without the second block's attention, its MLP doubled.
    kept = torch.ones(4, 3, 2)
    kept[0, 1] = torch.tensor([0.0, 2.0])
    found = model(tokens, kept=kept)
    assert torch.equal(found[1:], whole[1:])
    blocks = model.trunk.model.layers
    model.drop_path.kept = None
    x = model.trunk.hidden_states(tokens[:1], (1,))[1]
    x = x + 2 * blocks[1].mlp(blocks[1].post_attention_layernorm(x))
    x = blocks[2](x, *model.trunk.rotary(0, x.shape[1], x.device), None, 2)
    expected = model.head(model.trunk.model.norm(x)[:, 1:])
    torch.testing.assert_close(found[:1], expected)

    random = np.random.default_rng(0)
    drawn = fine._kept(random, 20_000)
    rates = [0.0, 0.15, 0.3]
    torch.testing.assert_close(drawn.mean(0), torch.ones(3, 2), rtol=0, atol=0.02)
    dropped = (drawn == 0).float().mean(0)
    expected_rates = torch.tensor(rates)[:, None].expand(3, 2)
    torch.testing.assert_close(dropped, expected_rates, rtol=0, atol=0.02)
    assert objective(data, replace(CONFIG, drop_path=0.0)).batches(0)[0][3] is None


def drawn(mixup: float, cutmix: float, count: int = 4000) -> Mix:
    return draw_mix(np.random.default_rng(0), count, (8, 6), mixup, cutmix)


def test_nothing_is_mixed_where_neither_is_asked_for():
    mix = drawn(0.0, 0.0)
    assert (mix.embedding == 1).all() and (mix.label == 1).all() and not mix.boxes.any()


def test_mixup_shares_labels_as_it_shares_embeddings():
    mix = drawn(0.8, 0.0)
    assert not mix.boxes.any()
    np.testing.assert_array_equal(mix.embedding, mix.label)
    # Beta(a, a) has mean 1/2 and variance 1 / (4 (2 a + 1)).
    assert mix.label.mean() == pytest.approx(0.5, abs=0.02)
    assert mix.label.var() == pytest.approx(1 / (4 * 2.6), rel=0.05)


def test_cutmix_shares_labels_by_the_area_of_its_box():
    mix = drawn(0.0, 1.0)
    assert (mix.embedding == 1).all()
    np.testing.assert_allclose(mix.label, 1 - mix.boxes.mean((1, 2)))
    for box in mix.boxes[:200]:  # one box: as many codes as its sides span
        rows, cols = box.any(1).sum(), box.any(0).sum()
        assert box.sum() == rows * cols
        assert not np.diff(np.flatnonzero(box.any(1)), 2).any()
    sizes = mix.boxes.sum((1, 2))
    assert sizes.max() == 48 and 0 < sizes.mean() < 24  # cut off at the border


def test_with_both_each_clip_gets_one_of_them():
    mix = drawn(0.8, 1.0)
    cut, up = mix.boxes.any((1, 2)), mix.embedding < 1
    assert not (cut & up).any()
    assert up.mean() == pytest.approx(0.5, abs=0.03)


def test_boxes_are_the_same_in_all_frames():
    tokens, others = sequences(5, frames=3), sequences(5, frames=3, seed=1)
    boxes = np.zeros((5, 2, 2), bool)
    boxes[1, 0] = boxes[2] = True
    mixed = cut_and_paste(tokens, others, boxes)
    assert torch.equal(mixed[[0, 3, 4]], tokens[[0, 3, 4]])
    assert torch.equal(mixed[2], others[2])
    for frame in range(3):
        at = 1 + 4 * frame
        assert torch.equal(mixed[1, at : at + 2], others[1, at : at + 2])
        assert torch.equal(mixed[1, at + 2 : at + 4], tokens[1, at + 2 : at + 4])
    assert torch.equal(mixed[:, 0], tokens[:, 0])


def test_mixed_labels_are_probabilities():
    targets = mixed_targets(
        torch.tensor([0, 2]), torch.tensor([1, 2]), torch.tensor([0.7, 0.4]), 4, 0.1
    )
    expected = [[0.63 + 0.025, 0.27 + 0.025, 0.025, 0.025], [0.025, 0.025, 0.925, 0.025]]
    torch.testing.assert_close(targets, torch.tensor(expected))
    # Smoothing as torch defines it.
    logits, labels = torch.randn(5, 4), torch.tensor([3, 1, 0, 0, 2])
    alone = mixed_targets(labels, labels, torch.ones(5), 4, 0.1)
    torch.testing.assert_close(
        F.cross_entropy(logits, alone), F.cross_entropy(logits, labels, label_smoothing=0.1)
    )


def test_mixed_embeddings_are_what_the_blocks_read():
    model, tokens, others = trunk(), sequences(4), sequences(4, seed=1)
    classifier = Classifier(model, "causal", "mean", 3)
    nn.init.normal_(classifier.head.read.weight)
    share = torch.tensor([1.0, 0.0, 0.25, 0.5])
    found = classifier(tokens, others, share)
    torch.testing.assert_close(found[0], classifier(tokens)[0])
    torch.testing.assert_close(found[1], classifier(others)[1])
    table = model.model.embed_tokens.weight
    x = 0.25 * table[tokens[2:3]] + 0.75 * table[others[2:3]]
    cos_sin = model.rotary(0, x.shape[1], x.device)
    for layer, block in enumerate(model.model.layers):
        x = block(x, *cos_sin, None, layer)
    torch.testing.assert_close(found[2:3], classifier.head(model.model.norm(x)[:, 1:]))


def test_every_clip_comes_once_in_an_epoch(data):
    fine = objective(data, replace(CONFIG, batch=10, micro_batch=5))
    places = [fine._clips(step) for step in range(12)]  # 5 epochs of 24 clips in steps of 10
    rows, epochs = (np.concatenate(part) for part in zip(*places, strict=True))
    assert epochs.tolist() == [epoch for epoch in range(5) for _ in range(CLIPS)]
    orders = rows.reshape(5, CLIPS)
    assert (np.sort(orders) == np.arange(CLIPS)).all()
    assert len({tuple(order) for order in orders.tolist()}) == 5


def test_processes_share_a_step_as_one_would_take_it(data):
    """The same clips, partners, boxes and dropped paths, whoever has them."""
    fine = objective(data)
    whole = [torch.cat(parts) for parts in zip(*fine.batches(3), strict=True)]
    shares = [fine.batches(3, World(rank, 2)) for rank in range(2)]
    assert all(len(batch[0]) == 4 for share in shares for batch in share)
    parts = zip(*(batch for share in shares for batch in share), strict=True)
    for a, b in zip(whole, map(torch.cat, parts), strict=True):
        assert torch.equal(a, b)
    assert (whole[2] < 1).any() and (whole[3] == 0).any()


@pytest.mark.parametrize(("attention", "pool"), [("causal", "mean"), ("full", "attention")])
def test_planted_classes_are_learned_and_the_model_is_saved(data, tmp_path, attention, pool):
    config = replace(
        CONFIG, epochs=15, attention=attention, pool=pool, layer_decay=0.8, rope_base=500.0
    )
    config = replace(config, batch=16, micro_batch=16, mixup=0.2, cutmix=0.2, drop_path=0.1)
    config = replace(config, log_every=30, checkpoint_every=90)
    fine = objective(data, config, clips=96)
    first = sum(float(fine.loss(batch, 0)[0].detach()) for batch in fine.batches(0))
    assert first == pytest.approx(np.log(3), abs=0.01)  # the head begins with nothing
    train(fine, config.loop(96, "cpu"), tmp_path, "test")
    fine.modules.eval()
    rows = read_metrics(tmp_path)
    assert rows[-1]["held_out_accuracy"] > 0.9

    loaded, classes = load_classifier(tmp_path)
    assert classes == CLASSES and loaded.attention == attention
    tokens = planted(seed=1).read(np.arange(CLIPS), 0)
    torch.testing.assert_close(loaded(tokens), fine.model(tokens))
    if attention == "full":
        with pytest.raises(UserError, match="not a saved model"):
            load_model(tmp_path / "model")
        return
    again, details = load_model(tmp_path / "model")
    assert again.size.rope_base == 500.0 and details["frames"] == 2
    hidden = again.hidden_states(tokens, (3,))[3]
    torch.testing.assert_close(hidden, fine.model.trunk.hidden_states(tokens, (3,))[3])
    assert torch.equal(again.lm_head.weight, trunk().lm_head.weight)  # no label reaches it


def test_a_damaged_or_missing_model_is_refused(data, tmp_path):
    with pytest.raises(UserError, match="holds no fine-tuned model"):
        load_classifier(tmp_path)
    fine = objective(data, replace(CONFIG, epochs=1))
    train(fine, fine.config.loop(CLIPS, "cpu"), tmp_path, "test")
    (tmp_path / "head.safetensors").write_bytes(b"nonsense")
    with pytest.raises(UserError, match="damaged"):
        load_classifier(tmp_path)


@pytest.mark.parametrize("tied", [False, True])
def test_weights_move_by_adamw_with_layer_decay(data, tmp_path, tied):
    """The first steps against torch's AdamW, each tensor with a rate and decay of its own."""
    config = replace(CONFIG, epochs=1, weight_decay=0.5)
    fine = objective(data, config, tied_head=tied)
    loop, how = config.loop(CLIPS, "cpu"), config.optimizer(CLIPS)
    assert (loop.steps, how.warmup_steps) == (3, 3)
    assert how.learning_rate == pytest.approx(0.2 * 8 / 256)
    train(fine, loop, tmp_path, "test")

    plain = objective(data, config, tied_head=tied)
    named = [(n, p) for n, p in plain.model.named_parameters() if p.requires_grad]
    assert any("lm_head" in name for name, _ in named) is False
    optimizer = torch.optim.AdamW(
        [
            {"params": [p], "weight_decay": 0.5 if p.ndim > 1 else 0.0, "name": name}
            for name, p in named
        ],
        betas=(0.9, 0.999),
    )
    for step in range(3):
        optimizer.zero_grad()
        for batch in plain.batches(step):
            plain.loss(batch, step)[0].backward()
        for group in optimizer.param_groups:
            factor = layer_factor(group["name"], 3, config.layer_decay)
            group["lr"] = how.learning_rate * (step + 1) / 3 * factor
        optimizer.step()
    for (name, mine), theirs in zip(
        fine.model.named_parameters(), plain.model.parameters(), strict=True
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6, msg=name)


def run_finetuning(folder: Path, run: Path) -> None:
    fine = objective(TokenDataset(folder))
    train(fine, CONFIG.loop(CLIPS, "cpu"), run, "test")


def test_a_kill_at_any_write_changes_no_bit(data, tmp_path):
    run_finetuning(data.folder, tmp_path / "whole")
    names = ("model/model.safetensors", "head.safetensors")
    expected = [load_file(tmp_path / "whole" / name) for name in names]
    killed = 0
    for moment in range(1, 200, 7):
        here = tmp_path / str(moment)
        ended = run_until_write(moment, here, run_finetuning, data.folder, here)
        run_finetuning(data.folder, here)
        for name, weights in zip(names, expected, strict=True):
            found = load_file(here / name)
            assert all(torch.equal(found[key], value) for key, value in weights.items())
        shutil.rmtree(here)
        if ended == 0:
            break
        killed += 1
    assert killed > 2


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"micro_batch": 3}, "batch 8 is no multiple of micro_batch 3"),
        ({"drop_path": 1.0}, "drop_path 1.0: from 0 to below 1"),
        ({"mixup": -1.0}, "mixup -1.0: at least 0"),
        ({"layer_decay": 0.0}, "layer_decay 0.0: above 0"),
        ({"epochs": 0}, "epochs 0: at least 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes, said):
    with pytest.raises(UserError, match=said):
        replace(CONFIG, **changes)


def test_the_head_of_many_classes_begins_as_maes():
    torch.manual_seed(0)
    head = Head("mean", 64, 2, 1000)
    assert float(head.read.weight.detach().std()) == pytest.approx(2e-5, rel=0.02)
    assert not head.read.bias.any()
