import math
from dataclasses import replace

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR

from tests.training.toys import LOOP
from toto.errors import UserError
from toto.training.config import AdamW
from toto.training.device import pick_device, pick_precision
from toto.training.schedule import cosine, learning_rate

CONFIG = AdamW(learning_rate=0.4, warmup_steps=5, final_fraction=0.25)


def test_cosine_by_its_formula():
    for step in range(30):
        expected = 3 + (7 - 3) / 2 * (1 + math.cos(math.pi * min(step, 20) / 20))
        assert cosine(step, 20, 7.0, 3.0) == pytest.approx(expected)
    assert cosine(0, 0, 7.0, 3.0) == 7


def test_learning_rates_are_those_of_pytorchs_schedulers():
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.4)
    warm_up = LinearLR(optimizer, 1 / 5, 1, total_iters=4)
    decay = CosineAnnealingLR(optimizer, T_max=24, eta_min=0.1)
    scheduler = SequentialLR(optimizer, [warm_up, decay], milestones=[5])
    for step in range(30):
        rate = optimizer.param_groups[0]["lr"]
        assert learning_rate(CONFIG, step, 30) == pytest.approx(rate, rel=1e-6), step
        optimizer.step()
        scheduler.step()
    assert learning_rate(CONFIG, 29, 30) == pytest.approx(0.1)


def test_a_decay_may_be_over_before_the_last_step():
    config = replace(CONFIG, decay_steps=10)
    assert learning_rate(config, 10, 30) == pytest.approx((0.4 + 0.1) / 2)
    assert [learning_rate(config, step, 30) for step in (15, 29)] == pytest.approx([0.1, 0.1])


def test_without_warm_up_the_first_step_is_the_peak():
    config = replace(CONFIG, warmup_steps=0)
    assert learning_rate(config, 0, 10) == 0.4
    assert learning_rate(config, 9, 10) == pytest.approx(0.1)


@pytest.mark.parametrize(
    "name", ["steps", "log_every", "validate_every", "checkpoint_every", "keep_checkpoints"]
)
def test_counts_are_at_least_one(name):
    with pytest.raises(UserError, match=f"{name} 0: at least 1"):
        replace(LOOP, **{name: 0})


def test_devices():
    assert pick_device("cpu").type == "cpu"
    assert pick_device("auto").type in ("cuda", "mps", "cpu")
    for name in ("cuda:99", "tpu3000", "meat"):
        with pytest.raises(UserError, match=f"device '{name}' cannot be used"):
            pick_device(name)
    assert pick_precision("fp32", torch.device("cpu")) == "fp32"
    assert pick_precision("auto", torch.device("cpu")) in ("bf16", "fp32")
