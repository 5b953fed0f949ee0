from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F
from transformers import AutoModelForCausalLM

from tests.tiny import save_tokenizer
from toto.errors import UserError
from toto.models.llama import Llama
from toto.models.mup import fold
from toto.models.saved import save_model
from toto.models.sizes import A1, A2, A3, A4, A5, A6, LlamaSize
from toto.studies.config import MupStudy
from toto.studies.mup import MupResult, markov_chains, measure
from toto.tokens.vocabulary import Vocabulary
from toto.training.config import AdamW
from toto.training.optimizer import build_optimizers

VOCABULARY = Vocabulary(codebook_size=30, rows=2, cols=2)
CODES = 64
# 3 times the base: no factor is a power of 2. Heads of 4 at the base, 12 here.
WIDE = LlamaSize(width=48, layers=3, heads=4, mlp_width=72, init_std=0.15, mup_base=16)
BASE = replace(WIDE, width=16, mlp_width=24)


def llama(size: LlamaSize, seed: int = 0) -> Llama:
    torch.manual_seed(seed)
    return Llama(size, CODES)


def reads(count: int = 3, length: int = 14) -> torch.Tensor:
    return torch.randint(CODES, (count, length), generator=torch.Generator().manual_seed(1))


def test_at_its_base_width_it_is_the_standard_parametrisation():
    mup, standard = llama(BASE), llama(replace(BASE, mup_base=None))
    assert torch.equal(mup(reads()), standard(reads()))
    for name, weight in standard.named_parameters():
        assert torch.equal(mup.get_parameter(name), weight)
        assert mup.rate_factor(name) == standard.rate_factor(name) == 1


def test_a_base_of_no_width_is_refused():
    with pytest.raises(UserError, match="mup_base 0"):
        replace(WIDE, mup_base=0)


def in_the_mup_package(mup, size: LlamaSize) -> Llama:
    """Our standard model, made muP's by Microsoft's package; of attention it knows nothing."""
    models = {}
    for width in (size.mup_base, 2 * size.mup_base, size.width):
        mlp_width = size.mlp_width * width // size.width
        models[width] = llama(replace(size, width=width, mlp_width=mlp_width, mup_base=None))
        models[width].lm_head = mup.MuReadout(width, CODES, bias=False)
    base, delta, model = models.values()
    mup.set_base_shapes(model, base, delta=delta, rescale_params=False)
    for block in model.model.layers:
        block.self_attn.scale = base.size.head_width**0.5 / size.head_width
    return model


@pytest.fixture(scope="module")
def mup():
    return pytest.importorskip("mup")


def test_initial_weights_are_those_of_the_mup_package(mup):
    ours, theirs = llama(WIDE), in_the_mup_package(mup, WIDE)
    for name, weight in theirs.named_parameters():
        drawn = torch.empty_like(weight)
        torch.manual_seed(5)
        ours.fill(name, drawn)
        torch.manual_seed(5)
        if weight.ndim == 2:
            mup.init.normal_(weight, std=WIDE.init_std)
        torch.testing.assert_close(drawn, weight.detach())


def test_rates_and_decays_are_those_of_the_mup_package(mup):
    ours, theirs = llama(WIDE), in_the_mup_package(mup, WIDE)
    config = AdamW(learning_rate=0.02, weight_decay=0.3)
    settings = []
    for model, optimizer in (
        (ours, *build_optimizers(ours, config, ours.rate_factor)),
        (theirs, mup.MuAdamW(theirs.parameters(), lr=0.02, weight_decay=0.3)),
    ):
        names = {id(p): name for name, p in model.named_parameters()}
        settings.append(
            {
                names[id(p)]: (group["lr"], group["weight_decay"] if p.ndim == 2 else 0.0)
                for group in optimizer.param_groups
                for p in group["params"]
            }
        )
    assert settings[0].keys() == settings[1].keys()
    for name, setting in settings[0].items():
        assert setting == pytest.approx(settings[1][name]), name


def test_training_takes_the_course_of_the_mup_package(mup):
    """The forward pass, the rates and the decay together."""
    ours, theirs = llama(WIDE), in_the_mup_package(mup, WIDE)
    theirs.load_state_dict(ours.state_dict())
    config = AdamW(learning_rate=0.02, weight_decay=0.3)
    matrices = [p for p in theirs.parameters() if p.ndim == 2]
    vectors = [p for p in theirs.parameters() if p.ndim == 1]
    groups = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
    optimizers = {
        ours: build_optimizers(ours, config, ours.rate_factor)[0],
        theirs: mup.MuAdamW(groups, lr=0.02, weight_decay=0.3, betas=config.betas),
    }
    losses = {}
    for model, optimizer in optimizers.items():
        losses[model] = []
        for _ in range(8):
            tokens = markov_chains(CODES, 8, 16, (0,))
            loss = F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses[model].append(loss.item())
    assert losses[ours] == pytest.approx(losses[theirs], rel=1e-4)
    assert losses[ours][-1] < losses[ours][0] - 0.1


@pytest.mark.parametrize("tied", [False, True])
@torch.no_grad()
def test_folding_keeps_the_model_and_transformers_agrees(tmp_path, tied):
    size = replace(WIDE, tied_head=tied)
    torch.manual_seed(1)
    model = Llama(size, VOCABULARY.size).eval()
    for name, value in model.named_parameters():
        if "norm" in name:  # ones would hide a norm in the wrong place
            value.copy_(torch.rand_like(value) + 0.5)
        if "q_proj" in name or "lm_head" in name:
            value.mul_(6)  # else neither attention nor logits would say much
    before = {name: value.clone() for name, value in model.state_dict().items()}
    folded = fold(model)
    assert (folded.size.mup_base, folded.size.tied_head) == (None, False)
    assert not folded.training

    read = reads()
    expected = model(read)
    torch.testing.assert_close(folded(read), expected, atol=1e-5, rtol=1e-5)
    layers = range(size.layers + 1)
    hidden = folded.hidden_states(read, layers)
    for layer, states in model.hidden_states(read, layers).items():
        torch.testing.assert_close(hidden[layer], states, atol=1e-5, rtol=1e-5)
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())
    # Neither of the two factors may be left out.
    for left in ("lm_head.weight", "model.layers.0.self_attn.q_proj.weight"):
        wrong = Llama(folded.size, VOCABULARY.size)
        wrong.load_state_dict(folded.state_dict() | {left: before[left]})
        assert (wrong(read) - expected).abs().max() > 1e-2

    details = {"vocabulary": VOCABULARY.to_dict(), "frames": 4}
    save_tokenizer(tmp_path / "tokenizer")
    save_model(folded, details, tmp_path / "tokenizer", tmp_path / "model")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    torch.testing.assert_close(theirs(read).logits, expected, atol=2e-5, rtol=1e-5)


def test_a_plain_model_is_folded_into_itself():
    model = llama(replace(WIDE, mup_base=None))
    for name, value in fold(model).state_dict().items():
        assert torch.equal(value, model.state_dict()[name])


def test_the_change_in_a_step_is_the_same_at_every_width():
    """The coordinate check: log-log slopes against the width, 0 for what keeps its size."""
    study = MupStudy(widths=(32, 64, 128, 256), seeds=2, log2_rates=(), device="cpu")
    result = MupResult([run | measure(study, run) for run in study.runs()])
    mup, standard = result.slopes(mup=True), result.slopes(mup=False)
    assert list(mup) == ["layer 0", "layer 1", "layer 2", "logits"]
    assert all(abs(slope) < 0.15 for slope in mup.values()), mup
    # Embeddings learn alike in both; everything above them does not.
    assert abs(standard.pop("layer 0")) < 0.15
    assert all(slope > 0.4 for slope in standard.values()), standard


@pytest.mark.slow
def test_the_best_learning_rate_is_the_same_at_every_width():
    study = MupStudy(widths=(32, 64, 128, 256), device="cpu")
    runs = [run for run in study.runs() if run["check"] == "transfer"]
    result = MupResult([run | measure(study, run) for run in runs])
    spread, lost = {}, {}
    for mup in (True, False):
        losses, best = result.losses(mup), result.best(mup).values()
        spread[mup] = max(best) - min(best)
        # What the one learning rate that serves all widths best costs the width it serves worst.
        lost[mup] = min(
            max(by[rate] - min(by.values()) for by in losses.values()) for rate in study.log2_rates
        )
    assert spread[True] <= 1 and lost[True] < 0.01, (spread, lost)
    assert spread[False] >= 2 and lost[False] > 0.03, (spread, lost)
    # At its best learning rate, a wider model is a better one.
    best = [min(by.values()) for by in result.losses(mup=True).values()]
    assert best == sorted(best, reverse=True)


@pytest.mark.parametrize(
    ("size", "published"),
    [(A1, 14.8e6), (A2, 77.2e6), (A3, 215e6), (A4, 458e6), (A5, 1.2e9), (A6, 1.9e9)],
)
def test_the_scaling_laws_models_have_the_papers_numbers_of_parameters(size, published):
    """Toto, Table 15, at 1,024 codes; the largest two are published in two digits."""
    assert size.parameters(1024) == pytest.approx(published, rel=0.006 if size is not A6 else 0.025)
    # What muP asks of a family: all of a block grows alike.
    assert size.mlp_width / size.width == A1.mlp_width / A1.width
    assert (size.heads, size.mup_base) == (16, 256)
