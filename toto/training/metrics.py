"""What a run measures: metrics.jsonl, and the same for TensorBoard."""

import json
from pathlib import Path
from types import TracebackType

from torch.utils.tensorboard import SummaryWriter

from toto.files import write_atomically


class MetricsLog:
    """Appends one JSON object a line to `run/metrics.jsonl`; each has `step` and `seconds`."""

    def __init__(self, run: Path, step: int) -> None:
        self.path = run / "metrics.jsonl"
        # Steps after the checkpoint that a run resumes from are measured again.
        kept = [row for row in read_metrics(run) if row["step"] <= step]
        lines = "".join(json.dumps(row) + "\n" for row in kept)
        write_atomically(self.path, lines.encode())
        self.file = self.path.open("a", buffering=1)
        self.board = SummaryWriter(str(run / "tensorboard"), purge_step=step + 1)

    def log(self, step: int, seconds: float, values: dict[str, float]) -> None:
        """Record `values` after `step` steps and `seconds` of training in all."""
        row = {"step": step, "seconds": round(seconds, 3), **values}
        self.file.write(json.dumps(row) + "\n")
        for name, value in values.items():
            self.board.add_scalar(name, value, step)

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.file.close()
        self.board.close()


def read_metrics(run: Path) -> list[dict[str, float | int]]:
    """All rows of a run's metrics; a last line that a kill cut short is left out."""
    path = run / "metrics.jsonl"
    rows = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows
