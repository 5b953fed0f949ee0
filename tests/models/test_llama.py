import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

from toto.errors import UserError
from toto.models.llama import Llama
from toto.models.sizes import BASE, LARGE, ONE_B, LlamaSize

TINY = LlamaSize(width=32, layers=3, heads=4, mlp_width=48, init_std=0.15)
VOCABULARY = 40


def model(size: LlamaSize = TINY, seed: int = 0) -> Llama:
    torch.manual_seed(seed)
    return Llama(size, VOCABULARY).eval().requires_grad_(False)


def tokens(count: int, length: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(VOCABULARY, (count, length), generator=generator)


@pytest.mark.parametrize(
    ("size", "tied", "count"),
    [
        (BASE, True, 119_556_864),
        (BASE, False, 125_848_320),
        (LARGE, True, 276_857_856),
        (LARGE, False, 285_246_464),
        (ONE_B, True, 1_147_234_304),
        (ONE_B, False, 1_164_011_520),
    ],
)
def test_sizes_have_the_papers_numbers_of_parameters(size, tied, count):
    size = LlamaSize(**{**vars(size), "tied_head": tied})
    assert size.parameters(8192) == count
    with torch.device("meta"):
        built = Llama(size, 8192)
    assert sum(p.numel() for p in built.parameters()) == count
    matrices = sum(p.numel() for p in built.model.layers.parameters() if p.ndim == 2)
    assert size.block_parameters() == matrices


@pytest.mark.parametrize("size", [BASE, LARGE, ONE_B, TINY])
def test_parameters_have_hugging_faces_names_and_shapes(size):
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=size.width,
        intermediate_size=size.mlp_width,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
    )
    with torch.device("meta"):
        theirs, ours = LlamaForCausalLM(config), Llama(size, VOCABULARY)
    assert {name: value.shape for name, value in ours.state_dict().items()} == {
        name: value.shape for name, value in theirs.state_dict().items()
    }


def test_head_width_must_be_even():
    with pytest.raises(UserError, match="width 30 with 4 heads"):
        LlamaSize(width=30, layers=1, heads=4, mlp_width=8)
    with pytest.raises(UserError, match="width 12 with 4 heads"):
        LlamaSize(width=12, layers=1, heads=4, mlp_width=8)


def test_a_tied_head_is_the_embedding():
    tied = model(LlamaSize(**{**vars(TINY), "tied_head": True}))
    assert tied.lm_head.weight is tied.model.embed_tokens.weight
    hidden = tied.hidden_states(tokens(1, 5), (3,))[3]
    expected = tied.model.norm(hidden) @ tied.model.embed_tokens.weight.T
    torch.testing.assert_close(tied(tokens(1, 5)), expected)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("mup_base", [None, 8])
def test_a_model_without_storage_is_filled_with_the_same_weights(tied, mup_base):
    size = LlamaSize(**{**vars(TINY), "tied_head": tied, "mup_base": mup_base})
    built = Llama(size, VOCABULARY)
    torch.manual_seed(3)
    built.init_weights()
    with torch.device("meta"):
        empty = Llama(size, VOCABULARY)
    torch.manual_seed(3)
    for (name, weight), (same, drawn) in zip(
        empty.named_parameters(), built.named_parameters(), strict=True
    ):
        assert weight.is_meta and same == name
        filled = torch.empty(weight.shape)
        empty.fill(name, filled)
        assert torch.equal(filled, drawn), name


def test_a_tied_head_changes_no_other_initial_weight():
    untied, tied = model(), model(LlamaSize(**{**vars(TINY), "tied_head": True}))
    for name, weight in tied.named_parameters():
        assert torch.equal(weight, untied.get_parameter(name)), name


def test_logits_do_not_see_later_tokens():
    llama, read = model(), tokens(1, 12)
    before = llama(read)
    for position in range(12):
        changed = read.clone()
        changed[0, position] = (changed[0, position] + 1) % VOCABULARY
        after = llama(changed)
        assert torch.equal(after[:, :position], before[:, :position])
        # And each does see its own token and the earlier ones.
        assert (after[:, position:] != before[:, position:]).any(-1).all()


def test_positions_matter():
    llama = model()
    same = llama(torch.full((1, 3), 7))
    torch.testing.assert_close(same[0, 0], same[0, 2])  # attention to equal values is their mean
    turned = llama(torch.tensor([[7, 8, 9, 5]]))[0, -1]
    swapped = llama(torch.tensor([[8, 7, 9, 5]]))[0, -1]
    assert (turned - swapped).abs().max() > 1e-2


@settings(deadline=None, max_examples=40)
@given(chunks=st.lists(st.integers(1, 9), min_size=1, max_size=6), seed=st.integers(0, 3))
def test_the_cache_changes_nothing_in_any_chunking(chunks, seed):
    llama, read = model(), tokens(2, sum(chunks), seed)
    cache = llama.new_cache(2, sum(chunks))
    pieces = [llama(piece, cache) for piece in read.split(chunks, dim=1)]
    assert cache.length == sum(chunks)
    torch.testing.assert_close(torch.cat(pieces, 1), llama(read), atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("layers", "blocks"), [((0,), 0), ((1,), 1), ((2, 0), 2), ((0, 1, 2, 3), 3)]
)
def test_no_block_runs_above_the_highest_layer_asked_for(layers, blocks):
    llama, ran = model(), []
    for i, block in enumerate(llama.model.layers):
        block.register_forward_hook(lambda *_, i=i: ran.append(i))
    for module in (llama.model.norm, llama.lm_head):
        module.register_forward_hook(lambda *_: ran.append("head"))
    assert set(llama.hidden_states(tokens(1, 4), layers)) == set(layers)
    assert ran == list(range(blocks))


def test_a_layer_is_the_same_whatever_else_is_asked_for():
    llama, read = model(), tokens(2, 6)
    every = llama.hidden_states(read, (0, 1, 2, 3))
    for layer in range(4):
        assert torch.equal(llama.hidden_states(read, (layer,))[layer], every[layer])
