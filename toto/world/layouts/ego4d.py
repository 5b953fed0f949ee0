"""Short-term anticipation in the layout of Ego4D (SPECS 9.1).

`fho_sta_train.json`, `fho_sta_val.json`, the annotated frames as
`object_frames/<video_uid>_<frame:07d>.jpg`, and the clips that they are from, whole, as
`clips/<clip_uid>.mp4` (here a video is one clip, and `annotations/` has its rows alone).
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool
from PIL import Image

from toto.errors import UserError
from toto.media.write import write_video
from toto.world.ego import CONTEXT, INTERACTIONS, VERBS, EgoScene, sample_ego
from toto.world.layouts.driver import TRAIN, VAL, Layout, World, even_size, split_and_class
from toto.world.render import render, render_geometry
from toto.world.scenes import SHAPES

_SPLITS = (TRAIN, TRAIN, VAL, TRAIN)
_VISIBLE = 12  # pixels
_SHORTEST = 60


def box(mask: Bool[np.ndarray, "height width"]) -> list[float]:
    """The edges of what a mask holds: x1, y1, x2, y2 in pixels, a pixel being one unit wide."""
    rows, cols = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return [float(v) for v in (cols[0], rows[0], cols[-1] + 1, rows[-1] + 1)]


def _uid(index: int) -> str:
    return f"world-{index:06d}"


def _split(world: World, index: int) -> tuple[str, int]:
    return split_and_class(world.seed, index, _SPLITS, len(INTERACTIONS))


def _sample(world: World, index: int) -> EgoScene:
    _, label = _split(world, index)
    return sample_ego(world.seed, index, *INTERACTIONS[label], world.frames, world.fps)


def _width(world: World) -> int:
    return 2 * round(world.size * 2 / 3)


def _mark(world: World, index: int) -> str:
    return f"annotations/{_uid(index)}.json"


def _write(world: World, index: int, folder: Path) -> None:
    drawn, sides = _sample(world, index), (world.size, _width(world))
    _, seen = render_geometry(drawn.scene, sides, drawn.shown)
    video = render(drawn.scene, sides)
    annotations = []
    for folder_name in ("clips", "object_frames", "annotations"):
        (folder / folder_name).mkdir()
    for frame, target in zip(drawn.shown.tolist(), seen == 1, strict=True):
        if target.sum() < _VISIBLE:
            continue  # behind another solid, or the hand
        name = f"{_uid(index)}_{frame:07d}"
        image = Image.fromarray(video[frame].transpose(1, 2, 0))
        image.save(folder / "object_frames" / f"{name}.jpg", quality=95)
        annotations.append(_annotation(world, index, frame, drawn, box(target)))
    write_video(folder / "clips" / f"{_uid(index)}.mp4", video, world.fps)
    (folder / _mark(world, index)).write_text(json.dumps(annotations))


def _annotation(
    world: World, index: int, frame: int, drawn: EgoScene, edges: list[float]
) -> dict[str, Any]:
    thing = {
        "box": edges,
        "noun_category_id": SHAPES.index(drawn.noun),
        "verb_category_id": VERBS.index(drawn.verb),
        "time_to_contact": round((drawn.contact - frame) / world.fps, 6),
    }
    return {
        "uid": f"{_uid(index)}_{frame:07d}",
        "video_uid": _uid(index),
        "frame": frame,
        "clip_uid": _uid(index),
        "clip_frame": frame,
        "objects": [thing],
    }


def _lists(world: World, out: Path) -> Iterator[tuple[str, str]]:
    for split in (TRAIN, VAL):
        clips = [i for i in range(world.count) if _split(world, i)[0] == split]
        sizes = {"frame_width": _width(world), "frame_height": world.size, "fps": world.fps}
        annotations: list[Any] = []
        for index in clips:
            annotations += json.loads((out / _mark(world, index)).read_text())
        table = {
            "version": "2.0",
            "date": "",
            "description": f"Short-term anticipation in the embedded world ({split})",
            "info": {"video_metadata": {_uid(i): sizes for i in clips}},
            "noun_categories": [{"id": i, "name": name} for i, name in enumerate(SHAPES)],
            "verb_categories": [{"id": i, "name": name} for i, name in enumerate(VERBS)],
            "annotations": annotations,
        }
        yield f"fho_sta_{split}.json", json.dumps(table)


def _check(world: World) -> None:
    even_size(world)
    if world.frames < _SHORTEST:
        raise UserError(
            f"frames {world.frames}: at least {_SHORTEST}, so that {CONTEXT} go before a contact"
        )


EGO4D_LAYOUT = Layout("ego4d", "clips", 240, 120, 30, _mark, _write, _lists, check=_check)
