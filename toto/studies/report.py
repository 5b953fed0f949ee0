"""One run, from the videos to the verdicts, on one page that needs nothing but a browser."""

import base64
import io
import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import matplotlib
import numpy as np
from jaxtyping import Float, UInt8
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from toto.config import write_json
from toto.files import write_atomically
from toto.media.write import write_gif
from toto.studies.yardsticks import Yardsticks
from toto.tasks.results import ProbeResult

# Each is replaced in charts by the page's variable of that name, which knows light from dark.
_COLOURS = {"ink": "#6b7482", "model": "#e0782f", "given": "#3f86d8", "faint": "#9aa3b0"}
_FRAME = (86, 92, 104)  # around pictures that are nobody's prediction
_NAMES = {
    "uniform": "all codes alike",
    "unigram": "code frequencies",
    "previous_frame": "the previous frame",
}
_FAILURES_SHOWN = 20
_FPS = 5  # slow enough to compare pictures side by side

Frames = UInt8[np.ndarray, "frames 3 height width"]
Larger = UInt8[np.ndarray, "frames 3 tall wide"]
Rows = Sequence[Mapping[str, float | int]]


@dataclass(frozen=True)
class Stage:
    """A stage of the run. For a reused one, the numbers of the run that made it."""

    name: str
    seconds: float
    items: int
    unit: str
    """what `items` counts: videos, frames, tokens, clips"""
    peak_memory_bytes: int
    reused: bool = False
    note: str = ""


@dataclass(frozen=True)
class Data:
    """What went in."""

    videos: int
    """those that gave codes"""
    hours: float
    kept_frames: int
    codes_per_frame: int
    failures: list[tuple[str, str]]
    """key and reason of each file that could not be read"""


@dataclass(frozen=True)
class TokenizerQuality:
    """What survives of held-out frames, and how the codes are used."""

    psnr: float
    """dB"""
    mean_colour_psnr: float
    """dB, of frames filled with their own mean colour"""
    codes_used: int
    codebook_size: int
    perplexity: float
    frames: UInt8[np.ndarray, "n 3 height width"]
    reconstructions: UInt8[np.ndarray, "n 3 height width"]


@dataclass(frozen=True)
class Losses:
    """Nats per code of the model and of what it must beat, over the same held-out codes."""

    model: float
    yardsticks: Yardsticks

    def best(self) -> tuple[str, float]:
        """The lowest yardstick: its name in words, and its loss."""
        return min(self.named(), key=lambda pair: pair[1])

    def named(self) -> list[tuple[str, float]]:
        """The yardsticks, each with its name in words."""
        return [(words, getattr(self.yardsticks, name)) for name, words in _NAMES.items()]

    def above(self) -> list[str]:
        """The yardsticks that the model does not beat, in words."""
        return [words for words, loss in self.named() if self.model >= loss]


@dataclass(frozen=True)
class Continuation:
    """A clip and what the model made of its future; every array holds the whole clip."""

    truth: UInt8[np.ndarray, "frames 3 height width"]
    reconstruction: UInt8[np.ndarray, "frames 3 height width"]
    """the truth through the tokenizer: the best that a prediction can look"""
    samples: list[UInt8[np.ndarray, "frames 3 height width"]]
    """the prompt through the tokenizer, then what the model predicted"""
    prompt: int
    """frames that the model was given"""
    caption: str

    def rows(self) -> list[tuple[str, Frames, bool]]:
        """Name, frames, and whether the model made them."""
        rows = [("truth", self.truth, False), ("truth in codes", self.reconstruction, False)]
        for i, frames in enumerate(self.samples, 1):
            rows.append(("model" if len(self.samples) == 1 else f"model, try {i}", frames, True))
        return rows


@dataclass(frozen=True)
class Report:
    """All that a run has to say."""

    title: str
    created: str
    """ISO date"""
    seed: int
    config: dict[str, Any]
    """the recipes, as JSON values"""
    versions: dict[str, Any]
    """software and machine, by name"""
    stages: list[Stage]
    data: Data
    tokenizer: TokenizerQuality
    metrics: Rows
    """the rows of pre-training's metrics.jsonl"""
    whole_clip: Losses
    later_frames: Losses
    """without each clip's first frame"""
    position_losses: Float[np.ndarray, " positions"]
    """mean loss at each code of a clip"""
    continuations: list[Continuation]
    """may be empty"""
    probe: ProbeResult | None
    """None if the videos have no classes"""

    @property
    def clip_frames(self) -> int:
        """Frames of a clip."""
        return len(self.position_losses) // self.data.codes_per_frame


@dataclass(frozen=True)
class _Verdict:
    about: str
    number: str
    rest: str
    good: bool


def write_report(report: Report, folder: Path) -> Path:
    """Write `report.html`, one self-contained file, and `summary.json`; returns the page's path."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("toto", "studies"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {
        "count": lambda n: f"{n:,}",
        "short": _short,
        "duration": _duration,
        "bytes": _bytes,
        "percent": _percent,
    }
    page = environment.get_template("report.html").render(
        r=report,
        verdicts=_verdicts(report),
        scopes=[
            ("Whole clip", report.whole_clip),
            (f"Frames 2 to {report.clip_frames}", report.later_frames),
        ],
        charts=_charts(report),
        pairs=_pairs(report.tokenizer),
        futures=[(c, _moving(c), _strip(c)) for c in report.continuations],
        failures_shown=report.data.failures[:_FAILURES_SHOWN],
        standard_error=_standard_error(report.probe, report.probe.accuracy) if report.probe else 0,
        config=json.dumps(report.config, indent=2, ensure_ascii=False),
    )
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "summary.json", summary(report))
    write_atomically(folder / "report.html", page.encode())
    return folder / "report.html"


def summary(report: Report) -> dict[str, Any]:
    """The numbers of a report, for programs; losses in nats per code, times in seconds."""
    probe, tokenizer = report.probe, report.tokenizer
    return {
        **_loss_numbers(report.whole_clip),
        "later_frames": _loss_numbers(report.later_frames),
        "probe_accuracy": probe.test_accuracy if probe else None,
        "chance_accuracy": probe.chance if probe else None,
        "pixel_accuracy": probe.pixels.get("attention") if probe else None,
        "pixel_linear_accuracy": probe.pixels.get("linear") if probe else None,
        "best_layer": probe.best_layer if probe else None,
        "best_layer_accuracy": probe.accuracy if probe else None,
        "seconds": {stage.name: stage.seconds for stage in report.stages},
        "tokens_per_second": {
            stage.name: stage.items / stage.seconds
            for stage in report.stages
            if stage.unit == "tokens" and stage.seconds > 0
        },
        "peak_memory_bytes": max((s.peak_memory_bytes for s in report.stages), default=0),
        "tokenizer": {
            "psnr": tokenizer.psnr,
            "mean_colour_psnr": tokenizer.mean_colour_psnr,
            "codes_used": tokenizer.codes_used,
            "codebook_size": tokenizer.codebook_size,
            "perplexity": tokenizer.perplexity,
        },
        "versions": report.versions,
        "seed": report.seed,
        "failures": len(report.data.failures),
    }


def _loss_numbers(losses: Losses) -> dict[str, float]:
    yardsticks = losses.yardsticks
    return {
        "validation_loss": losses.model,
        "uniform_loss": yardsticks.uniform,
        "unigram_loss": yardsticks.unigram,
        "previous_frame_loss": yardsticks.previous_frame,
    }


# Words


def _verdicts(report: Report) -> list[_Verdict]:
    verdicts = [
        _loss_verdict("Whole clip", report.whole_clip),
        _loss_verdict("After frame 1", report.later_frames),
    ]
    return verdicts + ([_probe_verdict(report.probe)] if report.probe else [])


def _loss_verdict(about: str, losses: Losses) -> _Verdict:
    name, best = losses.best()
    digits = 2 if abs(losses.model - best) >= 0.01 else 4
    rest = f"against {best:.{digits}f} for the best yardstick, {name}"
    good = losses.model < best
    if not good:
        rest += ": the model is no better than counting"
    return _Verdict(about, f"{losses.model:.{digits}f} nats a code", rest, good)


def _probe_verdict(probe: ProbeResult) -> _Verdict:
    baselines = _baselines(probe)
    rest = f"reads the action in {_percent(probe.accuracy)} of test clips; "
    rest += ", ".join(f"{name} {_percent(accuracy)}" for name, accuracy in baselines.items())
    name, baseline = max(baselines.items(), key=lambda pair: pair[1])
    gain = probe.accuracy - baseline
    errors = _standard_error(probe, probe.accuracy), _standard_error(probe, baseline)
    if gain <= 0:
        rest += f": no better than {name}"
    elif gain < 2 * math.hypot(*errors):
        rest += f": too close to {name} to tell with {probe.clips[2]:,} test clips"
    else:
        return _Verdict("Features", _layer(probe), rest, True)
    return _Verdict("Features", _layer(probe), rest, False)


def _baselines(probe: ProbeResult) -> dict[str, float]:
    """What features are to surpass; pixels that could not be read again are left out."""
    baselines = {"chance": probe.chance}
    if probe.pixels:
        baselines["pixels"] = probe.pixels["attention"]
    return baselines


def _layer(probe: ProbeResult) -> str:
    return f"Layer {probe.best_layer} of {len(probe.test_accuracy) - 1}"


def _standard_error(probe: ProbeResult, accuracy: float) -> float:
    """Of an accuracy measured on the test clips."""
    return math.sqrt(accuracy * (1 - accuracy) / probe.clips[2])


def _percent(share: float) -> str:
    return f"{100 * share:.0f}\u00a0%"


def _short(number: float | int) -> str:
    for least, size, letter in ((1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k")):
        if number >= least:
            return f"{number / size:.3g}\u00a0{letter}"
    return f"{number:,.0f}" if number >= 10 else f"{number:.2g}"


def _duration(seconds: float | int) -> str:
    if seconds < 60:
        return f"{seconds:.1f}\u00a0s" if seconds < 10 else f"{seconds:.0f}\u00a0s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}\u00a0min {rest}\u00a0s"
    return f"{minutes // 60:,}\u00a0h {minutes % 60}\u00a0min"


def _bytes(number: int) -> str:
    return f"{number / 1e9:.1f}\u00a0GB" if number >= 1e9 else f"{number / 1e6:.0f}\u00a0MB"


# Pictures


def _pairs(tokenizer: TokenizerQuality) -> list[str]:
    sides = (_enlarged(tokenizer.frames), _enlarged(tokenizer.reconstructions))
    return [_png(pair) for pair in np.concatenate(sides, 3)]


def _moving(continuation: Continuation) -> str:
    """All rows side by side, so that they stay in time, over a bar that shows the time."""
    panels = [
        _bordered(_enlarged(frames), continuation.prompt if predicted else None, 3)
        for _, frames, predicted in continuation.rows()
    ]
    film = np.concatenate(panels, 3)
    film = np.concatenate([film, _timeline(len(film), continuation.prompt, film.shape[3])], 2)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "film.gif"
        write_gif(path, film, _FPS)
        return _data_uri("gif", path.read_bytes())


def _strip(continuation: Continuation) -> str:
    """All rows from above to below, time from left to right."""
    rows = [
        np.concatenate(list(_bordered(frames, continuation.prompt if predicted else None, 2)), 2)
        for _, frames, predicted in continuation.rows()
    ]
    return _png(np.concatenate(rows, 1))


def _enlarged(frames: Frames) -> Larger:
    """By a whole factor, to about 128 pixels, so that small frames stay crisp when scaled."""
    factor = max(1, round(128 / frames.shape[2]))
    return frames.repeat(factor, 2).repeat(factor, 3)


def _bordered(frames: Frames, prompt: int | None, edge: int) -> Larger:
    """Frames of the model in the colour of what was given up to `prompt`, then in the model's."""
    padded = np.pad(frames, ((0, 0), (0, 0), (edge, edge), (edge, edge)))
    for i, frame in enumerate(padded):
        colour = _FRAME if prompt is None else _rgb("given" if i < prompt else "model")
        frame[:] = np.array(colour, np.uint8)[:, None, None]
        frame[:, edge:-edge, edge:-edge] = frames[i]
    return padded


def _timeline(frames: int, prompt: int, width: int) -> Frames:
    """A bar of one cell for each frame, filled up to the frame that is shown."""
    bar = np.zeros((frames, 3, 8, width), np.uint8)
    edges = np.linspace(0, width, frames + 1).round().astype(int)
    for now in range(frames):
        for cell in range(frames):
            colour = np.array(_rgb("given" if cell < prompt else "model"))
            shown = colour if cell <= now else colour * 0.3
            bar[now, :, 3:, edges[cell] + 1 : edges[cell + 1] - 1] = shown[:, None, None]
    return bar


def _rgb(name: str) -> tuple[int, ...]:
    return tuple(bytes.fromhex(_COLOURS[name][1:]))


def _png(picture: UInt8[np.ndarray, "3 height width"]) -> str:
    file = io.BytesIO()
    image = Image.fromarray(np.ascontiguousarray(picture.transpose(1, 2, 0)))
    image.save(file, format="PNG", optimize=True)
    return _data_uri("png", file.getvalue())


def _data_uri(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


# Charts


def _charts(report: Report) -> dict[str, Markup]:
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
        style[part] = _COLOURS["ink"]
    with matplotlib.rc_context(style):
        charts = {
            "training": _svg(_training_chart(report), "training"),
            "positions": _svg(_position_chart(report), "positions"),
        }
        if report.probe:
            charts["layers"] = _svg(_layer_chart(report.probe), "layers")
    return charts


def _training_chart(report: Report) -> Figure:
    """Training and validation loss by step, the curriculum, and the learning rate below."""
    figure = Figure(figsize=(5, 3.7), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    rows = report.metrics
    above.plot(
        *_series(rows, "loss"), color=_COLOURS["model"], alpha=0.55, lw=1.1, label="training clips"
    )
    above.plot(
        *_series(rows, "validation_loss"),
        "o-",
        color=_COLOURS["model"],
        ms=5,
        label="held-out clips",
    )
    name, best = report.whole_clip.best()
    above.axhline(best, color=_COLOURS["ink"], ls="--", lw=1.2, label=f"best yardstick: {name}")
    above.set_ylabel("nats a code")
    _mark_curriculum(above, rows)
    above.legend(loc="upper right")
    below.plot(*_series(rows, "model/learning_rate"), color=_COLOURS["faint"])
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
            axes.axvline(steps[i - 1], color=_COLOURS["faint"], lw=1, ls=":", ymax=0.6)
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
        color=_COLOURS["faint"],
        lw=0.7,
        label="each code",
    )
    means = [float(np.nanmean(losses[i * size : (i + 1) * size])) for i in range(frames)]
    axes.stairs(
        means,
        np.arange(1, frames + 2),
        baseline=None,
        color=_COLOURS["model"],
        lw=2,
        label="mean of a frame",
    )
    ticks = np.arange(1, frames + 1)
    axes.set_xticks(ticks + 0.5, [str(i) for i in ticks])
    axes.tick_params(axis="x", length=0)
    for edge in range(2, frames + 1):
        axes.axvline(edge, color=_COLOURS["faint"], lw=0.5, alpha=0.5)
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
        layers, held_out, "o--", color=_COLOURS["given"], ms=4, lw=1.2, label="clips to choose by"
    )
    axes.plot(layers, test, "o-", color=_COLOURS["model"], ms=5, label="test clips")
    best = probe.best_layer
    axes.plot(best, test[best], "o", ms=13, mfc="none", mec=_COLOURS["model"], label="chosen layer")
    styles = {"chance": ":", "pixels": "--"}
    for name, value in _baselines(probe).items():
        axes.axhline(100 * value, color=_COLOURS["ink"], ls=styles[name], lw=1.2, label=name)
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
    for colour, value in _COLOURS.items():
        svg = svg.replace(value, f"var(--{colour})")
    return Markup(svg)
