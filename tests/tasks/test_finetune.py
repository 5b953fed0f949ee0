"""Fine-tuning from its command on, alone and by two processes that torchrun starts (gloo)."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from tests.commands import ENVIRONMENT, TOTO, made
from tests.tiny import make_dataset, make_videos, save_tokenizer
from toto.api import Toto
from toto.errors import UserError
from toto.media.view import View
from toto.models.llama import Llama
from toto.models.saved import save_model
from toto.models.sizes import LlamaSize
from toto.probing.finetune.config import FineTune
from toto.tasks.finetune import TASKS, finetune
from toto.tokens.store import TokenDataset
from toto.training.adopt import details_of
from toto.training.metrics import read_metrics
from toto.training.world import ALONE

CLASSES = ("black", "blue", "green", "red", "white", "yellow")
CONFIG = FineTune(
    epochs=24,
    warmup_epochs=1,
    batch=16,
    micro_batch=8,
    base_learning_rate=0.2,
    layer_decay=0.9,
    mixup=0.2,
    cutmix=0.2,
    held_out=0.2,
    precision="fp32",
    log_every=8,
)
FIELDS = (
    "--epochs 1 --warmup-epochs 0 --batch 16 --micro-batch 4 --base-learning-rate 0.1 "
    "--drop-path 0.3 --precision fp32 --log-every 1 --device cpu"
).split()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Pictures of noise on six colours, one of them damaged, and a video; and a model."""
    folder = tmp_path_factory.mktemp("finetune")
    random = np.random.default_rng(0)
    for name in CLASSES:
        colour = np.array(Image.new("RGB", (8, 12), name), np.int64)
        for split, count in (("train", 24), ("val", 6)):
            (folder / "source" / split / name).mkdir(parents=True)
            for i in range(count):
                noisy = (colour + random.integers(-30, 31, (12, 8, 3))).clip(0, 255)
                path = folder / "source" / split / name / f"{i}.png"
                Image.fromarray(noisy.astype(np.uint8)).save(path)
    (folder / "source" / "val" / "red" / "damaged.png").write_bytes(b"no picture")
    make_videos(folder / "source" / "train" / "red", [4])
    data = make_dataset(folder / "source", save_tokenizer(folder / "tokenizer"), folder / "data")
    torch.manual_seed(0)
    size = LlamaSize(width=16, layers=2, heads=2, mlp_width=24, init_std=0.2)
    model = Llama(size, data.vocabulary.size)
    save_model(model, details_of(data, 4), folder / "tokenizer", folder / "model")
    return folder


def test_images_are_recognised_and_the_result_is_there_to_stay(folder, tmp_path):
    loaded, data = Toto.load(folder / "model", "cpu"), TokenDataset(folder / "data")
    before = {name: value.clone() for name, value in loaded.model.state_dict().items()}
    asked = loaded, data, TASKS["images"], 1, tmp_path
    result = finetune(*asked, CONFIG, ALONE)
    assert result.accuracy > 0.6 > result.chance == pytest.approx(1 / 6)
    assert result.interval[0] <= result.accuracy <= result.interval[1]
    assert result.top5 is not None and result.top5 >= result.accuracy
    assert sum(result.clips[:2]) == 6 * 24 and result.clips[2] == 36
    confusion = np.array(result.confusion)
    assert confusion.sum() == 36
    assert confusion.diagonal().sum() / 36 == pytest.approx(result.accuracy)
    assert ["val/red/damaged.png" in text for text in result.unread["val"]] == [True]
    table = result.table()
    assert "1 of val could not be read: val/red/damaged.png" in table
    assert f"causal    {result.accuracy:6.1%}" in table and "Table 13" in table
    for name, value in loaded.model.state_dict().items():
        assert torch.equal(value, before[name])  # a copy was trained

    assert finetune(*asked, CONFIG, ALONE) == result
    (tmp_path / "result.json").unlink()  # as if it had been killed before the end
    assert finetune(*asked, CONFIG, ALONE) == result
    with pytest.raises(UserError, match=r"begun with other settings.*epochs 24, not 9"):
        finetune(*asked, replace(CONFIG, epochs=9), ALONE)
    # What it has left is a model like the one before, and can be tuned again.
    again = Toto.load(tmp_path, "cpu")
    assert (again.frames, again.model.size) == (1, loaded.model.size)
    assert (loaded.kinds, again.kinds) == (["image", "video"], ["image"])


def test_media_are_trained_on_in_boxes_and_tested_on_in_even_crops(folder, tmp_path):
    views = "--crops 2 --scale 0.3 1 --flip --test-crops 3 --recipe demo --workers 0".split()
    made(
        tmp_path,
        *("finetune", "images", str(folder / "model"), f"imagefolder:{folder / 'source'}"),
        *("--out", "tuned", *views, *FIELDS),
    )
    result = json.loads((tmp_path / "tuned/result.json").read_text())
    assert (result["views"], result["clips"][2]) == (3, 36)
    assert TokenDataset(tmp_path / "tuned/tokens").view.flip
    assert Toto.load(tmp_path / "tuned", "cpu").view == View(stride=1, size=8)


def command(folder: Path, out: Path, processes: int, *more: str) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    start = [*torchrun, f"--nproc-per-node={processes}", "--", TOTO] if processes else [TOTO]
    where = ["finetune", "images", str(folder / "model"), str(folder / "data"), "--out", str(out)]
    done = subprocess.run(
        [*start, *where, *FIELDS, *more],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == str(out)


@pytest.fixture(scope="module")
def alone(folder, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("alone") / "out"
    command(folder, out, 0)
    return out


def assert_same_course(one: Path, other: Path) -> None:
    rows, others = read_metrics(one), read_metrics(other)
    assert [row["step"] for row in rows] == [row["step"] for row in others]
    for row, its in zip(rows, others, strict=True):
        for name in ("loss", "model/gradient_norm", "held_out_accuracy"):
            assert (name in row) == (name in its)
            if name in row:
                assert row[name] == pytest.approx(its[name], rel=1e-5), (row["step"], name)
    for name in ("model/model.safetensors", "head.safetensors"):
        found = load_file(other / name)
        for key, value in load_file(one / name).items():
            torch.testing.assert_close(value, found[key], rtol=1e-3, atol=1e-5)
    results = [json.loads((out / "result.json").read_text()) for out in (one, other)]
    assert results[0] == results[1]


def test_two_processes_take_the_course_of_one(folder, alone, tmp_path):
    command(folder, tmp_path / "out", 2)
    assert_same_course(alone, tmp_path / "out")


@pytest.mark.slow
def test_two_processes_that_divide_the_model_take_the_course_of_one(folder, alone, tmp_path):
    command(folder, tmp_path / "out", 2, "--sharding", "all", "--recompute", "0.5")
    assert_same_course(alone, tmp_path / "out")


@pytest.mark.slow
def test_compiled_blocks_take_the_same_course(folder, alone, tmp_path):
    command(folder, tmp_path / "out", 0, "--compile")
    rows, others = read_metrics(alone), read_metrics(tmp_path / "out")
    for row, its in zip(rows, others, strict=True):
        assert ("loss" in row) == ("loss" in its)
        if "loss" in row:
            assert row["loss"] == pytest.approx(its["loss"], rel=1e-4)
