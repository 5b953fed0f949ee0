import itertools

import pytest
import torch

from toto.errors import UserError
from toto.generation.continuation import continue_codes
from toto.generation.sampling import Sampling, pick, sample
from toto.models.llama import Llama
from toto.models.sizes import LlamaSize
from toto.tokens.vocabulary import VIDEO, Vocabulary

VOCABULARY = Vocabulary(codebook_size=11, rows=2, cols=2)
SIZE = LlamaSize(width=32, layers=2, heads=4, mlp_width=48, init_std=0.15)


def model(init_std: float = 0.15) -> Llama:
    torch.manual_seed(2)
    size = LlamaSize(**{**vars(SIZE), "init_std": init_std})
    return Llama(size, VOCABULARY.size).eval().requires_grad_(False)


def prompt(batch: int = 3, frames: int = 2) -> torch.Tensor:
    codes = torch.randint(11, (batch, frames, 2, 2), generator=torch.Generator().manual_seed(3))
    start = torch.full((batch, 1), VIDEO)
    return torch.cat((start, VOCABULARY.tokens(codes)), dim=1)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(
    "how",
    [
        {"temperature": 0.0},
        {},
        {"temperature": 1.7},
        {"top_k": 3},
        {"top_p": 0.7},
        {"temperature": 1.3, "top_k": 8, "top_p": 0.9},
    ],
    ids=str,
)
def test_the_cache_changes_no_token(how, seed):
    sampling = Sampling(**how, seed=seed)
    cached = sample(model(), VOCABULARY, prompt(), 24, sampling)
    plain = sample(model(), VOCABULARY, prompt(), 24, sampling, cached=False)
    assert cached.shape == (3, 24)
    assert torch.equal(cached, plain)


def test_seeds_decide_the_draws():
    draws = [
        sample(model(), VOCABULARY, prompt(), 12, Sampling(seed=seed)).tolist()
        for seed in (0, 0, 1)
    ]
    assert draws[0] == draws[1] != draws[2]


def test_only_codes_are_sampled():
    wanting = model()
    table = wanting.lm_head.weight
    # Some of the other ids are far likelier than any code.
    table[~VOCABULARY.allowed(len(table))] *= 50
    for how in ({}, {"temperature": 0.0}, {"temperature": 5.0}, {"top_k": 100}, {"top_p": 1.0}):
        tokens = sample(wanting, VOCABULARY, prompt(8), 16, Sampling(**how))
        assert tokens.min() >= 4
        assert tokens.max() < 4 + 11


def test_frames_are_announced():
    seen = []
    sample(model(), VOCABULARY, prompt(), 13, Sampling(), on_frame=lambda: seen.append(1))
    assert len(seen) == 3


def reference(logits, allowed, temperature, top_k, top_p) -> list[float]:
    """The distribution by the definition, one code at a time."""
    weights = {i: float(x / temperature) for i, x in enumerate(logits.double()) if allowed[i]}
    ranked = sorted(weights, key=lambda i: -weights[i])
    if top_k is not None:
        ranked = ranked[:top_k]
    total = sum(torch.tensor(weights[i]).double().exp().item() for i in ranked)
    shares = {i: torch.tensor(weights[i]).double().exp().item() / total for i in ranked}
    if top_p is not None:
        kept, reached = [], 0.0
        for i in ranked:  # the fewest of the most likely that together have top_p
            kept.append(i)
            reached += shares[i]
            if reached >= top_p:
                break
        reached = sum(shares[i] for i in kept)
        shares = {i: shares[i] / reached for i in kept}
    return [shares.get(i, 0.0) for i in range(len(logits))]


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"),
    list(itertools.product((0.6, 1.0, 2.5), (None, 1, 4, 50), (None, 0.05, 0.6, 1.0))),
)
def test_draws_follow_the_definition(temperature, top_k, top_p):
    logits = 2 * torch.randn(16, generator=torch.Generator().manual_seed(4))
    allowed = torch.ones(16, dtype=torch.bool)
    allowed[[0, 5, int(logits.argmax())]] = False
    expected = torch.tensor(reference(logits, allowed, temperature, top_k, top_p))
    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p)
    generator = torch.Generator().manual_seed(7)
    count = 20_000
    drawn = pick(logits.repeat(count, 1), allowed, sampling, generator)
    shares = torch.bincount(drawn.flatten(), minlength=16) / count
    assert (shares[expected == 0] == 0).all()
    deviation = (expected * (1 - expected) / count).sqrt()
    assert ((shares - expected).abs() <= 5 * deviation + 1e-6).all()


def test_temperature_zero_takes_the_most_likely_code():
    logits = torch.tensor([[9.0, 1.0, 3.0, 2.0], [9.0, 5.0, 3.0, 2.0]])
    allowed = torch.tensor([False, True, True, True])
    picked = pick(logits, allowed, Sampling(temperature=0.0), torch.Generator())
    assert picked.tolist() == [[2], [1]]


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"top_k": 0},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"top_p": float("nan")},
    ],
)
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        Sampling(**wrong)


def clip(frames: int) -> torch.Tensor:
    return torch.randint(11, (2, frames, 2, 2), generator=torch.Generator().manual_seed(5))


def test_continuation_within_the_context_is_plain_sampling():
    future = continue_codes(model(), VOCABULARY, clip(2), 2, 4, Sampling(seed=3))
    start = torch.full((2, 1), VIDEO)
    read = torch.cat((start, VOCABULARY.tokens(clip(2))), dim=1)
    tokens = sample(model(), VOCABULARY, read, 8, Sampling(seed=3))
    assert torch.equal(future, VOCABULARY.codes(tokens))


@pytest.mark.parametrize(("known", "frames"), [(1, 9), (3, 5), (4, 4), (7, 6)])
def test_continuation_past_the_context_reads_the_last_frames(known, frames):
    """Each turn is what the last frames before it are continued by, at temperature 0."""
    llama, how = model(), Sampling(temperature=0.0)
    seen = []
    future = continue_codes(
        llama, VOCABULARY, clip(known), frames, 4, how, on_frame=lambda: seen.append(1)
    )
    assert future.shape == (2, frames, 2, 2)
    assert len(seen) == frames
    # A plain reference: the context slides by half when it is full.
    video = clip(known)
    context = video if known < 4 else video[:, -2:]
    while video.shape[1] < known + frames:
        if context.shape[1] == 4:
            context = context[:, -2:]
        one = continue_codes(llama, VOCABULARY, context, 1, 4, how)
        video, context = torch.cat((video, one), 1), torch.cat((context, one), 1)
    assert torch.equal(future, video[:, known:])


def test_each_turn_draws_anew():
    blind = model()
    blind.lm_head.weight.zero_()  # all codes equally likely, whatever came before
    future = continue_codes(blind, VOCABULARY, clip(4), 8, 4, Sampling())
    turns = [future[:, i : i + 2].tolist() for i in range(0, 8, 2)]
    assert all(a != b for a, b in itertools.combinations(turns, 2))


def test_clips_that_cannot_be_continued():
    with pytest.raises(UserError, match="0 frames to predict"):
        continue_codes(model(), VOCABULARY, clip(2), 0, 4, Sampling())
    with pytest.raises(UserError, match="clips of 1 frames"):
        continue_codes(model(), VOCABULARY, clip(2), 1, 1, Sampling())
