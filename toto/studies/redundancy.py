"""What the past says of a video's codes: the loss at each place of a clip (Toto, appendix A.1)."""

from dataclasses import dataclass, replace
from pathlib import Path

import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from toto.api import Toto
from toto.errors import UserError, at_least, within
from toto.models.llama import Llama
from toto.studies.plots import STYLE, write_svg
from toto.studies.yardsticks import Nats, predict
from toto.tasks.answers import answered
from toto.tokens.loader import Sequences, freeze
from toto.tokens.store import TokenDataset
from toto.training.objectives.next_token import position_losses

# The most training clips that codes are counted in.
_COUNTED = 5000
_BATCH = 4
_SHOWN = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)

_PAPER = (
    "the paper's large on Kinetics-400, read off its figure: the first code 8.4, frame 1 6 to 7, "
    "frame 2 3 to 3.9, later ones 2.5 to 3.4, their first codes 3.4 to 3.5"
)


@dataclass(frozen=True)
class RedundancyResult:
    """Nats a code over held-out clips, at each place."""

    clips: int
    loss: list[list[list[float]]]
    """the model's, by frame, row and column"""
    previous_frame: list[float]
    """by frame, of the code at the same place one frame before, mixed with the unigram"""
    unigram: list[float]
    """by frame, of how often a code occurs"""

    @property
    def by_frame(self) -> list[float]:
        """The model's loss by frame."""
        return [float(np.mean(frame)) for frame in self.loss]

    def text(self) -> str:
        """The losses by frame, and what they say of the past."""
        loss, by_frame = np.array(self.loss), self.by_frame
        frames, rows, cols = loss.shape
        shown = [i for i in _SHOWN if i <= frames]
        lines = [f"{self.clips} clips of {frames} frames of {rows}x{cols} codes, nats a code"]
        lines.append("  frame          " + "".join(f"{i:7d}" for i in shown))
        curves = {
            "model": by_frame,
            "previous frame": self.previous_frame,
            "unigram": self.unigram,
        }
        for name, curve in curves.items():
            lines.append(f"  {name:<15}" + "".join(f"{curve[i - 1]:7.3f}" for i in shown))
        if frames > 1:
            later = loss[1:].reshape(frames - 1, -1)
            said = by_frame[0] - float(later.mean())
            lines.append(
                f"  the past says {said:.3f} of the {by_frame[0]:.3f} nats of a code, "
                f"{said / by_frame[0]:.0%}"
            )
            lines.append(
                f"  of frames after the first, the first code {later[:, 0].mean():.3f}, "
                f"all others {later[:, 1:].mean():.3f}"
            )
        return "\n".join([*lines, f"  {_PAPER}"])


def study_redundancy(
    loaded: Toto, dataset: TokenDataset, out: Path, clips: int = 500, fraction: float = 0.1
) -> RedundancyResult:
    """Measure the model on held-out clips of whole length; result.json and places.svg.

    Args:
        loaded: the model.
        dataset: videos as codes of its tokenizer.
        out: folder to write to.
        clips: the most that are measured.
        fraction: part of the videos that is held out where the data set names no split; that of
            the model's training, or it has seen them.

    Raises:
        UserError: the model reads patches or other codes, there are too few videos, none is as long
            as what the model reads, or `out` was begun otherwise.
    """
    at_least(1, clips=clips)
    within(0, 1, fraction=fraction)
    if (
        not isinstance(loaded.model, Llama)
        or dataset.info.tokenizer != loaded.tokenizer.fingerprint
        or dataset.layout != loaded.layout
    ):
        raise UserError(f"{dataset.folder} does not hold codes that {loaded.folder} reads")
    asked = {
        "model": loaded.encoder.fingerprint,
        "data": dataset.fingerprint,
        "clips": clips,
        "fraction": fraction,
    }

    def answer() -> RedundancyResult:
        train, held_out = (_videos(loaded, dataset, x, fraction) for x in ("train", "validation"))
        with train, held_out:
            losses = position_losses(loaded.model, held_out, min(clips, held_out.clips), _BATCH)
            seen = [train.codes(i) for i in range(min(_COUNTED, train.clips))]
            measured = [held_out.codes(i) for i in range(len(losses))]
        whole = [i for i, clip in enumerate(measured) if len(clip) == loaded.frames]
        if not whole:
            raise UserError(f"{dataset.folder}: no held-out clip has {loaded.frames} frames")
        grid = loaded.vocabulary.rows, loaded.vocabulary.cols
        loss = losses[whole].mean(0).unflatten(0, (loaded.frames, *grid))
        size = loaded.vocabulary.codebook_size
        unigram, previous = predict(seen, [measured[i] for i in whole], size)
        result = RedundancyResult(len(whole), loss.tolist(), _means(previous), _means(unigram))
        draw_places(result, out / "places.svg")
        return result

    return answered(RedundancyResult, out, asked, answer)


def _videos(loaded: Toto, dataset: TokenDataset, split: str, fraction: float) -> Sequences:
    manifest = freeze([dataset], (), loaded.frames, 0, split, fraction)
    videos = tuple(entry for entry in manifest.entries if entry.kind == "video")
    if not videos:
        raise UserError(f"{dataset.folder} holds no videos for {split}")
    return Sequences(replace(manifest, entries=videos))


def _means(clips: list[Nats]) -> list[float]:
    """Over clips of one length, by frame."""
    return np.mean(clips, axis=(0, 2, 3)).tolist()


def draw_places(result: RedundancyResult, path: Path) -> None:
    """Draw the loss along the clip, and where in a later frame it lies."""
    loss: Float[np.ndarray, "frames rows cols"] = np.array(result.loss)
    frames, rows, cols = loss.shape
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10, 3.2), layout="constrained")
        along, within = figure.subplots(1, 2, width_ratios=[3, 1])
    along.plot(np.arange(loss.size) / (rows * cols) + 1, loss.ravel(), lw=0.6, label="model")
    steps = np.arange(1, frames + 2)
    for name, curve in (("previous frame", result.previous_frame), ("unigram", result.unigram)):
        along.step(steps, [*curve, curve[-1]], where="post", lw=1, label=name)
    along.set(xlabel="frame of the clip, its codes in raster order", ylabel="nats a code")
    along.legend()
    picture = within.imshow(loss[1:].mean(0) if frames > 1 else loss[0], cmap="magma")
    within.set(title="mean of frames after the first", xticks=[], yticks=[])
    figure.colorbar(picture, ax=within, shrink=0.8)
    write_svg(figure, path)
