import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from tests.tiny import save_tokenizer
from toto.errors import UserError
from toto.generation.sampling import Sampling, sample
from toto.models.llama import Llama
from toto.models.saved import load_model, save_model
from toto.models.sizes import LlamaSize
from toto.tokens.vocabulary import IMAGES, VIDEO, Vocabulary

VOCABULARY = Vocabulary(codebook_size=30, rows=2, cols=2)
DETAILS = {"vocabulary": VOCABULARY.to_dict(), "frames": 4, "view": {"stride": 2, "size": 8}}
SIZES = {
    "untied": LlamaSize(width=32, layers=3, heads=4, mlp_width=48, init_std=0.15),
    "tied": LlamaSize(width=32, layers=3, heads=4, mlp_width=48, init_std=0.15, tied_head=True),
    "other numbers": LlamaSize(
        width=32, layers=2, heads=2, mlp_width=40, rope_base=500.0, norm_eps=1e-3, init_std=0.15
    ),
}


def saved(folder: Path, size: LlamaSize) -> Llama:
    torch.manual_seed(1)
    model = Llama(size, VOCABULARY.size).eval().requires_grad_(False)
    for name, value in model.named_parameters():
        if "norm" in name:  # ones would hide a norm in the wrong place
            value.copy_(torch.rand_like(value) + 0.5)
    save_tokenizer(folder / "tokenizer")
    save_model(model, DETAILS, folder / "tokenizer", folder / "model")
    return model


@pytest.fixture(params=SIZES, ids=str)
def pair(request, tmp_path) -> tuple[Llama, Path]:
    return saved(tmp_path, SIZES[request.param]), tmp_path / "model"


def prompts() -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    codes = torch.randint(4, 34, (3, 12), generator=generator)
    return torch.cat((torch.tensor([[VIDEO], [VIDEO], [IMAGES]]), codes), dim=1)


@torch.no_grad()
def test_transformers_gives_our_logits_and_hidden_states(pair):
    ours, folder = pair
    theirs = AutoModelForCausalLM.from_pretrained(folder)
    assert type(theirs).__name__ == "LlamaForCausalLM"
    assert theirs.dtype == torch.float32
    output = theirs(prompts(), output_hidden_states=True)
    assert output.logits.std() > 0.1
    torch.testing.assert_close(ours(prompts()), output.logits, atol=2e-5, rtol=1e-5)
    layers = range(ours.size.layers + 1)
    hidden = ours.hidden_states(prompts(), layers)
    hidden[layers[-1]] = ours.model.norm(hidden[layers[-1]])  # Hugging Face's last one is normed
    assert len(output.hidden_states) == len(layers)
    for layer in layers:
        torch.testing.assert_close(hidden[layer], output.hidden_states[layer], atol=2e-5, rtol=1e-5)


def test_transformers_generates_our_most_likely_codes(pair):
    ours, folder = pair
    theirs = AutoModelForCausalLM.from_pretrained(folder)
    prompt = prompts()
    generated = theirs.generate(
        prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=24
    )
    sampled = sample(ours, VOCABULARY, prompt, 24, Sampling(temperature=0.0))
    assert len(sampled.unique()) > 3
    assert generated[:, prompt.shape[1] :].tolist() == sampled.tolist()


def test_transformers_never_samples_a_special_token(tmp_path):
    saved(tmp_path, SIZES["untied"])
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    theirs.lm_head.weight.data.zero_()  # every id of the table is equally likely
    torch.manual_seed(0)
    prompt = prompts().repeat(20, 1)
    generated = theirs.generate(
        prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=10, top_k=0
    )
    new = generated[:, prompt.shape[1] :]
    assert new.shape == (60, 10)
    assert (new.min(), new.max()) == (4, 33)


def test_what_is_saved_is_loaded(pair):
    ours, folder = pair
    loaded, details = load_model(folder)
    assert details == DETAILS
    assert loaded.size == ours.size
    assert not any(p.requires_grad for p in loaded.parameters())
    for name, value in ours.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    if ours.size.tied_head:
        assert loaded.lm_head.weight is loaded.model.embed_tokens.weight
        assert "lm_head.weight" not in load_file(folder / "model.safetensors")


def test_a_saved_model_is_replaced_whole(tmp_path):
    saved(tmp_path, SIZES["untied"])
    saved(tmp_path, SIZES["tied"])
    assert load_model(tmp_path / "model")[0].size == SIZES["tied"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model", "tokenizer"]


def edit(folder: Path, **changes: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    for name, value in changes.items():
        config.pop(name) if value is None else config.update({name: value})
    (folder / "config.json").write_text(json.dumps(config))


def truncate(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


DAMAGES = {
    "no folder": lambda f: f.rename(f.with_name("elsewhere")),
    "no config": lambda f: (f / "config.json").unlink(),
    "half a config": lambda f: truncate(f / "config.json", 200),
    "a config that is a list": lambda f: (f / "config.json").write_text("[1]"),
    "another kind of model": lambda f: edit(f, model_type="gpt2"),
    "a LLaMA of somebody else": lambda f: edit(f, toto=None),
    "a missing width": lambda f: edit(f, hidden_size=None),
    "a missing rope base": lambda f: edit(f, rope_parameters=None),
    "a width that is a word": lambda f: edit(f, hidden_size="wide"),
    "other widths": lambda f: edit(f, intermediate_size=64),
    "one block more": lambda f: edit(f, num_hidden_layers=4),
    "no weights": lambda f: (f / "model.safetensors").unlink(),
    "half the weights": lambda f: truncate(f / "model.safetensors", 9000),
    "a few bytes of weights": lambda f: truncate(f / "model.safetensors", 5),
    "weights that are text": lambda f: (f / "model.safetensors").write_text("weights " * 100),
}


@pytest.mark.parametrize("damage", DAMAGES, ids=str)
def test_damaged_and_foreign_folders_are_refused_in_one_line(tmp_path, damage):
    saved(tmp_path, SIZES["untied"])
    DAMAGES[damage](tmp_path / "model")
    with pytest.raises(UserError) as caught:
        load_model(tmp_path / "model")
    assert str(tmp_path / "model") in str(caught.value)
    assert "\n" not in str(caught.value)
