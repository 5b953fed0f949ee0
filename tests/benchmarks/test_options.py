"""What is switched on from outside to be faster computes the same."""

import sys
from pathlib import Path

import torch

from toto.models.llama import MLP, Attention, Llama
from toto.models.sizes import LlamaSize
from toto.tokens.vocabulary import inputs_and_targets

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from options import fused

SIZE = LlamaSize(width=32, layers=2, heads=2, mlp_width=48, init_std=0.3)


def losses_and_gradients(model: Llama, tokens: torch.Tensor) -> list[torch.Tensor]:
    inputs, targets = inputs_and_targets(tokens)
    loss = torch.nn.functional.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())
    return [loss, *torch.autograd.grad(loss, list(model.parameters()))]


def test_products_side_by_side_give_the_same_loss_and_gradients(monkeypatch) -> None:
    torch.manual_seed(0)
    model, tokens = Llama(SIZE, 128), torch.randint(4, 128, (3, 26))
    expected = losses_and_gradients(model, tokens)
    for kind in (Attention, MLP):
        monkeypatch.setattr(kind, "forward", kind.forward)  # put back in the end
    before = Attention.forward, MLP.forward
    fused(model)
    assert Attention.forward is not before[0] and MLP.forward is not before[1]
    torch.testing.assert_close(losses_and_gradients(model, tokens), expected)
