from dataclasses import replace

import pytest
import torch
from torch import nn

from tests.training.toys import PRETRAIN
from toto.errors import UserError
from toto.training.config import AdamW
from toto.training.muon import orthogonal
from toto.training.optimizer import build_optimizers

CONFIG = AdamW(learning_rate=0.02, weight_decay=0.3, betas=(0.9, 0.99))


class Net(nn.Module):
    """A table, two blocks of a matrix and a vector each, and a head."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(7, 12)
        self.blocks = nn.ModuleList([nn.Linear(12, 12), nn.Linear(12, 12)])
        self.head = nn.Linear(12, 7)


def gradients(net: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in net.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


@pytest.mark.parametrize("shape", [(8, 8), (5, 20), (20, 5)])
def test_a_step_has_the_singular_vectors_of_the_gradient_and_values_about_one(shape):
    torch.manual_seed(1)
    matrix = torch.randn(shape) * 1e-3
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    turned = u.T @ orthogonal(matrix) @ v.T
    values = turned.diagonal()
    torch.testing.assert_close(turned, values.diag(), rtol=0, atol=1e-4)
    assert 0.6 < values.min() <= values.max() < 1.3


def test_it_takes_the_steps_of_pytorchs_muon_and_adamw():
    ours, other = Net(), Net()
    matrices = [block.weight for block in other.blocks]
    names = {name for name, _ in other.named_parameters()}
    names -= {"blocks.0.weight", "blocks.1.weight"}
    peers = [
        torch.optim.Muon(matrices, lr=0.02, weight_decay=0.3, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(
            [
                {"params": [other.table.weight, other.head.weight], "weight_decay": 0.3},
                {"params": [other.blocks[0].bias, other.blocks[1].bias, other.head.bias]},
            ],
            lr=0.02,
            betas=(0.9, 0.99),
            weight_decay=0.0,
        ),
    ]
    optimizers = build_optimizers(ours, CONFIG, muon=True)
    for step in range(5):
        for net in (ours, other):
            gradients(net, step)
        for one in (*optimizers, *peers):
            one.step()
    before = dict(Net().named_parameters())
    for name, value in ours.named_parameters():
        moved = (value - before[name]).norm()
        apart = (value - other.get_parameter(name)).norm()
        # PyTorch's products are of bf16.
        assert apart < (1e-5 if name in names else 0.02) * moved, name


def test_where_something_is_not_finite_nothing_changes():
    net = Net()
    optimizers = build_optimizers(net, CONFIG, muon=True)
    for step, good in enumerate((True, False, True)):
        before = {name: value.clone() for name, value in net.named_parameters()}
        means = [state["mean"].clone() for state in optimizers[1].state.values()]
        gradients(net, step)
        if not good:
            net.blocks[1].weight.grad[0, 0] = float("nan")
        for optimizer in optimizers:
            optimizer.found_inf = torch.tensor(float(not good))
            optimizer.step()
        changed = {n: not torch.equal(v, before[n]) for n, v in net.named_parameters()}
        assert set(changed.values()) == {good}
        if not good:
            its = [state["mean"] for state in optimizers[1].state.values()]
            assert len(its) == 2 and all(map(torch.equal, means, its))


def test_it_is_of_the_blocks_matrices_alone():
    net = Net()
    _, muon = build_optimizers(net, CONFIG, muon=True)
    its = {id(p) for group in muon.param_groups for p in group["params"]}
    assert its == {id(block.weight) for block in net.blocks}
    assert len(build_optimizers(net, CONFIG)) == 1


def test_mups_learning_rates_are_not_its():
    with pytest.raises(UserError, match="muP"):
        replace(PRETRAIN, muon=True, model=replace(PRETRAIN.model, mup_base=16))
