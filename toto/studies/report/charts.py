"""A report's charts, as SVG that takes the page's colours."""

import io
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from toto.studies.report.records import Report, Rows
from toto.studies.report.words import baselines
from toto.tasks.results import ProbeResult

# Each is replaced by the page's variable of that name, which knows light from dark.
COLOURS = {"ink": "#6b7482", "model": "#e0782f", "given": "#3f86d8", "faint": "#9aa3b0"}


def charts(report: Report) -> dict[str, Markup]:
    """Losses of training, losses along the clip and, where it was probed, accuracy by layer."""
    style: dict[Any, Any] = {
        "svg.fonttype": "none",  # text stays text: it takes the page's font and colour
        "font.size": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlelocation": "left",
        "legend.frameon": False,
        "lines.linewidth": 1.6,
    }
    for part in ("axes.edgecolor", "axes.labelcolor", "text.color", "xtick.color", "ytick.color"):
        style[part] = COLOURS["ink"]
    with matplotlib.rc_context(style):
        drawn = {
            "training": _svg(_training_chart(report), "training"),
            "positions": _svg(_position_chart(report), "positions"),
        }
        if report.probe:
            drawn["layers"] = _svg(_layer_chart(report.probe), "layers")
    return drawn


def _training_chart(report: Report) -> Figure:
    """Training and validation loss by step, the curriculum, and the learning rate below."""
    figure = Figure(figsize=(5, 3.7), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    rows = report.metrics
    above.plot(
        *_series(rows, "loss"), color=COLOURS["model"], alpha=0.55, lw=1.1, label="training clips"
    )
    above.plot(
        *_series(rows, "validation_loss"),
        "o-",
        color=COLOURS["model"],
        ms=5,
        label="held-out clips",
    )
    name, best = report.whole_clip.best()
    above.axhline(best, color=COLOURS["ink"], ls="--", lw=1.2, label=f"best yardstick: {name}")
    above.set_ylabel("nats a code")
    _mark_curriculum(above, rows)
    above.legend(loc="upper right")
    below.plot(*_series(rows, "model/learning_rate"), color=COLOURS["faint"])
    below.set_ylabel("rate")
    below.set_ylim(bottom=0)
    below.ticklabel_format(axis="y", scilimits=(-3, 3))
    below.set_xlabel("step")
    return figure


def _series(rows: Rows, name: str) -> tuple[list[float | int], list[float | int]]:
    chosen = [row for row in rows if name in row]
    return [row["step"] for row in chosen], [row[name] for row in chosen]


def _mark_curriculum(axes: Axes, rows: Rows) -> None:
    """A line where the clips of training become longer."""
    steps, frames = _series(rows, "frames")
    for i in range(1, len(frames)):
        if frames[i] != frames[i - 1]:
            axes.axvline(steps[i - 1], color=COLOURS["faint"], lw=1, ls=":", ymax=0.6)
            axes.annotate(
                f"{frames[i - 1]:.0f} → {frames[i]:.0f} frames",
                (steps[i - 1], 0.5),
                xycoords=("data", "axes fraction"),
                xytext=(-5, 0),
                textcoords="offset points",
                ha="right",
            )


def _position_chart(report: Report) -> Figure:
    """Loss along the clip: thin at each code, thick the mean of each frame."""
    figure = Figure(figsize=(5, 3.7), layout="constrained")
    axes = figure.subplots()
    size, frames = report.data.codes_per_frame, report.clip_frames
    losses = report.position_losses
    axes.plot(
        1 + (np.arange(len(losses)) + 0.5) / size,
        losses,
        color=COLOURS["faint"],
        lw=0.7,
        label="each code",
    )
    means = [float(np.nanmean(losses[i * size : (i + 1) * size])) for i in range(frames)]
    axes.stairs(
        means,
        np.arange(1, frames + 2),
        baseline=None,
        color=COLOURS["model"],
        lw=2,
        label="mean of a frame",
    )
    ticks = np.arange(1, frames + 1)
    axes.set_xticks(ticks + 0.5, [str(i) for i in ticks])
    axes.tick_params(axis="x", length=0)
    for edge in range(2, frames + 1):
        axes.axvline(edge, color=COLOURS["faint"], lw=0.5, alpha=0.5)
    axes.set(xlabel="frame of the clip", ylabel="nats a code", xlim=(1, frames + 1))
    axes.set_ylim(bottom=0)
    axes.legend(loc="upper right")
    return figure


def _layer_chart(probe: ProbeResult) -> Figure:
    """Accuracy by layer, over the baselines."""
    figure = Figure(figsize=(5, 3.4), layout="constrained")
    axes = figure.subplots()
    layers = range(len(probe.test_accuracy))
    held_out, test = ([100 * x for x in y] for y in (probe.held_out_accuracy, probe.test_accuracy))
    axes.plot(
        layers, held_out, "o--", color=COLOURS["given"], ms=4, lw=1.2, label="clips to choose by"
    )
    axes.plot(layers, test, "o-", color=COLOURS["model"], ms=5, label="test clips")
    best = probe.best_layer
    axes.plot(best, test[best], "o", ms=13, mfc="none", mec=COLOURS["model"], label="chosen layer")
    styles = {"chance": ":", "pixels": "--"}
    for name, value in baselines(probe).items():
        axes.axhline(100 * value, color=COLOURS["ink"], ls=styles[name], lw=1.2, label=name)
    axes.set(xlabel="layer (0: the embedding)", ylabel="% of clips right")
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper left", ncols=3)
    return figure


def _svg(figure: Figure, name: str) -> Markup:
    file = io.StringIO()
    # Ids are salted, for all charts share the page.
    with matplotlib.rc_context({"svg.hashsalt": name}):
        nothing: dict[str, Any] = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(file, format="svg", transparent=True, metadata=nothing)
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :]
    for colour, value in COLOURS.items():
        svg = svg.replace(value, f"var(--{colour})")
    return Markup(svg)
