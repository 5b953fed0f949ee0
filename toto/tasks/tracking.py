"""Tracking objects from their masks in a video's first frame (Toto, Table 10), untrained.

The labels of the first frame are carried on by likeness of an encoder's states, for each of its
layers. Beside them stand three yardsticks: the same by the pixels of each place, the first mask as
it is, and the true masks as coarse as the grid, which no layer can surpass by much.

result.json               J and F of every layer
masks/READING/VIDEO/      masks of each layer, of pixels and still, as DAVIS's evaluation reads them
videos/VIDEO.json         J and F of each video's objects
masks.png                 the best layer's, or where none is the highest's, over some frames
*_results-SPLIT.csv       the best layer's, as that evaluation writes them
"""

import csv
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from toto.api import Toto
from toto.config import from_dict, read_json, to_dict, write_json
from toto.files import write_atomically
from toto.media.masks import write_mask
from toto.models.patches import normalise
from toto.probing.baselines.base import Baseline
from toto.probing.config import Tracking
from toto.probing.features import pick_layers
from toto.probing.propagation import Propagator, coarsened, grow_labels, shrink_labels
from toto.progress import progress
from toto.tasks.answers import answered
from toto.tasks.davis import Video, read_davis
from toto.tasks.frames import FrameReader, Pictures, frame_reader
from toto.tasks.overlays import draw_overlays
from toto.tasks.paper import TRACKED
from toto.tasks.segmentation import Measured, Score, Truth
from toto.tokens.patches import PatchGrid
from toto.training.world import ALONE, World, apart

PIXELS = "pixels"
"""places that look alike"""
STILL = "still"
"""nothing that moves"""
GRID = "grid"
"""about all that the grid can show"""


@dataclass(frozen=True)
class Followed:
    """What was found of one video."""

    objects: list[int]
    """their numbers in the files"""
    readings: dict[str, Measured]
    """by layer and yardstick; empty where nothing is measured"""


@dataclass(frozen=True)
class TrackingResult:
    """J and F of every layer: means over the objects of all videos whose masks are known."""

    videos: int
    objects: int
    unmeasured: int
    """videos of which the first mask alone is known, or that have no frames between two others"""
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
            lines.append(f"  {self.unmeasured} not measured: a first mask alone, or two frames")
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
        "videos": {video.name: video.fingerprint for video in videos},
        "tracking": to_dict(replace(config, size=reader.size)) | {"layers": layers},
    }
    tracker = _Tracker(reader, layers, config, out)

    def answer() -> TrackingResult:
        apart(world, lambda: tracker.finish(_share(videos, world), shown=world.is_first))
        every = {video.name: tracker.found(video) for video in videos}
        result = _result(every, reader.grid, layers)
        if world.is_first:
            best = layers[-1] if result.best_layer is None else result.best_layer
            draw_overlays(videos, out / "masks" / _name(best), out / "masks.png")
            if result.scores:
                score = result.scores[layers.index(best)]
                _write_tables(every, _name(best), score, out, config.split)
        return result

    return answered(TrackingResult, out, question, answer, world)


def _share(videos: list[Video], world: World) -> list[Video]:
    """Those of this process: every so many, the longest first."""
    by_length = sorted(videos, key=lambda video: -len(video.frames))
    return by_length[world.rank :: world.size]


def _name(layer: int) -> str:
    return f"layer-{layer}"


@dataclass(frozen=True)
class _Tracker:
    """Tracks the objects of videos in all readings: layers and yardsticks."""

    reader: FrameReader
    layers: list[int]
    config: Tracking
    out: Path

    def finish(self, videos: list[Video], shown: bool) -> None:
        """Track those that are not done."""
        (self.out / "videos").mkdir(exist_ok=True)
        count = sum(len(video.frames) for video in videos)
        with progress("track", count, "frames", shown=shown) as advance:
            for video in videos:
                if self._record(video).exists():
                    advance(len(video.frames))
                else:
                    write_json(self._record(video), self._follow(video, advance))

    def found(self, video: Video) -> Followed:
        """What was found of a video that is done."""
        path = self._record(video)
        return from_dict(Followed, read_json(path, "what was found of a video"), str(path))

    def _record(self, video: Video) -> Path:
        """The file that says that a video is done."""
        return self.out / "videos" / f"{video.name}.json"

    def _follow(self, video: Video, advance: Callable[[int], None]) -> Followed:
        """Write masks frame by frame, and measure them where the truth is known."""
        device, objects = self.reader.encoder.device, len(video.numbers)
        by_frame: dict[str, list[tuple[Tensor, Tensor]]] = {}
        first = torch.from_numpy(video.first).to(device)
        for number, masks in enumerate(self._masks(video, first)):
            for name, mask in masks.items():
                folder = self.out / "masks" / name / video.name
                if number == 0:
                    folder.mkdir(parents=True, exist_ok=True)
                numbers = video.as_in_files(mask.cpu().numpy())
                write_mask(folder / f"{video.frames[number].stem}.png", numbers)
            # The first is given, and the last does not count either.
            if video.is_measured and 0 < number < len(video.frames) - 1:
                true = torch.from_numpy(video.mask(number)).to(device)
                truth = Truth(true, objects)
                masks |= {GRID: coarsened(true, self.reader.grid, objects)}
                for name, mask in masks.items():
                    by_frame.setdefault(name, []).append(truth.measure(mask))
            advance(1)
        return Followed(video.numbers, {name: Measured.of(own) for name, own in by_frame.items()})

    def _masks(
        self, video: Video, first: UInt8[Tensor, "height width"]
    ) -> Iterator[dict[str, UInt8[Tensor, "height width"]]]:
        """The masks of each frame, by reading."""
        config, grid, size = self.config, self.reader.grid, (first.shape[0], first.shape[1])
        labels = shrink_labels(config, first, grid, len(video.numbers))
        followed: dict[str, Propagator] = {}
        for features in _features(self.reader, video.pixels(self.reader.size), self.layers):
            masks = dict.fromkeys([*features, STILL], first)
            for name, states in features.items():
                if name in followed:
                    soft = followed[name].step(states)
                    masks[name] = grow_labels(config, soft, grid, size)
                else:
                    followed[name] = Propagator(config, grid, states, labels)
            yield masks


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
        objects=sum(len(video.objects) for video in every.values()),
        unmeasured=len(every) - len(measured),
        grid=grid,
        layers=layers,
        scores=by_layer,
        best_layer=layers[int(np.argmax([own.jf for own in by_layer]))] if by_layer else None,
        yardsticks={name: scores[name] for name in (PIXELS, STILL, GRID) if scores},
        paper=TRACKED,
    )


def _write_tables(
    every: Mapping[str, Followed], reading: str, score: Score, out: Path, split: str
) -> None:
    """The tables of davis2017-evaluation: evaluation_method.py."""
    heads = [f"{measure}-{what}" for measure in "JF" for what in ("Mean", "Recall", "Decay")]
    rows = [
        (f"{name}_{number}", float(np.mean(j)), float(np.mean(f)))
        for name, own in every.items()
        if (measured := own.readings.get(reading)) is not None
        for number, j, f in zip(own.objects, measured.j, measured.f, strict=True)
    ]
    _write_table(out / f"global_results-{split}.csv", ["J&F-Mean", *heads], [score.values])
    _write_table(out / f"per-sequence_results-{split}.csv", ["Sequence", "J-Mean", "F-Mean"], rows)


def _write_table(path: Path, heads: list[str], rows: Iterable[Iterable[str | float]]) -> None:
    text = StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(heads)
    for row in rows:
        table.writerow([x if isinstance(x, str) else f"{x:.3f}" for x in row])
    write_atomically(path, text.getvalue().encode())
