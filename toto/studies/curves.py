"""Curves of training runs, side by side: `toto study curves RUN... --out FILE`."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from toto.errors import UserError
from toto.studies.plots import STYLE, write_svg
from toto.training.metrics import read_metrics

Rows = list[dict[str, float | int]]

# Points of a curve, each a mean over as many lines of the log.
_POINTS = 150


def draw_curves(runs: Sequence[Path], out: Path) -> None:
    """Draw losses, gradient norms and the last losses by frame of pre-training runs.

    Raises:
        UserError: a folder holds no metrics of pre-training, or the picture is to be no SVG.
    """
    if out.suffix != ".svg":
        raise UserError(f"{out}: .svg can be written")
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(11, 3.4), layout="constrained")
        losses, norms, frames = figure.subplots(1, 3)
    for number, run in enumerate(runs):
        rows = read_metrics(run)
        if not any("frame_loss/01" in row for row in rows):
            raise UserError(f"{run} holds no metrics of pre-training")
        colour = f"C{number}"
        _losses(losses, rows, run.absolute().name, colour)
        norms.plot(*_smooth(rows, "model/gradient_norm"), color=colour)
        last = _smooth_last(rows)
        frames.plot(range(1, len(last) + 1), last, marker=".", color=colour)
    losses.set(title="loss", xlabel="million tokens", ylabel="nats a code")
    losses.legend()
    norms.set(title="norm of the gradient", xlabel="million tokens", yscale="log")
    frames.set(title="training loss by frame, at the end", xlabel="frame of the clip")
    for axes in (losses, norms, frames):
        axes.grid(alpha=0.25)
    write_svg(figure, out)


def _losses(axes: Axes, rows: Rows, name: str, colour: str) -> None:
    axes.plot(*_smooth(rows, "loss"), color=colour, label=f"{name}, training")
    tokens = {row["step"]: row["tokens"] for row in rows if "tokens" in row}
    found = [
        (tokens[row["step"]] / 1e6, row["validation_loss"])
        for row in rows
        if "validation_loss" in row and row["step"] in tokens
    ]
    axes.plot(*np.reshape(found, (-1, 2)).T, "o", color=colour, label=f"{name}, validation")


def _smooth(rows: Rows, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Millions of tokens and means of a metric."""
    values = np.array([(row["tokens"] / 1e6, row[name]) for row in rows if name in row])
    pieces = np.array_split(values, min(_POINTS, len(values)))
    return tuple(np.array([piece.mean(0) for piece in pieces]).T)


def _smooth_last(rows: Rows) -> np.ndarray:
    """Losses by frame over the last tenth of the lines that have all frames."""
    names = sorted({name for row in rows for name in row if name.startswith("frame_loss/")})
    whole = [[row[name] for name in names] for row in rows if all(name in row for name in names)]
    return np.mean(whole[-max(len(whole) // 10, 1) :], axis=0)
