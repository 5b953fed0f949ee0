import json
import math
import os
import random
import signal
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.commands import begin, made, stop_when, toto
from tests.tiny import make_videos

# The recipe with everything made small; frames of 32 px are 4x4 codes of 64, clips are 6 frames.
SMALL = (
    "--workers 1 --probe.epochs 1 --futures 2 --prompt 2 --tokenizer.size 32 --tokenizer.pool 96 "
    "--tokenizer.init-frames 96 --tokenizer.validation-frames 16 --tokenizer.loop.steps 5 "
    "--tokenizer.tokenizer.codebook-size 64 --tokenizer.tokenizer.width 8 "
    "--pretrain.frames 6 --pretrain.curriculum 0.5 3 --pretrain.loop.steps 4 "
    "--pretrain.model.width 32 --pretrain.model.layers 2 --pretrain.validation-sequences 5"
).split()
COUNT, CODEBOOK, FRAMES = 40, 64, 6
STAGES = ["world", "tokenizer", "tokenize", "pretrain", "probe", "generate"]
RESULTS = (
    "world/world.json",
    "world/videos/000000.mp4",
    "tokenizer/tokenizer/model.safetensors",
    "tokens/index.parquet",
    "tokens/shards/00000.npy",
    "pretrain/model/model.safetensors",
    "probe/result.json",
    "futures.npy",
)


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """A demo of 40 videos, run by itself."""
    folder = tmp_path_factory.mktemp("demo")
    said = made(folder, "demo", "--count", str(COUNT), "--out", "out", *SMALL)
    assert said == ["out/report.html"]
    return folder


def summary(out: Path) -> dict:
    return json.loads((out / "summary.json").read_text())


def numbers(value: object) -> list[float]:
    if isinstance(value, dict | list):
        return [
            x for v in (value.values() if isinstance(value, dict) else value) for x in numbers(v)
        ]
    return [value] if isinstance(value, int | float) else []


def codes_by_split(out: Path) -> dict[str | None, list[np.ndarray]]:
    """The first clip of each item, read with numpy and the index alone."""
    found: dict[str | None, list[np.ndarray]] = {}
    for row in pq.read_table(out / "tokens" / "index.parquet").to_pylist():
        shard = np.load(out / "tokens" / "shards" / f"{row['shard']:05d}.npy")
        codes = shard[row["first"] : row["first"] + row["frames"]]
        found.setdefault(row["split"], []).append(codes[:FRAMES].astype(int))
    return found


def test_report_and_summary(demo):
    out = demo / "out"
    page = (out / "report.html").read_text()
    assert page.startswith("<!doctype html>") and "Toto on the embedded world" in page
    numbers_of = summary(out)
    assert all(math.isfinite(x) for x in numbers(numbers_of))
    assert list(numbers_of["seconds"]) == STAGES
    assert all(seconds > 0 for seconds in numbers_of["seconds"].values())
    assert set(numbers_of["tokens_per_second"]) == {"tokenize", "pretrain", "generate"}
    assert numbers_of["peak_memory_bytes"] > 10e6
    assert len(numbers_of["probe_accuracy"]) == 3 and numbers_of["best_layer"] in (0, 1, 2)
    for name in ("best_layer_accuracy", "chance_accuracy", "pixel_accuracy"):
        assert 0 <= numbers_of[name] <= 1
    assert numbers_of["tokenizer"]["codebook_size"] == CODEBOOK
    assert numbers_of["failures"] == 0 and numbers_of["seed"] == 0
    assert numbers_of["versions"]["device"] == "cpu"
    metrics = [json.loads(line) for line in (out / "pretrain" / "metrics.jsonl").open()]
    measured = next(row["validation_loss"] for row in reversed(metrics) if "validation_loss" in row)
    # Training validates in bf16 where the processor has it, the report in fp32.
    assert numbers_of["validation_loss"] == pytest.approx(measured, rel=5e-3)


def test_yardsticks_by_counting(demo):
    """Predicting by code frequencies, counted here from the data set's files."""
    found = summary(demo / "out")
    splits = codes_by_split(demo / "out")
    assert [len(splits[name]) for name in ("train", "val", "test")] == [28, 4, 8]
    train, held_out = np.stack(splits["train"]), np.stack(splits["val"])
    assert found["uniform_loss"] == pytest.approx(math.log(CODEBOOK))
    frequency = (np.bincount(train.ravel(), minlength=CODEBOOK) + 1.0) / (train.size + CODEBOOK)
    for scope, clips in ((found, held_out), (found["later_frames"], held_out[:, 1:])):
        assert scope["unigram_loss"] == pytest.approx(-np.log(frequency[clips]).mean())

    # The previous frame's code: pairs counted in a table, mixed with the frequencies by a weight
    # that is chosen on training clips, so at worst a little worse than the best of all weights.
    pairs = np.zeros((CODEBOOK, CODEBOOK))
    np.add.at(pairs, (train[:, :-1].ravel(), train[:, 1:].ravel()), 1)
    totals = pairs.sum(1)
    before, now = held_out[:, :-1], held_out[:, 1:]
    seen = pairs[before, now] / np.maximum(totals[before], 1)
    losses = []
    for weight in np.linspace(0, 0.99, 100):
        mix = np.where(totals[before] > 0, weight, 0)
        losses.append(-np.log(mix * seen + (1 - mix) * frequency[now]).mean())
    later = found["later_frames"]["previous_frame_loss"]
    assert any(later == pytest.approx(loss, rel=1e-9) for loss in losses)
    # One of the six frames has no frame before it and is predicted by the frequencies.
    first = -np.log(frequency[held_out[:, 0]]).mean()
    assert found["previous_frame_loss"] == pytest.approx((first + 5 * later) / 6)


def test_futures_begin_with_what_was_seen(demo):
    futures = np.load(demo / "out" / "futures.npy")
    held_out = codes_by_split(demo / "out")["val"]
    assert futures.shape == (2, 2, FRAMES, 4, 4) and futures.max() < CODEBOOK
    for clip, samples in zip(held_out, futures, strict=False):
        for sample in samples:
            assert np.array_equal(sample[:2], clip[:2])
    assert not np.array_equal(futures[:, 0, 2:], futures[:, 1, 2:])  # two draws


def test_run_again_reuses_everything(demo):
    out = demo / "out"

    def state() -> dict[str, object]:
        files = [out / name for name in RESULTS] + sorted((out / "stages").iterdir())
        return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}

    before, numbers_before = state(), summary(out)
    made(demo, "demo", "--count", str(COUNT), "--out", "out", *SMALL)
    assert state() == before
    assert len(list((out / "stages").iterdir())) == len(STAGES)
    assert summary(out) == numbers_before


@pytest.mark.parametrize(
    "change", ["--count 41", "--seed 1", "--pretrain.loop.steps 9", "--videos ."]
)
def test_other_settings_are_refused(demo, change):
    # Of an option that is given twice, the last counts.
    done = toto(demo, *f"demo --count {COUNT} --out out".split(), *SMALL, *change.split())
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert "other settings" in done.stderr and "choose another" in done.stderr


def files_below(folder: Path) -> int:
    return sum(len(files) for _, _, files in os.walk(folder))


def kill_and_run_again(folder: Path, whole: Path, part: float) -> None:
    """Kill a demo when that part of its files is there; run again, it ends as if never killed."""
    arguments = ["demo", "--count", str(COUNT), "--out", "killed", *SMALL]
    ours, files = folder / "killed", int(part * files_below(whole))
    process = begin(folder, *arguments)
    stop_when(process, lambda: files_below(ours) >= files, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert made(folder, *arguments) == ["killed/report.html"]
    for name in ("world/videos/000009.mp4", "tokens/shards/00000.npy", "futures.npy"):
        assert (ours / name).read_bytes() == (whole / name).read_bytes()
    found, expected = summary(ours), summary(whole)
    for name in ("validation_loss", "unigram_loss", "probe_accuracy", "tokenizer"):
        assert found[name] == expected[name], name


def test_a_killed_demo_goes_on(demo, tmp_path):
    seed = random.SystemRandom().randrange(10**6)
    print(f"the moment is drawn from seed {seed}")
    kill_and_run_again(tmp_path, demo / "out", random.Random(seed).uniform(0.02, 0.9))


@pytest.mark.slow
@pytest.mark.parametrize("part", np.linspace(0.01, 0.95, 32).round(3).tolist())
def test_a_demo_killed_at_any_moment_goes_on(demo, tmp_path, part):
    kill_and_run_again(tmp_path, demo / "out", part)


def test_own_videos(tmp_path):
    """No classes, lengths that differ, one broken file: no probing, the failure listed."""
    make_videos(tmp_path / "mine", [21, 40, 9, 60, 33, 21, 26, 80], side=40)
    whole = (tmp_path / "mine" / "video001.mp4").read_bytes()
    (tmp_path / "mine" / "broken.mp4").write_bytes(whole[: len(whole) // 3])
    (tmp_path / "mine" / "notes.txt").write_text("not a video\n")
    done = toto(tmp_path, "demo", "--videos", "mine", "--out", "out", *SMALL)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "out/report.html\n"
    assert "broken.mp4" in done.stderr and "2 of 10 files could not be read" in done.stderr
    assert "no probing" in done.stderr
    found = summary(tmp_path / "out")
    assert found["failures"] == 2 and found["probe_accuracy"] is None
    assert list(found["seconds"]) == ["tokenizer", "tokenize", "pretrain", "generate"]
    assert math.isfinite(found["validation_loss"])
    page = (tmp_path / "out" / "report.html").read_text()
    assert "broken.mp4" in page and "notes.txt" in page and "Toto on your videos" in page


def test_own_videos_in_two_classes_are_probed_and_none_continued(tmp_path):
    for seed, name in enumerate(("spin", "fall")):
        make_videos(tmp_path / "mine" / name, [24] * 10, side=32, seed=seed)
    before = (tmp_path / "mine").stat().st_mtime_ns
    made(tmp_path, "demo", "--videos", "mine", "--out", "out", *SMALL, "--futures", "0")
    assert len(summary(tmp_path / "out")["probe_accuracy"]) == 3
    assert 'id="future"' not in (tmp_path / "out" / "report.html").read_text()
    assert (tmp_path / "mine").stat().st_mtime_ns == before
