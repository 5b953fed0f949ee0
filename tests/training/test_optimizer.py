import pytest
import torch
from torch import nn

from toto.training.config import AdamW
from toto.training.optimizer import build_optimizers

CONFIG = AdamW(learning_rate=0.1, weight_decay=0.5, eps=1e-12)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.wide, self.narrow = nn.Linear(3, 3), nn.Linear(3, 3)
        self.frozen = nn.Linear(3, 3).requires_grad_(False)


def stepped(gradient: float, factor=None) -> tuple[dict, dict]:
    """Parameters before and after a step whose gradients are all `gradient`."""
    torch.manual_seed(0)
    net = Net()
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    (optimizer,) = build_optimizers(net, CONFIG, *([factor] if factor else []))
    for p in net.parameters():
        if p.requires_grad:
            p.grad = torch.full_like(p, gradient)
    optimizer.step()
    return before, dict(net.named_parameters())


def quarter(name: str) -> float:
    return 0.25 if name.startswith("wide.") else 1.0


def test_only_matrices_decay_and_by_as_much_at_any_factor():
    for factor in (None, quarter):
        before, after = stepped(0.0, factor)
        for name, value in before.items():
            decays = name in ("wide.weight", "narrow.weight")
            expected = value * (1 - 0.1 * 0.5) if decays else value
            torch.testing.assert_close(after[name].detach(), expected)


def test_a_factor_scales_the_step_alone():
    still, _ = stepped(0.0, quarter)
    decayed = stepped(0.0, quarter)[1]
    moved = stepped(3.0, quarter)[1]
    for name in still:
        # Adam's first step is of the learning rate's size, whatever the gradient.
        size = 0.0 if "frozen" in name else 0.1 * quarter(name)
        step = (decayed[name] - moved[name]).detach()
        torch.testing.assert_close(step, torch.full_like(step, size))


def test_a_schedule_multiplies_by_each_groups_factor():
    net = Net()
    (optimizer,) = build_optimizers(net, CONFIG, quarter)
    names = {id(p): name for name, p in net.named_parameters()}
    found = {names[id(p)]: group for group in optimizer.param_groups for p in group["params"]}
    assert set(found) == {"wide.weight", "wide.bias", "narrow.weight", "narrow.bias"}
    for name, group in found.items():
        assert group["factor"] == quarter(name)
        assert group["lr"] == pytest.approx(CONFIG.learning_rate * quarter(name))
    (plain,) = build_optimizers(net, CONFIG)
    assert [group["factor"] for group in plain.param_groups] == [1.0, 1.0]
