"""What a report says, as records, and its numbers for programs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from toto.studies.yardsticks import Yardsticks
from toto.tasks.results import ProbeResult

_NAMES = {
    "uniform": "all codes alike",
    "unigram": "code frequencies",
    "previous_frame": "the previous frame",
}

Frames = UInt8[np.ndarray, "frames 3 height width"]
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
