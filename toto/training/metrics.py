"""What a run has measured: metrics.jsonl, and the same for those who draw curves."""

import hashlib
import json
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from os import environ
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from toto.errors import UserError
from toto.files import write_atomically
from toto.progress import console
from toto.training.config import Tracker


@runtime_checkable
class _Board(Protocol):
    def log(self, step: int, values: dict[str, float]) -> None: ...

    def close(self) -> None: ...


class _TensorBoard:
    def __init__(self, run: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(run / "tensorboard"), purge_step=step + 1)

    def log(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        self.writer.close()


class _WandB:
    """A run that goes on keeps its curves; WANDB_PROJECT and the like say where they are kept."""

    def __init__(self, run: Path, step: int) -> None:
        import wandb

        project = environ.get("WANDB_PROJECT", "toto")
        self.run = wandb.init(project=project, id=_name(run), dir=str(run), resume="allow")
        # Its own count never goes back: steps that are measured again would be dropped.
        self.run.define_metric("*", step_metric="step")

    def log(self, step: int, values: dict[str, float]) -> None:
        self.run.log({"step": step, **values})

    def close(self) -> None:
        self.run.finish()


class _Trackio:
    """What it says goes where progress goes: a command's output ends with what it has made."""

    def __init__(self, run: Path, step: int) -> None:
        import trackio

        self.trackio = trackio
        with redirect_stdout(sys.stderr):
            self.run = trackio.init(project="toto", name=_name(run), resume="allow")

    def log(self, step: int, values: dict[str, float]) -> None:
        self.run.log(values, step=step)

    def close(self) -> None:
        with redirect_stdout(sys.stderr):
            self.trackio.finish()


def _name(run: Path) -> str:
    """The folder's name, and what tells it from others of that name."""
    path = run.absolute()
    return f"{path.name}-{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"


_BOARDS: dict[Tracker, Any] = {"tensorboard": _TensorBoard, "wandb": _WandB, "trackio": _Trackio}


class MetricsLog:
    """Appends one JSON object a line to `run/metrics.jsonl`; each has `step` and `seconds`.

    Raises:
        UserError: a tracker is not installed.
    """

    def __init__(self, run: Path, step: int, trackers: Sequence[Tracker] = ()) -> None:
        self.path = run / "metrics.jsonl"
        # Steps after the checkpoint that a run resumes from are measured again.
        kept = [row for row in read_metrics(run) if row["step"] <= step]
        lines = "".join(json.dumps(row) + "\n" for row in kept)
        write_atomically(self.path, lines.encode())
        self.file = self.path.open("a", buffering=1)
        self.boards = [board for tracker in trackers if (board := _board(tracker, run, step))]

    def log(self, step: int, seconds: float, values: dict[str, float]) -> None:
        """Record `values` after `step` steps and `seconds` of training in all."""
        row = {"step": step, "seconds": round(seconds, 3), **values}
        self.file.write(json.dumps(row) + "\n")
        for board in self.boards:
            board.log(step, values)

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()
        for board in self.boards:
            board.close()


def _board(tracker: Tracker, run: Path, step: int) -> _Board | None:
    try:
        board: _Board = _BOARDS[tracker](run, step)
        return board
    except ImportError as error:
        if tracker == "tensorboard":  # nobody has asked for it
            console.print("tensorboard is not installed: metrics are in metrics.jsonl alone")
            return None
        raise UserError(f"tracker {tracker} is not installed: pip install {tracker}") from error


def read_metrics(run: Path) -> list[dict[str, float | int]]:
    """All rows of a run's metrics; a last line that a kill cut short is left out.

    Raises:
        UserError: a line is none of ours.
    """
    path = run / "metrics.jsonl"
    rows = []
    for number, line in enumerate(path.read_text().splitlines() if path.exists() else [], 1):
        try:
            row = json.loads(line)
        except ValueError:
            break
        if not _is_row(row):
            raise UserError(f"{path} is damaged: line {number} is no row of a step's numbers")
        rows.append(row)
    return rows


def _is_row(row: object) -> bool:
    if not isinstance(row, dict) or type(row.get("step")) is not int:
        return False
    return all(type(value) in (int, float) for value in row.values())
