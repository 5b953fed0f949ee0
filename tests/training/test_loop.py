import gc
import json
import os
import random
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from tests.children import run, run_until_write, start
from tests.tiny import make_dataset, make_videos, save_tokenizer
from tests.training.toys import (
    LOOP,
    Adversaries,
    dvae,
    next_token,
    run_adversaries,
    run_dvae,
    run_next_token,
    run_slowly,
)
from toto.training import interrupts
from toto.training.checkpoint import Checkpoints
from toto.training.loop import train
from toto.training.metrics import read_metrics
from toto.training.optimizer import build_optimizers
from toto.training.world import ALONE


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    visual = save_tokenizer(folder / "tokenizer")
    source = make_videos(folder / "videos", [9, 4, 3, 14, 8, 12, 7, 5])
    return make_dataset(source, visual, folder / "data").folder


@pytest.fixture(scope="module")
def uninterrupted(data, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    assert run(run_next_token, data, folder) == 0
    return folder


def state(objective, folder: Path) -> dict[str, torch.Tensor]:
    """All weights and all of the optimizers' state in the newest checkpoint."""
    optimizers = [(p, build_optimizers(p.module, p.optimizer)) for p in objective.phases]
    assert Checkpoints(folder, objective, optimizers, ALONE, LOOP).restore() == LOOP.steps
    found = {name: value.clone() for name, value in objective.modules.state_dict().items()}
    for phase, (optimizer,) in optimizers:
        for i, moments in optimizer.state_dict()["state"].items():
            found |= {f"{phase.name}.{i}.{name}": value for name, value in moments.items()}
    assert any("exp_avg_sq" in name for name in found)
    return found


def assert_same_end(build, one: Path, other: Path) -> None:
    a, b = state(build(), one), state(build(), other)
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


def losses(folder: Path) -> dict[float, float]:
    return {row["step"]: row["loss"] for row in read_metrics(folder) if "loss" in row}


def kill_everywhere(uninterrupted: Path, build, function, *args, folder: Path, every: int) -> int:
    """Kill a run at every write, or every few; each goes on to the same end."""
    for moment in range(1, 500):
        here = folder / str(moment)
        if (moment - 1) % every:
            continue
        ended = run_until_write(moment, here, function, *args, here)
        if ended == 0:
            return moment
        function(*args, here)
        assert_same_end(build, uninterrupted, here)
        assert losses(here) == losses(uninterrupted)
        shutil.rmtree(here)
    raise AssertionError("the run never ends")


def test_a_kill_at_any_write_changes_no_bit(data, uninterrupted, tmp_path):
    def build():
        return next_token(data)

    moments = kill_everywhere(uninterrupted, build, run_next_token, data, folder=tmp_path, every=6)
    assert moments > 15
    final = load_file(uninterrupted / "model/model.safetensors")
    assert all(value.isfinite().all() for value in final.values())


@pytest.mark.slow
def test_a_kill_at_every_single_write_changes_no_bit(data, uninterrupted, tmp_path):
    kill_everywhere(
        uninterrupted, lambda: next_token(data), run_next_token, data, folder=tmp_path, every=1
    )


@pytest.mark.slow
def test_a_kill_at_twenty_random_moments_changes_no_bit(data, uninterrupted, tmp_path):
    began = time.monotonic()
    assert run(run_slowly, data, tmp_path / "whole") == 0
    whole = time.monotonic() - began
    killed = 0
    moments = random.Random(0)
    for i in range(20):
        child = start(run_slowly, data, tmp_path / str(i))
        child.join(moments.uniform(0.1, 1.0) * whole)
        killed += child.is_alive()
        child.kill()
        child.join()
        assert run(run_next_token, data, tmp_path / str(i)) == 0
        assert_same_end(lambda: next_token(data), uninterrupted, tmp_path / str(i))
        assert losses(tmp_path / str(i)) == losses(uninterrupted)
    assert killed > 10


@pytest.mark.parametrize(
    ("build", "function"), [(dvae, run_dvae), (Adversaries, run_adversaries)], ids=["dvae", "gan"]
)
def test_other_objectives_resume_exactly_too(build, function, tmp_path):
    function(tmp_path / "whole")
    moments = kill_everywhere(
        tmp_path / "whole", build, function, folder=tmp_path / "killed", every=4
    )
    assert moments > 8


def test_a_stop_half_way_and_a_resume_by_steps(data, uninterrupted, tmp_path):
    """The checkpoint after step 5 alone, carried to another folder, leads to the same end."""
    (tmp_path / "checkpoints").mkdir()
    shutil.copytree(uninterrupted / "checkpoints/step-000005", tmp_path / "checkpoints/step-000005")
    run_next_token(data, tmp_path)
    assert_same_end(lambda: next_token(data), uninterrupted, tmp_path)
    assert min(losses(tmp_path)) == 6
    weights = "model/model.safetensors"
    assert (tmp_path / weights).read_bytes() == (uninterrupted / weights).read_bytes()


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_signals_leave_a_checkpoint_to_go_on_from(data, uninterrupted, tmp_path, signum, times):
    """Also where a launcher hands on what the process has had from elsewhere."""
    child = start(run_slowly, data, tmp_path)
    while not losses(tmp_path):
        time.sleep(0.01)
        assert child.is_alive()
    for _ in range(times):
        os.kill(child.pid, signum)
        time.sleep(0.01)
    child.join(30)
    assert child.exitcode == 128 + signum
    (left,) = (tmp_path / "checkpoints").glob("step-*")
    stopped = int(left.name[5:])
    assert 1 <= stopped < 5
    assert max(losses(tmp_path)) == stopped
    assert not (tmp_path / "model").exists()
    assert run(run_next_token, data, tmp_path) == 0
    assert_same_end(lambda: next_token(data), uninterrupted, tmp_path)
    assert losses(tmp_path) == losses(uninterrupted)


def test_a_later_control_c_kills(monkeypatch):
    monkeypatch.setattr(interrupts, "_ECHO", 0.1)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with pytest.raises(KeyboardInterrupt), interrupts.Interrupts() as asked:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.2)
        assert asked.received == signal.SIGINT
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)
    signal.signal(signal.SIGINT, before)


def test_half_written_checkpoints_are_ignored(data, uninterrupted, tmp_path):
    checkpoints = tmp_path / "checkpoints"
    shutil.copytree(uninterrupted / "checkpoints/step-000005", checkpoints / "step-000005")
    partial = checkpoints / ".step-000009.partial"
    shutil.copytree(uninterrupted / "checkpoints/step-000010", partial)
    (partial / ".metadata").unlink()
    (checkpoints / "step-000099.txt").touch()
    run_next_token(data, tmp_path)
    assert not list(checkpoints.glob(".step-*"))
    assert_same_end(lambda: next_token(data), uninterrupted, tmp_path)


def test_a_finished_run_is_not_trained_again(data, uninterrupted, tmp_path):
    shutil.copytree(uninterrupted, tmp_path / "run")
    before = (tmp_path / "run/metrics.jsonl").read_bytes()
    run_next_token(data, tmp_path / "run")
    assert (tmp_path / "run/metrics.jsonl").read_bytes() == before
    assert_same_end(lambda: next_token(data), uninterrupted, tmp_path / "run")


def test_old_checkpoints_go(tmp_path):
    train(Adversaries(), replace(LOOP, checkpoint_every=2, keep_checkpoints=2), tmp_path, "test")
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["step-000008", "step-000010"]


def test_one_checkpoint_of_each_hour_stays(tmp_path):
    hour = 3600
    for step, written in enumerate([0.0, 0.5, 1.1, 1.2, 1.9, 2.2, 2.3, 4.0], start=1):
        path = tmp_path / f"checkpoints/step-{step:06d}"
        path.mkdir(parents=True)
        os.utime(path, (written * hour, written * hour))
    objective = Adversaries()
    loop = replace(LOOP, keep_checkpoints=2, keep_hours=1.0)
    optimizers = [(p, build_optimizers(p.module, p.optimizer)) for p in objective.phases]
    with Checkpoints(tmp_path, objective, optimizers, ALONE, loop) as checkpoints:
        checkpoints.save(9)
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == [f"step-{step:06d}" for step in (1, 3, 6, 8, 9)]


def test_a_checkpoint_holds_the_state_at_its_step(tmp_path):
    """Whatever training does to the weights while it is written."""
    objective = Adversaries()
    optimizers = [(p, build_optimizers(p.module, p.optimizer)) for p in objective.phases]
    before = {n: value.clone() for n, value in objective.modules.state_dict().items()}
    with Checkpoints(tmp_path, objective, optimizers, ALONE, LOOP) as checkpoints:
        checkpoints.save(1)
        for parameter in objective.modules.parameters():
            parameter.data.fill_(7.0)
        checkpoints.finish()
        assert checkpoints.restore() == 1
    for name, value in objective.modules.state_dict().items():
        assert torch.equal(value, before[name])


def test_a_full_disk_stops_the_run(tmp_path):
    (tmp_path / "checkpoints").touch()  # no folder can be made there
    with pytest.raises(OSError, match="checkpoints"):
        train(Adversaries(), LOOP, tmp_path, "test")
    assert not (tmp_path / "adversaries.pt").exists()


def test_metrics_after_the_checkpoint_are_measured_again(data, uninterrupted, tmp_path):
    shutil.copytree(uninterrupted / "checkpoints/step-000005", tmp_path / "checkpoints/step-000005")
    lines = [json.dumps({"step": i, "seconds": float(i), "loss": -1.0}) for i in range(1, 9)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + '\n{"step": 9, "lo')
    run_next_token(data, tmp_path)
    rows = read_metrics(tmp_path)
    trained = [row for row in rows if "loss" in row]
    assert [row["step"] for row in trained] == list(range(1, 11))
    assert [row["loss"] for row in trained[:5]] == [-1.0] * 5
    assert losses(tmp_path)[6] == losses(uninterrupted)[6]
    assert [row["step"] for row in rows if "validation_loss" in row] == [8, 10]
    # Time goes on from the checkpoint's.
    seconds = [row["seconds"] for row in rows]
    assert seconds == sorted(seconds)
    assert 5 < seconds[-1] < 60


def test_phases_run_in_order_on_the_same_micro_batches(tmp_path):
    objective = Adversaries()
    train(objective, replace(LOOP, steps=2, validate_every=9), tmp_path, "test")
    assert objective.calls == [
        *["0 generator"] * 2, *["0 discriminator"] * 2, "0 done",
        *["1 generator"] * 2, *["1 discriminator"] * 2, "1 done", "validate",
    ]  # fmt: skip
    rows = [row for row in read_metrics(tmp_path) if "loss" in row]
    assert [row["dial"] for row in rows] == [0.0, 1.0]
    expected = {"judge", "generator/gradient_norm", "discriminator/gradient_norm"}
    assert expected | {"generator/learning_rate", "points_per_second"} <= rows[0].keys()


def test_stray_gradients_do_not_leak(tmp_path):
    """Two phases against the same steps written out, every gradient asked for by name."""
    trained = Adversaries()
    train(trained, replace(LOOP, steps=6), tmp_path, "test")
    plain = Adversaries()
    optimizers = [build_optimizers(p.module, p.optimizer) for p in plain.phases]
    for step in range(6):
        torch.manual_seed(LOOP.seed * 1_000_003 + step)
        for phase, (optimizer,) in zip(plain.phases, optimizers, strict=True):
            parameters = list(phase.module.parameters())
            loss = sum(phase.loss(batch, step)[0] for batch in plain.batches(step))
            for p, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
                p.grad = gradient
            # Warm-up is over at step 1; half a cosine from 1 to 0.1 follows.
            shape = 0.1 + 0.9 * 0.5 * (1 + torch.cos(torch.tensor(max(step - 1, 0) / 4 * torch.pi)))
            optimizer.param_groups[0]["lr"] = optimizer.param_groups[-1]["lr"] = 1e-2 * float(shape)
            optimizer.step()
    for mine, theirs in zip(trained.modules.parameters(), plain.modules.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("every", [1, 10])
def test_a_loss_that_is_not_finite_is_never_in_a_checkpoint(tmp_path, every):
    objective = Adversaries()
    objective.poison = range(6, 99)
    loop = replace(LOOP, log_every=every, checkpoint_every=2)
    said = r"step 7: the gradient of generator is not finite; .*: rank 0: loss \("
    with pytest.raises(FloatingPointError, match=said):
        train(objective, loop, tmp_path, "test")
    steps = {path.name for path in (tmp_path / "checkpoints").glob("step-*")}
    assert steps == {"step-000002", "step-000004", "step-000006"}
    assert not (tmp_path / "adversaries.pt").exists()
    for row in read_metrics(tmp_path):
        assert all(value == value for value in row.values())
    # Without the cause it goes on from there.
    train(Adversaries(), loop, tmp_path, "test")
    train(Adversaries(), LOOP, tmp_path / "whole", "test")
    assert_same_end(Adversaries, tmp_path, tmp_path / "whole")


def test_a_gradient_that_is_not_finite_stops_too(tmp_path):
    objective = Adversaries()
    phase = objective.phases[0]

    def overflow(batch, step):
        loss, values = phase.loss(batch, step)
        return loss + (torch.sqrt(objective.generator.weight * 0)).sum(), values

    objective.phases = (replace(phase, loss=overflow),)
    said = "step 1: the gradient of generator is not finite; all before it was finite "
    with pytest.raises(FloatingPointError, match=said):
        train(objective, LOOP, tmp_path, "test")


def test_what_has_settled_is_looked_through_no_more_until_the_end(tmp_path):
    frozen = []

    class Watched(Adversaries):
        def after_step(self, step):
            super().after_step(step)
            frozen.append(gc.get_freeze_count())

    train(Watched(), replace(LOOP, steps=60), tmp_path, "test")
    assert frozen[0] == 0 < frozen[-1]
    assert gc.get_freeze_count() == 0


def test_a_bad_step_can_be_left_out(tmp_path):
    loop = replace(LOOP, checkpoint_every=1, skip_bad_steps=1)
    objective = Adversaries()
    objective.poison = [3]
    train(objective, loop, tmp_path, "test")
    rows = [row for row in read_metrics(tmp_path) if "points_per_second" in row]
    assert [row.get("skipped_steps") for row in rows] == [None] * 3 + [1] * 7
    assert [row["step"] for row in rows if "loss" not in row] == [4]
    at = {}
    for step in (3, 4, 5):
        shutil.copytree(
            tmp_path / f"checkpoints/step-{step:06d}",
            tmp_path / f"{step}/checkpoints/step-{step:06d}",
        )
        fresh = Adversaries()
        optimizers = [(p, build_optimizers(p.module, p.optimizer)) for p in fresh.phases]
        Checkpoints(tmp_path / str(step), fresh, optimizers, ALONE, loop).restore()
        at[step] = fresh.generator.weight.detach().clone()
    assert torch.equal(at[3], at[4])
    assert not torch.equal(at[4], at[5])
    assert at[5].isfinite().all()


def test_bad_steps_are_counted_over_resumes(tmp_path):
    objective = Adversaries()
    objective.poison = [3, 7]
    loop = replace(LOOP, skip_bad_steps=1)
    for _ in range(2):
        with pytest.raises(FloatingPointError, match="step 8, after 1 that were left out"):
            train(objective, loop, tmp_path, "test")
    train(objective, replace(loop, skip_bad_steps=2), tmp_path, "test")
    assert read_metrics(tmp_path)[-2]["skipped_steps"] == 2


def test_only_matrices_decay_and_frozen_parameters_stay():
    module = nn.ModuleDict({"a": nn.Linear(3, 3), "b": nn.Linear(3, 3), "norm": nn.RMSNorm(3)})
    module["b"].requires_grad_(False)
    (optimizer,) = build_optimizers(module, Adversaries().phases[0].optimizer)
    decays = {
        name: group["weight_decay"]
        for group in optimizer.param_groups
        for name, p in module.named_parameters()
        if any(p is other for other in group["params"])
    }
    assert decays == {"a.weight": 0.1, "a.bias": 0.0, "norm.weight": 0.0}
