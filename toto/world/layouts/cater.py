"""Videos of the snitch in CATER's layout (SPECS 8.1).

`videos/CATER_new_000000.avi ...` (4:3), `scenes/CATER_new_000000.json ...`, and for each task
`lists/<task>/train.txt` and `val.txt`: a file's name and its class, or its classes with commas.
`lists/<task>/classes.txt` names the classes, in order.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
from jaxtyping import Float64, UInt8

from toto.errors import unknown
from toto.world.camera import View
from toto.world.cater import AWAY, POLICIES, RIGHT, CaterScene, sample_cater
from toto.world.labels import (
    ATOMIC,
    actions_order,
    actions_present,
    compound_name,
    compounds,
    localize,
)
from toto.world.layouts.driver import TRAIN, VAL, Layout, World, even_size
from toto.world.render import Sides, render

_SPLITS = (TRAIN, TRAIN, VAL, TRAIN, TRAIN, VAL, TRAIN, TRAIN, VAL, TRAIN)
_TASKS = ("localize", "actions_present", "actions_order_uniq")
_BESIDE = 0.2  # how much farther right one solid is than another that it is right of, as in CLEVR
_QUANTIZER = 2  # of MPEG-4's 1 to 31: near-lossless to the eye


def scene_record(world: World, index: int, drawn: CaterScene, sides: Sides) -> dict[str, Any]:
    """The scene's JSON: numbers that a file of CATER's own has, from our scene."""
    scene, names = drawn.scene, drawn.instances
    view = scene.camera.view(np.arange(1))
    things = [
        {
            "shape": solid.shape,
            "size": drawn.sizes[i],
            "sized": drawn.radii[i],
            "material": solid.material,
            "3d_coords": _rounded(solid.trajectory.positions[0]),
            "rotation": float(drawn.yaws[i]),
            "pixel_coords": _pixel(view, solid.trajectory.positions[:1], sides),
            "color": solid.colour,
            "instance": names[i],
            "locations": {
                str(frame): _rounded(place)
                for frame, place in enumerate(solid.trajectory.positions)
            },
        }
        for i, solid in enumerate(scene.solids)
    ]
    first = np.array([solid.trajectory.positions[0, :2] for solid in scene.solids])
    return {
        "split": _split(index),
        "image_index": index,
        "image_filename": f"{_name(index)}.avi",
        "objects": things,
        "relationships": _relationships(first),
        "directions": {name: [*way, 0.0] for name, way in _directions().items()},
        "movements": {
            name: [
                [m.action, None if m.other is None else names[m.other], m.start, m.end]
                for m in moves
            ]
            for name, moves in zip(names, drawn.movements, strict=True)
        },
    }


def _directions() -> dict[str, tuple[float, float]]:
    right, behind = RIGHT, AWAY
    left, front = (-right[0], -right[1]), (-behind[0], -behind[1])
    return {"right": right, "behind": behind, "left": left, "front": front}


def _relationships(places: Float64[np.ndarray, "solids 2"]) -> dict[str, list[list[int]]]:
    """For each direction and solid, which others lie on that side of it at first."""
    x, y = np.moveaxis(places[None] - places[:, None], -1, 0)
    return {
        name: [np.flatnonzero(row > _BESIDE).tolist() for row in x * across + y * along]
        for name, (across, along) in _directions().items()
    }


def _pixel(view: View, place: Float64[np.ndarray, "1 3"], sides: Sides) -> list[float]:
    x, y, depth = view.project(place[None])[0, 0]
    return _rounded(np.array([(x + 1) / 2 * sides[1], (1 - y) / 2 * sides[0], depth]))


def _rounded(values: Float64[np.ndarray, " n"]) -> list[float]:
    return [round(value, 6) + 0.0 for value in values.tolist()]  # no minus zero


def _name(index: int) -> str:
    return f"CATER_new_{index:06d}"


def _split(index: int) -> str:
    return _SPLITS[index % len(_SPLITS)]


def _mark(world: World, index: int) -> str:
    return f"scenes/{_name(index)}.json"


def _write(world: World, index: int, folder: Path) -> None:
    drawn = sample_cater(world.seed, index, world.frames, **world.options)
    sides = (world.size, 2 * round(world.size * 2 / 3))
    video, record = folder / "videos" / f"{_name(index)}.avi", folder / _mark(world, index)
    video.parent.mkdir()
    record.parent.mkdir()
    write_avi(video, render(drawn.scene, sides), world.fps)
    record.write_text(json.dumps(scene_record(world, index, drawn, sides)))


def write_avi(path: Path, frames: UInt8[np.ndarray, "frames 3 height width"], fps: int) -> None:
    """Write frames of even sides as MPEG-4 in an AVI, CATER's own kind of file.

    The same frames give the same bytes with the same FFmpeg.
    """
    with av.open(str(path), "w", format="avi", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("mpeg4", rate=fps)
        context = stream.codec_context
        context.height, context.width = frames.shape[2:]
        context.pix_fmt = "yuv420p"
        context.thread_count = 1
        context.qmin = context.qmax = _QUANTIZER
        context.options = {"flags": "+bitexact"}
        for picture in frames.transpose(0, 2, 3, 1):
            image = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            container.mux(stream.encode(image))
        container.mux(stream.encode())


def _lists(world: World, out: Path) -> Iterator[tuple[str, str]]:
    lines: dict[tuple[str, str], list[str]] = {(t, s): [] for t in _TASKS for s in (TRAIN, VAL)}
    for index in range(world.count):
        record = json.loads((out / _mark(world, index)).read_text())
        labels = ([localize(record)], actions_present(record), actions_order(record))
        for task, classes in zip(_TASKS, labels, strict=True):
            if classes:  # CATER's lists leave out a video in which nothing happens
                text = ",".join(map(str, classes))
                lines[task, _split(index)].append(f"{_name(index)}.avi {text}\n")
    for (task, split), rows in lines.items():
        yield f"lists/{task}/{split}.txt", "".join(rows)
    names = (
        [f"row {i // 6}, column {i % 6}" for i in range(36)],
        ["".join(kind) for kind in ATOMIC],
        [compound_name(compound) for compound in compounds()],
    )
    for task, own in zip(_TASKS, names, strict=True):
        yield f"lists/{task}/classes.txt", "".join(f"{name}\n" for name in own)


def _check(world: World) -> None:
    even_size(world)
    if world.options["policy"] not in POLICIES:
        raise unknown("policy", world.options["policy"], POLICIES)


CATER_LAYOUT = Layout(
    "cater",
    "videos",
    240,
    301,
    24,
    _mark,
    _write,
    _lists,
    options={"policy": "all_actions", "camera_motion": False},
    check=_check,
)
