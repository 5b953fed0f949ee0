import json
import struct
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.commands import ENVIRONMENT
from tests.tiny import make_dataset, make_images, make_videos, save_tokenizer
from tests.training.toys import LOOP, PRETRAIN, Adversaries
from toto.errors import UserError
from toto.tokens.loader import Sequences, freeze
from toto.tokens.store import TokenDataset
from toto.training.loop import train
from toto.training.metrics import MetricsLog, read_metrics
from toto.training.objectives.next_token import NextToken


@pytest.fixture(scope="module")
def mixed(tmp_path_factory) -> list[TokenDataset]:
    """Two data sets, one of them with videos and images."""
    folder = tmp_path_factory.mktemp("data")
    visual = save_tokenizer(folder / "tokenizer")
    both = make_images(make_videos(folder / "m", [9, 4, 3, 14, 8, 12]), 9)
    return [
        make_dataset(both, visual, folder / "both"),
        make_dataset(make_videos(folder / "n", [6, 2, 9, 11, 5], seed=3), visual, folder / "clips"),
    ]


def objective(datasets: list[TokenDataset], **changes) -> NextToken:
    config = replace(PRETRAIN, **changes)
    read = [
        Sequences(freeze(datasets, (), config.frames, config.loop.seed, split, 0.3))
        for split in ("train", "validation")
    ]
    return NextToken(config, *read)


def means(sequences: Sequences, model, which: range) -> dict[str, dict[str, float]]:
    """The mean loss of codes by source and by frame, one code after the other."""
    found: dict[str, dict[str, list[float]]] = {"source": {}, "frame": {}}
    for index in which:
        item, _ = sequences.describe(index)[0]
        part = next(p for p in sequences._parts(index, 1))
        folder = sequences.datasets[part.source].folder.name
        source = f"{folder} {item.kind}s" if folder == "both" else folder
        tokens = torch.from_numpy(sequences.sequence(index))
        logs = model(tokens[None])[0].log_softmax(-1).detach()
        for place in range(len(tokens) - 2):
            if tokens[place + 1] >= 4:
                loss = -float(logs[place, tokens[place + 1]])
                found["source"].setdefault(source, []).append(loss)
                found["frame"].setdefault(f"{place // 4 + 1:02}", []).append(loss)
    return {kind: {n: float(np.mean(v)) for n, v in of.items()} for kind, of in found.items()}


def test_losses_by_source_and_by_frame(mixed, tmp_path):
    """Two steps without learning, against the losses of single codes."""
    still = replace(PRETRAIN.optimizer, learning_rate=0.0)
    trained = objective(mixed, optimizer=still, curriculum=())
    train(trained, replace(LOOP, steps=2, log_every=2), tmp_path, "test")
    row, validation = read_metrics(tmp_path)
    expected = means(trained.train, trained.model, range(2 * PRETRAIN.batch))
    assert len(expected["source"]) == 3
    for kind, of in expected.items():
        logged = {n: v for n, v in row.items() if n.startswith(f"{kind}_loss/")}
        assert logged == pytest.approx({f"{kind}_loss/{n}": v for n, v in of.items()}, rel=1e-5)
    held_out = means(trained.held_out, trained.model, range(PRETRAIN.validation_sequences))
    for name, value in held_out["source"].items():
        assert validation[f"validation_loss/{name}"] == pytest.approx(value, rel=1e-5)


def test_frames_are_those_of_the_pieces_of_a_curriculum(mixed, tmp_path):
    trained = objective(mixed, curriculum=((1.0, 1),))
    train(trained, replace(LOOP, steps=2, log_every=2), tmp_path, "test")
    row = read_metrics(tmp_path)[0]
    assert [name for name in row if name.startswith("frame_loss")] == ["frame_loss/01"]
    assert row["frame_loss/01"] == pytest.approx(row["loss"], rel=0.05)


def test_the_waiting_and_the_time_left_are_in_the_log(mixed, tmp_path):
    trained = objective(mixed)
    batches = trained.batches

    def slow(step, world):
        time.sleep(0.2)  # a step takes a few milliseconds
        return batches(step, world)

    trained.batches = slow
    # No validation before the end: sequences are prepared meanwhile, and it is not counted.
    train(trained, replace(LOOP, validate_every=10), tmp_path, "test")
    rows = [row for row in read_metrics(tmp_path) if "data_wait" in row]
    assert sorted(row["data_wait"] for row in rows)[5] > 0.5
    assert all(row["data_wait"] <= 1 for row in rows)
    assert rows[-1]["seconds_left"] == 0
    assert rows[4]["seconds_left"] >= 5 * 0.2 * 0.9


def test_trackers_get_what_the_log_gets(tmp_path):
    script = """
import sys
from pathlib import Path
from toto.training.metrics import MetricsLog
for saved, steps in ((0, (1, 2, 3)), (2, (3, 4))):  # killed, it measures a step again
    with MetricsLog(Path(sys.argv[1]), saved, ("tensorboard", "wandb", "trackio")) as log:
        for step in steps:
            log.log(step, 0.5, {"loss": 1.0 / step + saved})
print("made")
"""
    run = tmp_path / "run"
    run.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", script, str(run)],
        env=ENVIRONMENT | {"WANDB_MODE": "offline", "TRACKIO_DIR": str(tmp_path / "trackio")},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "made"
    expected = {row["step"]: row["loss"] for row in read_metrics(run)}
    assert sorted(expected) == [1, 2, 3, 4]
    assert from_tensorboard(run) == pytest.approx(expected)
    assert from_trackio(tmp_path / "trackio") == pytest.approx(expected)
    assert from_wandb(run) == pytest.approx(expected)


def from_tensorboard(run: Path) -> dict[int, float]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard")).Reload()
    return {event.step: event.value for event in events.Scalars("loss")}


def from_trackio(folder: Path) -> dict[int, float]:
    import sqlite3

    with sqlite3.connect(folder / "toto.db") as database:
        rows = database.execute("SELECT step, metrics FROM metrics").fetchall()
    return {step: json.loads(values)["loss"] for step, values in rows}


def from_wandb(run: Path) -> dict[int, float]:
    """Records of one block of a LevelDB log: checksum, length, type, and a protocol buffer."""
    from wandb.proto.wandb_internal_pb2 import Record

    found = {}
    for path in sorted((run / "wandb").glob("offline-run-*/*.wandb")):
        data, at = path.read_bytes(), 7
        while at + 7 <= len(data):
            _, length, _ = struct.unpack_from("<IHB", data, at)
            record = Record.FromString(data[at + 7 : at + 7 + length])
            at += 7 + length
            if record.WhichOneof("record_type") == "history":
                items = record.history.item
                values = {item.key or item.nested_key[0]: item.value_json for item in items}
                found[int(values["step"])] = float(values["loss"])
    return found


def test_a_tracker_that_is_missing_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match="tracker wandb is not installed: pip install wandb"):
        MetricsLog(tmp_path, 0, ("wandb",))


def test_without_tensorboard_there_are_still_metrics(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with MetricsLog(tmp_path, 0, ("tensorboard",)) as log:
        log.log(1, 0.5, {"loss": 2.0})
    assert read_metrics(tmp_path) == [{"step": 1, "seconds": 0.5, "loss": 2.0}]
    assert "tensorboard is not installed" in capsys.readouterr().err


def test_a_loss_that_is_not_finite_is_traced_to_its_source(mixed, tmp_path):
    trained = objective(mixed, curriculum=())
    names, loss = trained.train.names, trained.phases[0].loss

    def poisoned(batch, step):
        total, values = loss(batch, step)
        if step == 2:  # whatever comes of one source
            factor = torch.where(torch.tensor([n == "clips" for n in names]), float("inf"), 1.0)
            values["source_loss"] = values["source_loss"] * factor
            total = total * float("inf")
        return total, values

    trained.phases = (replace(trained.phases[0], loss=poisoned),)
    with pytest.raises(FloatingPointError, match=r"step 3: .* rank 0: source_loss clips \("):
        train(trained, replace(LOOP, log_every=5), tmp_path, "test")


def test_validation_is_no_part_of_a_steps_time(tmp_path):
    trained = Adversaries()
    validate = trained.validate
    trained.validate = lambda world: time.sleep(1) or validate(world)
    train(trained, replace(LOOP, log_every=2), tmp_path, "test")
    rates = {
        row["step"]: row["points_per_second"] for row in read_metrics(tmp_path) if "loss" in row
    }
    # The lines after the validations at steps 4 and 8: of 12 points in a second and more else.
    assert min(rates[6], rates[10]) > 12
