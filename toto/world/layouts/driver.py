"""The one loop that writes worlds: item after item, in any order, by any number of workers.

An item's files are made in a hidden folder and then moved to their names, its mark last: an item
whose mark is there is whole. The lists of all items come at the end, and `world.json` last of all.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from toto.errors import UserError, at_least
from toto.files import only_writer, write_atomically
from toto.processes import end_with_parent
from toto.progress import progress

TRAIN, VAL, TEST = "train", "val", "test"

_DONE, _BEGUN, _PARTIAL = "world.json", "world.partial.json", ".partial"


@dataclass(frozen=True)
class World:
    """What a folder of the world was made from: its `world.json`."""

    layout: str
    seed: int
    count: int
    size: int
    frames: int
    fps: int
    options: Mapping[str, Any] = field(default_factory=dict)
    version: int = 1

    @property
    def record(self) -> dict[str, Any]:
        """The fields of `world.json`; a layout's own options are among them."""
        names = ("layout", "seed", "count", "size", "frames", "fps")
        own = {name: getattr(self, name) for name in names}
        return own | dict(self.options) | {"version": self.version}


def _none(world: World, out: Path) -> Iterator[tuple[str, str]]:
    """No lists."""
    yield from ()


def _anything(world: World) -> None:
    """Refuse no settings."""


@dataclass(frozen=True)
class Layout:
    """A data set's layout: what the files of each item hold, and the lists of all items.

    `size`, `frames` and `fps` are what a user gets who gives none; where one of them is 1, there
    is no choice. `write` puts item i's files under a folder, at their final paths below it; `mark`
    is the path of the one that appears last. `lists` gives paths and texts from the finished
    items. `check` raises a UserError for settings that the layout cannot have.
    """

    name: str
    unit: str
    size: int
    frames: int
    fps: int
    mark: Callable[[World, int], str]
    write: Callable[[World, int, Path], None]
    lists: Callable[[World, Path], Iterator[tuple[str, str]]] = _none
    options: Mapping[str, Any] = field(default_factory=dict)
    check: Callable[[World], None] = _anything


def write_world(
    layout: Layout,
    out: Path,
    count: int,
    seed: int,
    size: int | None = None,
    frames: int | None = None,
    fps: int | None = None,
    workers: int | None = None,
    **options: Any,
) -> None:
    """Write `count` items of the embedded world to a folder.

    `size` is the height of the frames in pixels, `options` are the layout's own. Run again after a
    stop it continues, and with a larger count it grows; the items are the same as without the
    stop. `workers` defaults to the cores.

    Raises:
        UserError: numbers out of range, an option that the layout lacks, or a folder that was made
            with other settings, that holds other files, or that another process is writing.
    """
    world = _world(layout, count, seed, {"size": size, "frames": frames, "fps": fps}, options)
    _check_folder(out, world)
    with only_writer(out):
        _write_text(out / _BEGUN, json.dumps(world.record, indent=2) + "\n")
        shutil.rmtree(out / _PARTIAL, ignore_errors=True)  # what a killed run was writing
        todo = [i for i in range(count) if not (out / layout.mark(world, i)).exists()]
        _write_items(layout, world, out, todo, workers or os.cpu_count() or 1)
        for name, text in layout.lists(world, out):
            _write_text(out / name, text)
        shutil.rmtree(out / _PARTIAL, ignore_errors=True)
        (out / _BEGUN).replace(out / _DONE)


def split_and_class(
    seed: int, index: int, splits: tuple[str, ...], classes: int
) -> tuple[str, int]:
    """The split and the class of item `index`, whatever the count; `splits` repeat.

    Every split's items, in order, go through all classes once per block, in a shuffled order.
    """
    block, place = divmod(index, len(splits))
    split = splits[place]
    rank = block * splits.count(split) + splits[:place].count(split)
    turn, place = divmod(rank, classes)
    # The last word keeps these draws apart from the scenes'.
    words = np.random.SeedSequence([seed, turn, (TRAIN, VAL, TEST).index(split), 1])
    order = np.random.Generator(np.random.PCG64(words)).permutation(classes)
    return split, int(order[place])


def even_size(world: World) -> None:
    """Refuse an odd size: videos keep colours for squares of two by two pixels."""
    if world.size % 2:
        raise UserError(f"size {world.size}: an even number")


def _world(
    layout: Layout,
    count: int,
    seed: int,
    numbers: Mapping[str, int | None],
    options: Mapping[str, Any],
) -> World:
    for name in options:
        if name not in layout.options:
            raise UserError(f"layout {layout.name!r} has no {name.replace('_', '-')}")
    chosen = {}
    for name, value in numbers.items():
        usual = getattr(layout, name)
        if usual == 1 and value not in (None, 1):
            raise UserError(f"{name} {value}: layout {layout.name!r} has no {name}")
        chosen[name] = usual if value is None else value
    world = World(layout.name, seed, count, **chosen, options={**layout.options, **options})
    at_least(0, seed=seed)
    at_least(1, count=count, fps=world.fps)
    at_least(16, size=world.size)
    at_least(min(4, layout.frames), frames=world.frames)
    layout.check(world)
    return world


def _check_folder(out: Path, world: World) -> None:
    """Refuse a folder that was made with other settings, or by something else."""
    records = [out / name for name in (_BEGUN, _DONE) if (out / name).exists()]
    for record in records:
        _compare(out, json.loads(record.read_text()), world.record)
    if not records and out.exists() and any(p.name[0] != "." for p in out.iterdir()):
        raise UserError(f"{str(out)!r} holds other files: give a new or an empty folder")


def _compare(out: Path, made: dict[str, Any], wanted: dict[str, Any]) -> None:
    for name, value in wanted.items():
        if name == "count" and value > made["count"]:
            continue  # growth: earlier items stay what they are
        if value != made.get(name):
            raise UserError(
                f"{str(out)!r} was made with {name} {made.get(name)}, not {value}: "
                "give the same settings or another folder"
            )


def _write_items(layout: Layout, world: World, out: Path, todo: list[int], workers: int) -> None:
    done = world.count - len(todo)
    with progress(f"world: {layout.name}", world.count, layout.unit, done=done) as advance:
        write = partial(_write_item, layout, out, world)
        context = get_context("spawn")
        with ProcessPoolExecutor(workers, context, initializer=end_with_parent) as pool:
            for _ in pool.map(write, todo):
                advance()


def _write_item(layout: Layout, out: Path, world: World, index: int) -> None:
    # A worker whose run was killed may live on for a moment: none shares a folder with it.
    folder = out / _PARTIAL / f"{index}-{os.getpid()}"
    folder.mkdir(parents=True)
    layout.write(world, index, folder)
    mark = folder / layout.mark(world, index)
    for path in sorted(folder.rglob("*"), key=lambda path: (path == mark, path)):
        if path.is_file():
            target = out / path.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            path.replace(target)
    shutil.rmtree(folder)


def _write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, text.encode())
