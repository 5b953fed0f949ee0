"""Action videos in Kinetics' layout: SlowFast's CSVs (SPECS 10) and MP4 files.

`videos/000000.mp4 ...`, `train.csv`, `val.csv`, `test.csv` (`path label` a line), `classes.txt`.
"""

from collections.abc import Iterator
from pathlib import Path

from toto.media.write import write_video
from toto.world.actions import ACTIONS, sample_scene
from toto.world.layouts.driver import TEST, TRAIN, VAL, Layout, World, split_and_class, write_world
from toto.world.render import render

# Of every ten videos, spread so that a short set has all three.
_SPLITS = (TRAIN, TRAIN, TEST, TRAIN, TRAIN, VAL, TRAIN, TRAIN, TEST, TRAIN)


def split_and_action(seed: int, index: int) -> tuple[str, int]:
    """The split and the class of video `index`, whatever the count."""
    return split_and_class(seed, index, _SPLITS, len(ACTIONS))


def write_actions(
    out: Path,
    count: int,
    seed: int,
    size: int = 128,
    frames: int = 64,
    fps: int = 30,
    workers: int | None = None,
) -> None:
    """Write `count` action videos as a Kinetics folder; see `write_world`."""
    write_world(ACTIONS_LAYOUT, out, count, seed, size, frames, fps, workers)


def _video(world: World, index: int) -> str:
    return f"videos/{index:06d}.mp4"


def _write(world: World, index: int, folder: Path) -> None:
    _, label = split_and_action(world.seed, index)
    scene = sample_scene(world.seed, index, ACTIONS[label], world.frames)
    path = folder / _video(world, index)
    path.parent.mkdir()
    write_video(path, render(scene, world.size), world.fps)


def _lists(world: World, out: Path) -> Iterator[tuple[str, str]]:
    labels = [(i, *split_and_action(world.seed, i)) for i in range(world.count)]
    for name in (TRAIN, VAL, TEST):
        lines = [f"{_video(world, i)} {label}\n" for i, split, label in labels if split == name]
        yield f"{name}.csv", "".join(lines)
    yield "classes.txt", "".join(f"{name}\n" for name in ACTIONS)


ACTIONS_LAYOUT = Layout("actions", "videos", 128, 61, 30, _video, _write, _lists)
