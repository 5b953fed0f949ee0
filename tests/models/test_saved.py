import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from tests.tiny import save_tokenizer
from toto.errors import UserError
from toto.generation.sampling import Sampling, sample
from toto.models.llama import Llama
from toto.models.saved import load_model, open_weights, read_shape, save_model
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


def assert_both_generate_alike(ours: Llama, theirs: LlamaForCausalLM) -> None:
    """The most likely codes, by our cache and theirs; what is never sampled is in their config."""
    prompt = prompts()
    generated = theirs.generate(
        prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=24
    )
    for sampling in (Sampling(temperature=0.0), Sampling(top_k=1)):
        sampled = sample(ours, VOCABULARY, prompt, 24, sampling)
        assert len(sampled.unique()) > 3
        assert generated[:, prompt.shape[1] :].tolist() == sampled.tolist()


def test_transformers_generates_our_most_likely_codes(pair):
    ours, folder = pair
    assert_both_generate_alike(ours, AutoModelForCausalLM.from_pretrained(folder))


def as_before_version_5(folder: Path) -> None:
    """config.json as transformers 4 wrote it."""
    config = json.loads((folder / "config.json").read_text())
    rope = config.pop("rope_parameters")
    config |= {"rope_theta": rope["rope_theta"], "rope_scaling": None}
    config |= {"torch_dtype": config.pop("dtype"), "transformers_version": "4.51.3"}
    (folder / "config.json").write_text(json.dumps(config))


def with_the_head_alone(folder: Path) -> None:
    """A tied table under the head's name, as `safetensors.torch.save_model` stores it."""
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"] = weights.pop("model.embed_tokens.weight")
    save_file(weights, folder / "model.safetensors")


def with_both_tables(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    save_file(weights, folder / "model.safetensors")


WAYS: dict[str, tuple[dict, Callable[[Path], None]]] = {
    "as it is": ({}, lambda f: None),
    "in shards": ({"max_shard_size": "12KB"}, lambda f: None),
    "by version 4": ({}, as_before_version_5),
    "without `toto`": ({}, lambda f: edit(f, toto=None)),
    "with the least of a config": (
        {},
        lambda f: edit(f, head_dim=None, num_key_value_heads=None, architectures=None),
    ),
}
TIED_WAYS = {
    "with the head alone": ({}, with_the_head_alone),
    "with both tables": ({}, with_both_tables),
}


@pytest.mark.parametrize(
    ("size", "way"),
    [(size, way) for size in SIZES for way in WAYS] + [("tied", way) for way in TIED_WAYS],
)
@torch.no_grad()
def test_there_and_back(tmp_path, size, way):
    ours = saved(tmp_path, SIZES[size])
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    options, change = (WAYS | TIED_WAYS)[way]
    theirs.save_pretrained(tmp_path / "theirs", **options)
    assert (tmp_path / "theirs" / "model.safetensors").exists() == (way != "in shards")
    change(tmp_path / "theirs")
    back, details = load_model(tmp_path / "theirs")
    assert details == ({} if way == "without `toto`" else DETAILS)
    assert back.size == ours.size
    torch.testing.assert_close(back(prompts()), theirs(prompts()).logits, atol=2e-5, rtol=1e-5)
    assert torch.equal(back(prompts()), ours(prompts()))
    assert_both_generate_alike(back, theirs)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@torch.no_grad()
def test_other_precisions_become_fp32(tmp_path, dtype):
    saved(tmp_path, SIZES["untied"])
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=dtype)
    theirs.save_pretrained(tmp_path / "theirs")
    back, _ = load_model(tmp_path / "theirs")
    assert {p.dtype for p in back.parameters()} == {torch.float32}
    expected = theirs.float()(prompts()).logits
    torch.testing.assert_close(back(prompts()), expected, atol=2e-5, rtol=1e-5)


@torch.no_grad()
def test_a_model_that_transformers_made(tmp_path):
    torch.manual_seed(7)
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=24,
        intermediate_size=36,
        num_hidden_layers=2,
        num_attention_heads=3,
        initializer_range=0.3,
        rope_parameters={"rope_type": "default", "rope_theta": 300.0},
    )
    theirs = LlamaForCausalLM(config).eval()
    theirs.save_pretrained(tmp_path / "theirs")
    size, rows, details = read_shape(tmp_path / "theirs")
    assert size == LlamaSize(
        width=24, layers=2, heads=3, mlp_width=36, rope_base=300.0, init_std=0.3
    )
    assert (rows, details) == (50, {})
    ours, _ = load_model(tmp_path / "theirs")
    expected = theirs(prompts()).logits
    assert expected.std() > 0.1
    torch.testing.assert_close(ours(prompts()), expected, atol=2e-5, rtol=1e-5)


def test_single_weights_are_read_by_name(pair):
    ours, folder = pair
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    theirs.save_pretrained(folder.with_name("theirs"), max_shard_size="12KB")
    with open_weights(folder) as whole, open_weights(folder.with_name("theirs")) as half:
        for name, value in ours.state_dict().items():
            assert torch.equal(whole(name), value), name
            assert half(name).dtype == torch.float32
            assert torch.equal(half(name), value.bfloat16().float()), name


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


@pytest.mark.parametrize("tied", [False, True])
@torch.no_grad()
def test_a_model_under_mup_is_saved_as_a_plain_one(tmp_path, tied):
    size = LlamaSize(
        width=32, layers=3, heads=4, mlp_width=48, init_std=0.3, tied_head=tied, mup_base=8
    )
    ours = saved(tmp_path, size)
    loaded, details = load_model(tmp_path / "model")
    assert details == {**DETAILS, "mup_base": 8}
    assert (loaded.size.mup_base, loaded.size.tied_head) == (None, False)
    expected = ours(prompts())
    assert expected.std() > 0.1
    torch.testing.assert_close(loaded(prompts()), expected, atol=2e-5, rtol=1e-5)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    torch.testing.assert_close(theirs(prompts()).logits, expected, atol=2e-5, rtol=1e-5)


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


DAMAGES: dict[str, Callable[[Path], object]] = {
    "no folder": lambda f: f.rename(f.with_name("elsewhere")),
    "no config": lambda f: (f / "config.json").unlink(),
    "half a config": lambda f: truncate(f / "config.json", 200),
    "a config that is a list": lambda f: (f / "config.json").write_text("[1]"),
    "a missing width": lambda f: edit(f, hidden_size=None),
    "a width that is a word": lambda f: edit(f, hidden_size="wide"),
    "no heads": lambda f: edit(f, num_attention_heads=0),
    "an epsilon that is a word": lambda f: edit(f, rms_norm_eps="small"),
    "a rotary embedding that is a number": lambda f: edit(f, rope_parameters=10000),
    "a rope base that is a word": lambda f: edit(f, rope_parameters={"rope_theta": "high"}),
    "`toto` that is a word": lambda f: edit(f, toto="yes"),
    "other widths": lambda f: edit(f, intermediate_size=64),
    "one block more": lambda f: edit(f, num_hidden_layers=4),
    "one block less": lambda f: edit(f, num_hidden_layers=2),
    "no weights": lambda f: (f / "model.safetensors").unlink(),
    "half the weights": lambda f: truncate(f / "model.safetensors", 9000),
    "a few bytes of weights": lambda f: truncate(f / "model.safetensors", 5),
    "weights that are text": lambda f: (f / "model.safetensors").write_text("weights " * 100),
    "a head that is not there": lambda f: with_changed_weights(f, {"lm_head.weight": None}),
    "a shard that is not there": lambda f: (f / index(f, 2)).unlink(),
    "an index without a map": lambda f: (index(f), (f / INDEX).write_text("{}")),
}


INDEX = "model.safetensors.index.json"


def index(folder: Path, number: int = 0) -> str:
    """Save the weights again, in shards; the name of one."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="12KB")
    return sorted(path.name for path in folder.glob("model-*.safetensors"))[number]


def with_changed_weights(folder: Path, changes: dict[str, torch.Tensor | None]) -> None:
    weights = load_file(folder / "model.safetensors") | changes
    kept = {name: value for name, value in weights.items() if value is not None}
    save_file(kept, folder / "model.safetensors")


@pytest.mark.parametrize("damage", DAMAGES, ids=str)
def test_damaged_folders_are_refused_in_one_line(tmp_path, damage):
    saved(tmp_path, SIZES["untied"])
    DAMAGES[damage](tmp_path / "model")
    with pytest.raises(UserError) as caught:
        load_model(tmp_path / "model")
    assert str(tmp_path / "model") in str(caught.value)
    assert "\n" not in str(caught.value)


# What is changed in config.json, and what the error must name: what was found, what is expected.
STRANGERS: dict[str, tuple[dict[str, object], list[str]]] = {
    "another kind of model": ({"model_type": "gpt2"}, ["'gpt2'", "'llama'"]),
    "a trunk without its head": ({"architectures": ["LlamaModel"]}, ["LlamaModel", "ForCausalLM"]),
    "grouped queries": ({"num_key_value_heads": 2}, ["num_key_value_heads is 2", "4"]),
    "heads of their own width": ({"head_dim": 16}, ["head_dim is 16", "8"]),
    "biases of attention": ({"attention_bias": True}, ["attention_bias is True", "False"]),
    "biases of the MLP": ({"mlp_bias": True}, ["mlp_bias is True", "False"]),
    "another activation": ({"hidden_act": "gelu"}, ["hidden_act is 'gelu'", "'silu'"]),
    "scaled rope": (
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}},
        ["'linear'", "'default'"],
    ),
    "rope scaled as before 5": ({"rope_scaling": {"type": "dynamic"}}, ["'dynamic'", "'default'"]),
    "part of the rope": (
        {"rope_parameters": {"rope_theta": 10000.0, "partial_rotary_factor": 0.5}},
        ["partial_rotary_factor"],
    ),
    "two rope bases": ({"rope_theta": 50000.0}, ["rope_theta is 50000.0", "10000.0"]),
    "a sliding window": ({"sliding_window": 128}, ["sliding_window is 128"]),
    "quantised weights": ({"quantization_config": {"bits": 4}}, ["quantization_config", "4"]),
    "what nobody knows": ({"residual_multiplier": 0.2}, ["residual_multiplier is 0.2"]),
    "an odd width of heads": ({"num_attention_heads": 32}, ["32 heads"]),
    "a table of another height": ({"vocab_size": 256}, ["[128, 32]", "[256, 32]"]),
}


@pytest.mark.parametrize("stranger", STRANGERS, ids=str)
def test_what_our_llama_does_not_compute_is_refused_by_name(tmp_path, stranger):
    saved(tmp_path, SIZES["untied"])
    changes, words = STRANGERS[stranger]
    edit(tmp_path / "model", **changes)
    with pytest.raises(UserError) as caught:
        load_model(tmp_path / "model")
    for word in (str(tmp_path / "model"), *words):
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


# The same settings, switched off or of no consequence.
HARMLESS = {
    "use_sliding_window": False,
    "rope_scaling": {"rope_type": "default"},
    "attention_dropout": 0.1,
    "use_cache": False,
    "_name_or_path": "somewhere",
}


def test_what_changes_nothing_is_accepted(tmp_path):
    ours = saved(tmp_path, SIZES["untied"])
    edit(tmp_path / "model", **HARMLESS)
    edit(tmp_path / "model", rope_theta=10000)
    assert torch.equal(load_model(tmp_path / "model")[0](prompts()), ours(prompts()))


WEIGHTS: dict[str, tuple[str, dict[str, torch.Tensor | None], str]] = {
    "a bias": ("untied", {"model.layers.0.self_attn.q_proj.bias": torch.ones(32)}, "is unknown"),
    "no norm": ("untied", {"model.norm.weight": None}, "model.norm.weight is missing"),
    "whole numbers": (
        "untied",
        {"model.norm.weight": torch.ones(32, dtype=torch.int8)},
        "model.norm.weight is I8",
    ),
    "a tied head of its own": (
        "tied",
        {"lm_head.weight": torch.ones(128, 32)},
        "tie_word_embeddings is true",
    ),
}


@pytest.mark.parametrize("change", WEIGHTS, ids=str)
def test_weights_that_do_not_fit_are_refused_by_name(tmp_path, change):
    size, changes, words = WEIGHTS[change]
    saved(tmp_path, SIZES[size])
    with_changed_weights(tmp_path / "model", changes)
    with pytest.raises(UserError, match=words):
        load_model(tmp_path / "model")
