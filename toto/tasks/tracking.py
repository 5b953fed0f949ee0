"""Tracking objects from their masks in a video's first frame (Toto, Table 10), untrained.

The labels of the first frame are carried on by likeness of an encoder's states, for each of its
layers. Beside them stand three yardsticks: the same by the pixels of each place, the first mask as
it is, and the true masks as coarse as the grid, which no layer can surpass by much.

result.json               J and F of every layer
masks/READING/VIDEO/      masks of each layer and yardstick, as DAVIS's own evaluation reads them
videos/VIDEO.json         J and F of each video's objects
*_results-SPLIT.csv       the best layer's, as that evaluation writes them
"""

import csv
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from toto.api import Toto
from toto.config import from_dict, read_json, to_dict, write_json
from toto.media.masks import write_mask
from toto.models.patches import normalise
from toto.probing.baselines.base import Baseline
from toto.probing.config import Tracking
from toto.probing.features import pick_layers
from toto.probing.propagation import Propagator, grow_labels, shrink_labels
from toto.progress import progress
from toto.tasks.answers import answered
from toto.tasks.davis import Video, read_davis
from toto.tasks.frames import FrameReader, Pictures, frame_reader
from toto.tasks.paper import TRACKED
from toto.tasks.segmentation import Measured, Score, Truth
from toto.tokens.patches import PatchGrid
from toto.training.world import ALONE, World, wait

YARDSTICKS = PIXELS, STILL, GRID = "pixels", "still", "grid"
"""places that look alike, nothing that moves, and all that the grid can show"""


@dataclass(frozen=True)
class Followed:
    """What was found of one video."""

    objects: int
    readings: dict[str, Measured]
    """by layer and yardstick; empty where the first mask alone is known"""


@dataclass(frozen=True)
class TrackingResult:
    """J and F of every layer: means over the objects of all videos whose masks are known."""

    videos: int
    objects: int
    unmeasured: int
    """videos of which the first mask alone is known"""
    grid: tuple[int, int]
    """places of a frame"""
    layers: list[int]
    scores: list[Score]
    """by layer; empty where nothing is measured"""
    best_layer: int | None
    """that of the highest J&F on these very videos, as the paper reports it"""
    yardsticks: dict[str, Score]
    paper: list[str]
    """what the paper reports of DAVIS-2017"""

    def table(self) -> str:
        """The result in words, by layer."""
        rows, cols = self.grid
        lines = [f"{self.videos} videos, {self.objects} objects, {rows}x{cols} places a frame"]
        if self.unmeasured:
            lines.append(f"  {self.unmeasured} with a first mask alone: not measured")
        if self.scores:
            lines.append(f"  {'':8}     J&F      J recall  decay      F recall  decay")
        for layer, score in zip(self.layers, self.scores, strict=False):
            mark = "  <- best, on these videos" if layer == self.best_layer else ""
            lines.append(f"  layer {layer:2d} {_in_words(score)}{mark}")
        lines += [f"  {name:<8} {_in_words(score)}" for name, score in self.yardsticks.items()]
        lines.append("  the paper, on DAVIS-2017's validation videos:")
        return "\n".join([*lines, *(f"    {row}" for row in self.paper)])


def _in_words(score: Score) -> str:
    return " ".join(f"{value:6.1%}" for value in score.values)


def track(
    loaded: Toto | Baseline, root: Path, out: Path, config: Tracking, world: World = ALONE
) -> TrackingResult:
    """Track the objects of a folder in DAVIS's layout; begun in `out`, it goes on.

    All processes of the world call this, and share the videos.

    Raises:
        UserError: the folder is not of that layout, a file cannot be read, the encoder cannot read
            such frames, or `out` was begun with another question.
    """
    reader = frame_reader(loaded, config.size, config.context)
    layers = pick_layers(config.layers, reader.encoder.layers)
    videos = read_davis(root, config.split)
    question = {
        "encoder": reader.encoder.fingerprint,
        "size": reader.size,
        "videos": {video.name: [len(video.frames), len(video.masks)] for video in videos},
        "tracking": to_dict(config),
    }

    tracker = _Tracker(reader, layers, config, out)

    def answer() -> TrackingResult:
        mine = [videos[i] for i in world.part(len(videos)).tolist()]
        tracker.records.mkdir(exist_ok=True)
        count = sum(len(video.frames) for video in mine)
        with progress("track", count, "frames", shown=world.is_first) as advance:
            for video in mine:
                tracker.finish(video, advance)
        wait(world)
        every = {video.name: tracker.found(video) for video in videos}
        result = _result(every, reader.grid, layers)
        if world.is_first and result.best_layer is not None:
            _write_tables(every, _name(result.best_layer), out, config.split)
        return result

    return answered(TrackingResult, out, question, answer, world)


def _name(layer: int) -> str:
    return f"layer-{layer}"


@dataclass(frozen=True)
class _Tracker:
    """Tracks the objects of videos in all readings: layers and yardsticks."""

    reader: FrameReader
    layers: list[int]
    config: Tracking
    out: Path

    @property
    def records(self) -> Path:
        """Where a file for each video says that it is done."""
        return self.out / "videos"

    def finish(self, video: Video, advance: Callable[[int], None]) -> None:
        """Track a video unless that is done."""
        path = self.records / f"{video.name}.json"
        if path.exists():
            advance(len(video.frames))
        else:
            write_json(path, self._follow(video, advance))

    def found(self, video: Video) -> Followed:
        """What was found of a video that is done."""
        path = self.records / f"{video.name}.json"
        return from_dict(Followed, read_json(path, "what was found of a video"), str(path))

    def _follow(self, video: Video, advance: Callable[[int], None]) -> Followed:
        """Write masks frame by frame, and measure them where the truth is known."""
        first, device = video.first_mask(), self.reader.encoder.device
        objects, given = int(first.max()), torch.from_numpy(first).to(device)
        by_frame: dict[str, list[tuple[Tensor, Tensor]]] = {}
        for number, masks in enumerate(self._masks(video, given, objects)):
            for name, mask in masks.items():
                folder = self.out / "masks" / name / video.name
                folder.mkdir(parents=True, exist_ok=True)
                write_mask(folder / f"{video.frames[number].stem}.png", mask.cpu().numpy())
            # The first is given, and the last does not count either.
            if video.is_measured and 0 < number < len(video.frames) - 1:
                true = torch.from_numpy(video.mask(number, first)).to(device)
                truth, coarse = Truth(true, objects), self._grown(self._shrunk(true, objects), true)
                for name, mask in (masks | {GRID: coarse}).items():
                    by_frame.setdefault(name, []).append(truth.measure(mask))
            advance(1)
        return Followed(objects, {name: Measured.of(own) for name, own in by_frame.items()})

    def _masks(
        self, video: Video, first: UInt8[Tensor, "height width"], objects: int
    ) -> Iterator[dict[str, UInt8[Tensor, "height width"]]]:
        """The masks of each frame, by reading."""
        labels = self._shrunk(first, objects)
        followed: dict[str, Propagator] = {}
        for features in _features(self.reader, video.pixels(self.reader.size), self.layers):
            masks = dict.fromkeys([*features, STILL], first)
            for name, states in features.items():
                if name in followed:
                    masks[name] = self._grown(followed[name].step(states), first)
                else:
                    followed[name] = Propagator(self.config, self.reader.grid, states, labels)
            yield masks

    def _shrunk(
        self, mask: UInt8[Tensor, "height width"], objects: int
    ) -> Float[Tensor, "places {objects}+1"]:
        return shrink_labels(self.config, mask, self.reader.grid, objects)

    def _grown(
        self, labels: Float[Tensor, "places objects"], like: UInt8[Tensor, "height width"]
    ) -> UInt8[Tensor, "height width"]:
        size = like.shape[0], like.shape[1]
        return grow_labels(self.config, labels, self.reader.grid, size)


def _features(
    reader: FrameReader, frames: Pictures, layers: list[int]
) -> Iterator[dict[str, Float[Tensor, "places channels"]]]:
    """What each frame's places are compared by, in each reading."""
    patches = PatchGrid(reader.patch, *reader.grid)
    for number, states in enumerate(reader.states(frames, layers)):
        features = {_name(layer): x for layer, x in states.items()}
        pixels = patches.patches(torch.from_numpy(frames[None, number : number + 1]))[0]
        yield features | {PIXELS: normalise(pixels).to(reader.encoder.device)}


def _result(
    every: Mapping[str, Followed], grid: tuple[int, int], layers: list[int]
) -> TrackingResult:
    measured = [video.readings for video in every.values() if video.readings]
    scores = {
        name: Score.of([readings[name] for readings in measured])
        for name in (measured[0] if measured else ())
    }
    by_layer = [scores[_name(layer)] for layer in layers if scores]
    return TrackingResult(
        videos=len(every),
        objects=sum(video.objects for video in every.values()),
        unmeasured=len(every) - len(measured),
        grid=grid,
        layers=layers,
        scores=by_layer,
        best_layer=layers[int(np.argmax([own.jf for own in by_layer]))] if by_layer else None,
        yardsticks={name: scores[name] for name in YARDSTICKS if scores},
        paper=TRACKED,
    )


def _write_tables(every: Mapping[str, Followed], reading: str, out: Path, split: str) -> None:
    """The tables of davis2017-evaluation: evaluation_method.py."""
    measured = {name: own.readings[reading] for name, own in every.items() if own.readings}
    heads = [f"{measure}-{what}" for measure in "JF" for what in ("Mean", "Recall", "Decay")]
    score = Score.of([*measured.values()])
    rows = [
        (f"{name}_{number}", float(np.mean(j)), float(np.mean(f)))
        for name, own in measured.items()
        for number, (j, f) in enumerate(zip(own.j, own.f, strict=True), 1)
    ]
    _write_table(out / f"global_results-{split}.csv", ["J&F-Mean", *heads], [score.values])
    _write_table(out / f"per-sequence_results-{split}.csv", ["Sequence", "J-Mean", "F-Mean"], rows)


def _write_table(path: Path, heads: list[str], rows: Iterable[Iterable[str | float]]) -> None:
    with path.open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(heads)
        for row in rows:
            table.writerow([x if isinstance(x, str) else f"{x:.3f}" for x in row])
