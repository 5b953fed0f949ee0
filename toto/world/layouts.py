"""The world on disk, in the layouts of the real data sets."""

import json
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np

from toto.errors import UserError
from toto.media.write import write_video
from toto.progress import progress
from toto.world.actions import ACTIONS, sample_scene
from toto.world.render import render

# Of every ten videos, spread so that a short set has all three.
_TRAIN, _VAL, _TEST = "train", "val", "test"
_SPLITS = (_TRAIN, _TRAIN, _TEST, _TRAIN, _TRAIN, _VAL, _TRAIN, _TRAIN, _TEST, _TRAIN)
_DONE, _BEGUN = "world.json", "world.partial.json"


@dataclass(frozen=True)
class World:
    """What a folder of the world was made from: its `world.json`."""

    layout: str
    seed: int
    count: int
    size: int
    frames: int
    fps: int
    version: int = 1


def split_and_action(seed: int, index: int) -> tuple[str, int]:
    """The split and the class of video `index`, whatever the count.

    Every split's videos, in order, go through all classes once per block, in a shuffled order.
    """
    block, place = divmod(index, len(_SPLITS))
    split = _SPLITS[place]
    rank = block * _SPLITS.count(split) + _SPLITS[:place].count(split)
    turn, place = divmod(rank, len(ACTIONS))
    # The last word keeps these draws apart from the scenes'.
    words = np.random.SeedSequence([seed, turn, (_TRAIN, _VAL, _TEST).index(split), 1])
    order = np.random.Generator(np.random.PCG64(words)).permutation(len(ACTIONS))
    return split, int(order[place])


def write_actions(
    out: Path,
    count: int,
    seed: int,
    size: int = 128,
    frames: int = 64,
    fps: int = 30,
    workers: int | None = None,
) -> None:
    """Write `count` action videos as a Kinetics folder: SlowFast's CSVs (SPECS 10) and videos.

    `videos/000000.mp4 ...`, `train.csv`, `val.csv`, `test.csv` (`path label` a line),
    `classes.txt`, and `world.json` last. Run again after a stop it continues, and with a larger
    count it grows; the videos are the same as without the stop. `workers` defaults to the cores.
    Raises UserError for numbers out of range, and for a folder made with other settings.
    """
    world = World("actions", seed, count, size, frames, fps)
    _check(world)
    _begin(out, world)
    todo = [i for i in range(count) if not (out / _video(i)).exists()]
    with progress("world: actions", count, "videos", done=count - len(todo)) as advance:
        write = partial(_write_action, out, world)
        cores = workers or os.cpu_count() or 1
        context = get_context("spawn")
        with ProcessPoolExecutor(cores, context, initializer=_end_with_parent) as pool:
            for _ in pool.map(write, todo):
                advance()
    labels = [(i, *split_and_action(seed, i)) for i in range(count)]
    for name in (_TRAIN, _VAL, _TEST):
        lines = [f"{_video(i)} {label}\n" for i, split, label in labels if split == name]
        _write_text(out / f"{name}.csv", "".join(lines))
    _write_text(out / "classes.txt", "".join(f"{name}\n" for name in ACTIONS))
    (out / _BEGUN).replace(out / _DONE)


LAYOUTS: dict[str, Callable[..., None]] = {"actions": write_actions}


def _video(index: int) -> str:
    return f"videos/{index:06d}.mp4"


def _write_action(out: Path, world: World, index: int) -> None:
    _, label = split_and_action(world.seed, index)
    scene = sample_scene(world.seed, index, ACTIONS[label], world.frames)
    write_video(out / _video(index), render(scene, world.size), world.fps)


def _check(world: World) -> None:
    least = {"seed": 0, "count": 1, "size": 16, "frames": 4, "fps": 1}
    for name, low in least.items():
        if (value := getattr(world, name)) < low:
            raise UserError(f"{name} {value}: at least {low}")


def _begin(out: Path, world: World) -> None:
    """Make the folder, or refuse one that was made with other settings."""
    records = [out / name for name in (_BEGUN, _DONE) if (out / name).exists()]
    for record in records:
        _compare(out, json.loads(record.read_text()), asdict(world))
    if not records and out.exists() and any(p.name[0] != "." for p in out.iterdir()):
        raise UserError(f"{str(out)!r} holds other files: give a new or an empty folder")
    out.mkdir(parents=True, exist_ok=True)
    _write_text(out / _BEGUN, json.dumps(asdict(world), indent=2) + "\n")
    (out / "videos").mkdir(exist_ok=True)
    for leftover in (out / "videos").glob(".*.tmp"):
        leftover.unlink()  # what a killed run was writing


def _compare(out: Path, made: dict[str, Any], wanted: dict[str, Any]) -> None:
    for name, value in wanted.items():
        if name == "count" and value > made["count"]:
            continue  # growth: earlier videos stay what they are
        if value != made.get(name):
            raise UserError(
                f"{str(out)!r} was made with {name} {made.get(name)}, not {value}: "
                "give the same settings or another folder"
            )


def _write_text(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text)
    temporary.replace(path)


def _end_with_parent() -> None:
    """Let a worker end when its parent is killed: it would wait for work forever."""
    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    Thread(target=watch, daemon=True).start()
