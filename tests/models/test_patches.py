"""LLaMA over patches against its definition written out."""

import json
import math

import pytest
import torch
from torch.nn import functional as F

from toto.errors import UserError
from toto.models.llama import Llama
from toto.models.patches import PatchLlama, moments, norm_pix, normalise, to_pixels
from toto.models.saved import load_model, read_shape, save_model
from toto.models.sizes import LlamaSize

PATCH, ROWS = 2, 128
SIZE = LlamaSize(width=16, layers=3, heads=2, mlp_width=24, init_std=0.3, rope_base=100.0)


def model(vocabulary: int | None = None, seed: int = 0) -> PatchLlama:
    torch.manual_seed(seed)
    made = PatchLlama(SIZE, PATCH, vocabulary).eval().requires_grad_(False)
    for bias in (made.model.embed_patches.bias, made.head.bias):
        assert not bias.any()
        bias.normal_()
    return made


def sequences(count: int, patches: int, kind: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(patches)
    made = torch.randint(256, (count, 1 + patches, 3 * PATCH**2), generator=generator)
    made[:, 0] = kind
    return made.to(torch.uint8)


def written_out(weights: dict[str, torch.Tensor], patches: torch.Tensor) -> list[torch.Tensor]:
    """Hidden states of one sequence by layer, position after position, and the outputs."""
    mean = torch.tensor([0.485, 0.456, 0.406] * PATCH**2)
    deviation = torch.tensor([0.229, 0.224, 0.225] * PATCH**2)
    heads, d = SIZE.heads, SIZE.width // SIZE.heads

    def normed(x, name):
        return x / (x.square().mean() + SIZE.norm_eps).sqrt() * weights[name]

    def turned(x, position):  # by halves
        angles = position * 100.0 ** (-torch.arange(0, d, 2) / d)
        first, second = x[: d // 2], x[d // 2 :]
        return torch.cat(
            (
                first * angles.cos() - second * angles.sin(),
                second * angles.cos() + first * angles.sin(),
            )
        )

    states = [weights["model.embed_start.weight"][int(patches[0, 0])]]
    for patch in patches[1:]:
        pixels = (patch / 255 - mean) / deviation
        states.append(
            weights["model.embed_patches.weight"] @ pixels + weights["model.embed_patches.bias"]
        )
    layers = [torch.stack(states)]
    for i in range(SIZE.layers):
        w = {
            name.removeprefix(f"model.layers.{i}."): value
            for name, value in weights.items()
            if name.startswith(f"model.layers.{i}.")
        }
        keys, values, out = [], [], []
        for position, x in enumerate(layers[-1]):
            y = x / (x.square().mean() + SIZE.norm_eps).sqrt() * w["input_layernorm.weight"]
            q, k, v = (
                (w[f"self_attn.{name}_proj.weight"] @ y).view(heads, d) for name in ("q", "k", "v")
            )
            keys.append(torch.stack([turned(one, position) for one in k]))
            values.append(v)
            attended = []
            for head in range(heads):
                query = turned(q[head], position)
                scores = torch.stack([query @ key[head] / math.sqrt(d) for key in keys])
                mix = scores.softmax(0)
                attended.append(sum(p * value[head] for p, value in zip(mix, values, strict=True)))
            x = x + w["self_attn.o_proj.weight"] @ torch.cat(attended)
            y = (
                x
                / (x.square().mean() + SIZE.norm_eps).sqrt()
                * w["post_attention_layernorm.weight"]
            )
            gate, up = w["mlp.gate_proj.weight"] @ y, w["mlp.up_proj.weight"] @ y
            out.append(x + w["mlp.down_proj.weight"] @ (gate * torch.sigmoid(gate) * up))
        layers.append(torch.stack(out))
    last = torch.stack([normed(x, "model.norm.weight") for x in layers[-1]])
    return [*layers, last @ weights["head.weight"].T + weights["head.bias"]]


@pytest.mark.parametrize("kind", [1, 3])
@pytest.mark.parametrize("vocabulary", [None, ROWS])
def test_states_and_outputs_are_those_of_a_written_out_pass(kind, vocabulary):
    made, patches = model(vocabulary), sequences(2, 7, kind)
    hidden = made.hidden_states(patches, range(SIZE.layers + 1))
    outputs = made(patches)
    assert outputs.shape == (2, 8, vocabulary or 3 * PATCH**2)
    for row in range(2):
        *layers, last = written_out(made.state_dict(), patches[row])
        for layer, expected in enumerate(layers):
            torch.testing.assert_close(hidden[layer][row], expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(outputs[row], last, rtol=1e-4, atol=1e-4)


def test_no_block_above_the_highest_layer_is_run():
    made = model()
    made.model.layers[2] = None  # type: ignore[assignment]
    assert set(made.hidden_states(sequences(1, 3), [0, 2])) == {0, 2}


def test_a_cache_gives_what_the_whole_sequence_gives():
    made, patches = model(), sequences(2, 9)
    whole, cache = made(patches), made.new_cache(2, 10)
    parts = [made(part, cache) for part in patches.split([4, 1, 5], dim=1)]
    torch.testing.assert_close(torch.cat(parts, 1), whole)


def test_targets_are_mae_s():
    patches = sequences(2, 5)[:, 1:]
    # models_mae.py, on images by ImageNet's mean and deviation.
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    images = ((patches.unflatten(-1, (PATCH, PATCH, 3)) / 255.0 - mean) / std).flatten(-3)
    torch.testing.assert_close(normalise(patches), images)
    centred = images - images.mean(-1, keepdim=True)
    unbiased = centred.square().sum(-1, keepdim=True) / (3 * PATCH**2 - 1)
    torch.testing.assert_close(norm_pix(patches), centred / (unbiased + 1e-6) ** 0.5)


def test_pixels_come_back_with_a_patchs_own_mean_and_deviation():
    patches = sequences(2, 5)[:, 1:]
    assert torch.equal(to_pixels(norm_pix(patches), like=patches), patches)
    like = patches.flip(0) // 4 + 90  # another patch of another contrast
    made = to_pixels(norm_pix(patches), like=like)
    for found, expected in zip(moments(normalise(made)), moments(normalise(like)), strict=True):
        torch.testing.assert_close(found, expected, rtol=0.02, atol=0.02)  # rounded to 8 bits
    assert (norm_pix(made) - norm_pix(patches)).abs().max() < 0.1


@pytest.mark.parametrize("vocabulary", [None, ROWS])
def test_a_saved_model_is_the_same_and_no_llama(tmp_path, vocabulary):
    made, patches = model(vocabulary), sequences(1, 4)
    (tmp_path / "tokenizer").mkdir()
    details = {"frames": 4, "patches": {"patch": PATCH}}
    save_model(made, details, tmp_path / "tokenizer", tmp_path / "model")
    back, said = load_model(tmp_path / "model")
    assert isinstance(back, PatchLlama) and said == details
    assert (back.size, back.patch, back.vocabulary) == (SIZE, PATCH, vocabulary)
    assert torch.equal(back(patches), made(patches))
    with pytest.raises(UserError, match="model_type 'toto_patches', not 'llama'"):
        read_shape(tmp_path / "model")
    from transformers import AutoModelForCausalLM

    with pytest.raises(ValueError, match="toto_patches"):
        AutoModelForCausalLM.from_pretrained(tmp_path / "model")


def test_blocks_have_the_names_of_a_llamas():
    ours, llama = model().state_dict(), Llama(SIZE, ROWS).state_dict()
    shared = {name for name in llama if name.startswith(("model.layers.", "model.norm."))}
    assert {n for n in ours if n.startswith(("model.layers.", "model.norm."))} == shared


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c.update(patch="8"), "damaged: patch '8'"),
        (lambda c: c.pop("toto"), "damaged"),
        (lambda c: c["size"].update(width=32), "do not fit"),
        (lambda c: c["size"].update(mup_base=8), "mup_base and tied_head are for models of tokens"),
        (lambda c: c.update(size=None), "does not fit LlamaSize"),
    ],
)
def test_a_damaged_folder_is_refused(tmp_path, change, said):
    (tmp_path / "tokenizer").mkdir()
    save_model(model(), {}, tmp_path / "tokenizer", tmp_path / "model")
    path = tmp_path / "model/config.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))
    with pytest.raises(UserError, match=said):
        load_model(tmp_path / "model")


def test_the_head_learns_what_is_next():
    """A patch that is always the one before: the loss of regression falls to nothing."""
    torch.manual_seed(0)
    made = PatchLlama(SIZE, PATCH)
    optimizer = torch.optim.Adam(made.parameters(), 1e-2)
    patches = sequences(8, 1)[:, 1:].expand(8, 6, -1)
    start = torch.full_like(patches[:, :1], 1)
    for _ in range(200):
        predicted = made(torch.cat((start, patches[:, :-1]), 1))
        loss = F.mse_loss(predicted[:, 1:], norm_pix(patches)[:, 1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.05
