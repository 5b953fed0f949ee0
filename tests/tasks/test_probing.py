"""Probing from its command on: views of media, killed, and by two processes (gloo)."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.commands import ENVIRONMENT, TOTO, begin, stop_when
from tests.tiny import make_dataset, save_tokenizer
from toto.models.llama import Llama
from toto.models.saved import save_model
from toto.models.sizes import LlamaSize
from toto.tokens.store import TokenDataset
from toto.training.adopt import details_of
from toto.training.metrics import read_metrics

CLASSES = ("black", "green", "red", "white", "yellow", "blue")
# The last batch of the held-out and of the test items is no multiple of the processes.
FIELDS = (
    "--epochs 3 --batch 10 --probes attention mean cross --learning-rates 1e-3 1e-2 "
    "--weight-decays 0.1 --crops 2 --scale 0.3 1 --flip --test-crops 3 --workers 0 --device cpu"
).split()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("probing")
    random = np.random.default_rng(0)
    for name in CLASSES:
        colour = np.array(Image.new("RGB", (8, 12), name), np.int64)
        for split, count in (("train", 14), ("val", 5)):
            (folder / "source" / split / name).mkdir(parents=True)
            for i in range(count):
                noisy = (colour + random.integers(-90, 91, (12, 8, 3))).clip(0, 255)
                path = folder / "source" / split / name / f"{i}.png"
                Image.fromarray(noisy.astype(np.uint8)).save(path)
    data = make_dataset(folder / "source", save_tokenizer(folder / "tokenizer"), folder / "data")
    torch.manual_seed(0)
    size = LlamaSize(width=16, layers=2, heads=2, mlp_width=24, init_std=0.2)
    model = Llama(size, data.vocabulary.size)
    save_model(model, details_of(data, 4), folder / "tokenizer", folder / "model")
    return folder


def words(folder: Path, out: Path) -> list[str]:
    where = [str(folder / "model"), str(folder / "source"), "--out", str(out)]
    return ["probe", "images", *where, *FIELDS]


def probe(folder: Path, out: Path, processes: int = 0) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    start = [*torchrun, f"--nproc-per-node={processes}", "--", TOTO] if processes else [TOTO]
    done = subprocess.run(
        [*start, *words(folder, out)], env=ENVIRONMENT, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == str(out)


@pytest.fixture(scope="module")
def alone(folder, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("alone") / "out"
    probe(folder, out)
    return out


def result_of(out: Path) -> dict:
    return json.loads((out / "result.json").read_text())


def test_media_become_views_to_train_on_and_to_test_on(alone):
    train, test = TokenDataset(alone / "tokens"), TokenDataset(alone / "tokens-test")
    assert (len(train), len(test)) == (2 * 6 * 14, 3 * 6 * 5)
    assert (train.view.scale, train.view.flip) == ((0.3, 1.0), True)
    assert test.view.spread == "even" and test.view.scale is None
    result = result_of(alone)
    assert result["views"] == 3 and result["clips"][2] == 6 * 5
    assert sum(result["clips"][:2]) == 6 * 14


def test_two_processes_give_what_one_gives(folder, alone, tmp_path):
    probe(folder, tmp_path / "out", 2)
    for what in ("probes", "pixels"):
        rows, others = read_metrics(alone / what), read_metrics(tmp_path / "out" / what)
        assert [row["step"] for row in rows] == [row["step"] for row in others]
        losses = [[row["loss"] for row in course if "loss" in row] for course in (rows, others)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    one, other = result_of(alone), result_of(tmp_path / "out")
    for name in ("accuracy", "test_accuracy", "held_out_accuracy", "pixels", "chance"):
        assert other[name] == pytest.approx(one[name], abs=0.04)  # of 30, one item may differ
    assert other["knn"]["test_accuracy"] == pytest.approx(one["knn"]["test_accuracy"], abs=0.04)


@pytest.mark.parametrize(
    "signum", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_killed_and_continued_it_ends_the_same(folder, alone, tmp_path, signum):
    out = tmp_path / "out"
    process = begin(tmp_path, *words(folder, out))
    stop_when(process, lambda: any((out / "probes/checkpoints").glob("step-*")), signum)
    assert not (out / "result.json").exists()
    probe(folder, out)
    assert result_of(out) == result_of(alone)
    for what in ("probes", "pixels"):
        name = f"{what}/probes.safetensors"
        assert (out / name).read_bytes() == (alone / name).read_bytes()
