"""One model in several real processes, started by torchrun, on the CPU (gloo)."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.commands import ENVIRONMENT, TOTO
from tests.tiny import make_dataset, make_images, make_videos, save_tokenizer
from toto.training.metrics import read_metrics
from toto.training.world import World

STEPS = 8
SETTINGS = [
    *f"--steps {STEPS} --device cpu --precision fp32 --log-every 1 --checkpoint-every 3".split(),
    *"--validate-every 100 --batch 8 --micro-batch 2 --frames 4 --warmup-steps 2".split(),
    *"--width 32 --layers 2 --heads 4 --mlp-width 48 --curriculum 0.4 2".split(),
    *"--validation-fraction 0.2 --validation-sequences 4".split(),
]
# What is of the machine.
MEASURED = {"seconds", "tokens_per_second", "memory_bytes", "data_wait", "seconds_left"}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Short videos and images among them, so that processes have unequal numbers of codes."""
    folder = tmp_path_factory.mktemp("data")
    visual = save_tokenizer(folder / "tokenizer")
    source = make_videos(folder / "media", [9, 4, 3, 14, 8, 12, 2, 5])
    make_images(source, 9)
    return make_dataset(source, visual, folder / "data").folder


TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]


def command(data: Path, run: Path, processes: int, *more: str) -> list[str]:
    torchrun = [*TORCHRUN, "--standalone", f"--nproc-per-node={processes}", "--"]
    start = [*torchrun, TOTO] if processes else [TOTO]
    where = ["pretrain", "demo", "--data", str(data), "--run", str(run)]
    return [*start, *where, *SETTINGS, *more]


def pretrain(data: Path, run: Path, processes: int, *more: str) -> str:
    done = subprocess.run(
        command(data, run, processes, *more),
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.fixture(scope="module")
def alone(data, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("alone") / "run"
    pretrain(data, run, 0)
    return run


@pytest.fixture(scope="module")
def pair(data, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("pair") / "run"
    assert "8 sequences = 2 processes x 2 x 2" in pretrain(data, run, 2)
    return run


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model" / "model.safetensors")


def assert_same_course(one: Path, other: Path, tolerance: float = 1e-5) -> None:
    rows, others = read_metrics(one), read_metrics(other)
    assert [row["step"] for row in rows] == [row["step"] for row in others]
    for row, its in zip(rows, others, strict=True):
        assert row.keys() == its.keys()
        for name in row.keys() - MEASURED:
            assert row[name] == pytest.approx(its[name], rel=tolerance), (row["step"], name)
    for name, values in weights(one).items():
        torch.testing.assert_close(values, weights(other)[name], rtol=1e-3, atol=1e-5)


def assert_same_bits(one: Path, other: Path) -> None:
    assert [row.get("loss") for row in read_metrics(one)] == [
        row.get("loss") for row in read_metrics(other)
    ]
    assert all(torch.equal(values, weights(other)[name]) for name, values in weights(one).items())


def test_shares_cover_everything():
    shares = [World(rank, 4).share(12) for rank in range(4)]
    assert [thing for share in shares for thing in share] == list(range(12))


def test_two_processes_take_the_course_of_one(alone, pair):
    assert_same_course(alone, pair)


def test_two_processes_that_divide_the_model_take_the_course_of_one(data, alone, tmp_path):
    pretrain(data, tmp_path / "run", 2, "--sharding", "all", "--recompute", "0.5")
    assert_same_course(alone, tmp_path / "run")


def test_two_processes_that_divide_what_muon_makes_orthogonal_take_the_course_of_one(
    data, tmp_path
):
    """Widths that two processes do not divide evenly; and the run of one goes on as theirs."""
    uneven = ["--muon", "--mlp-width", "49", "--learning-rate", "1e-3"]
    pretrain(data, tmp_path / "alone", 0, *uneven)
    pretrain(data, tmp_path / "divided", 2, *uneven, "--sharding", "all")
    assert_same_course(tmp_path / "alone", tmp_path / "divided", tolerance=1e-4)


def test_a_batch_that_cannot_be_shared_is_refused(data, tmp_path):
    done = subprocess.run(
        command(data, tmp_path / "run", 2, "--batch", "6"),
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode != 0
    assert "toto: batch 6 is no multiple of micro_batch 2 x 2 processes" in done.stderr


@pytest.mark.slow
def test_a_loss_that_is_not_finite_is_traced_to_its_process_and_source(data, tmp_path):
    run = tmp_path / "run"
    done = subprocess.run(
        command(data, run, 2, "--learning-rate", "1e30", "--warmup-steps", "1"),
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode != 0
    (line,) = {x for x in done.stderr.splitlines() if x.startswith("toto: step")}
    assert "the gradient of model is not finite" in line
    for rank in (0, 1):
        assert f"rank {rank}: " in line
    assert "gradient of model" in line.split("before it")[1]
    assert not list((run / "checkpoints").glob("step-*"))


@pytest.mark.slow
@pytest.mark.parametrize("processes", [0, 2])
def test_compiled_training_takes_the_same_course(data, alone, tmp_path, processes):
    divided = ["--sharding", "all", "--recompute", "1"] if processes else []
    pretrain(data, tmp_path / "run", processes, "--compile", *divided)
    assert_same_course(alone, tmp_path / "run", tolerance=1e-4)


@pytest.mark.slow
def test_four_processes_take_the_course_of_one(data, alone, tmp_path):
    pretrain(data, tmp_path / "run", 4)
    assert_same_course(alone, tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
def test_a_stopped_pair_continues(data, pair, tmp_path, signum):
    """With two processes again to the same bits; alone on the same course."""
    stop_and_continue(data, pair, tmp_path, signum, 2)


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
def test_a_stopped_pair_that_divides_the_model_continues(data, tmp_path, signum):
    divided = tmp_path / "divided"
    pretrain(data, divided, 2, "--sharding", "all")
    stop_and_continue(data, divided, tmp_path, signum, 2, "--sharding", "all")


def stop_and_continue(
    data: Path, whole: Path, folder: Path, signum: int, processes: int, *more: str
) -> None:
    for again in (processes, 0):
        run = folder / str(again)
        process = subprocess.Popen(
            command(data, run, processes, *more),
            env=ENVIRONMENT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        while not (run / "checkpoints" / "step-000003").exists():
            assert process.poll() is None
            time.sleep(0.005)
        if signum == signal.SIGTERM:  # torchrun hands it on
            process.send_signal(signum)
        else:
            os.killpg(process.pid, signum)
        process.wait(60)
        pretrain(data, run, again, *more)
        (assert_same_bits if again else assert_same_course)(whole, run)


@pytest.mark.slow
def test_two_machines_that_divide_the_model_each_take_the_course_of_one(data, alone, tmp_path):
    """Two torchruns of two processes that meet: what two machines would run."""
    run, port = tmp_path / "run", free_port()
    where = ["pretrain", "demo", "--data", str(data), "--run", str(run), *SETTINGS]
    meet = ["--nnodes=2", "--rdzv-backend=c10d", f"--rdzv-endpoint=localhost:{port}"]
    torchrun = [*TORCHRUN, *meet, "--nproc-per-node=2", "--", TOTO]
    machines = [
        subprocess.Popen(
            [*torchrun, *where, "--sharding", "node", "--micro-batch", "1"], env=ENVIRONMENT
        )
        for _ in range(2)
    ]
    assert [machine.wait(240) for machine in machines] == [0, 0]
    assert_same_course(alone, run)


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("localhost", 0))
        return taken.getsockname()[1]


WAITING = """
import sys, time
from datetime import timedelta
from pathlib import Path
import torch.distributed as dist
from toto.training.world import World, in_turn

dist.init_process_group("gloo", timeout=timedelta(seconds=1))
done = Path(sys.argv[1])

def work():
    if not done.exists():
        time.sleep(4)
        done.touch()
        return dist.get_rank()
    return -1

print(f" {in_turn(World(dist.get_rank(), 2, 2), work)} ", flush=True)
"""


def test_who_waits_for_the_first_outlasts_the_timeout_of_other_waiting(tmp_path):
    (tmp_path / "waiting.py").write_text(WAITING)
    torchrun = [*TORCHRUN, "--standalone", "--nproc-per-node=2", "--", str(tmp_path / "waiting.py")]
    done = subprocess.run(
        [*torchrun, str(tmp_path / "done")],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.split()) == ["-1", "0"]


APART = """
import os, sys
from pathlib import Path
import torch
from tests.training.toys import LOOP, Adversaries
from toto.errors import UserError
from toto.training.checkpoint import Checkpoints
from toto.training.world import join_world

with join_world(torch.device("cpu")) as world:
    run = Path(sys.argv[1]) / str(world.rank)
    (run / "checkpoints" / f"step-{15 * world.rank:06d}").mkdir(parents=True)
    try:
        Checkpoints(run, Adversaries(), [], world, LOOP).restore()
    except UserError as error:
        print(f" {error} ", flush=True)
"""


def test_processes_that_see_other_checkpoints_do_not_go_on(tmp_path):
    (tmp_path / "apart.py").write_text(APART)
    torchrun = [*TORCHRUN, "--standalone", "--nproc-per-node=2", "--", str(tmp_path / "apart.py")]
    done = subprocess.run(
        [*torchrun, str(tmp_path)],
        env=ENVIRONMENT | {"PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("processes see checkpoints of different steps, 0, 15") == 2
