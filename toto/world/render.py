"""A small software renderer: analytic ray casting inside each solid's window, and a depth buffer.

Before a camera that stands still, solids that do not move are drawn once, and those that rest for
a while once for that while; the others are drawn over them, many frames at a time.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int, UInt8

from toto.world.camera import CameraPath, Frames, View
from toto.world.scenes import Scene, Solid
from toto.world.shading import floor_light, key_drift, shade, shadow, shadow_margin, to_srgb
from toto.world.shapes import Field, Hit, cast, corners

Sides = tuple[int, int]

_SAMPLES = 2  # per pixel and axis
_CHUNK = 1 << 19  # samples that one pass holds: little enough for a core's cache,
_LEAST = 3  # but some frames, so that what rests is drawn less often
_NEAR = 0.05  # depth at which things are cut: a point behind the camera has no place in the image


class _Window(NamedTuple):
    """One rectangle of samples per frame, of the same size in all of them."""

    rows: np.ndarray
    cols: np.ndarray
    height: int
    width: int

    def inside(self, frame: int) -> tuple[slice, slice]:
        row, col = self.rows[frame], self.cols[frame]
        return slice(row, row + self.height), slice(col, col + self.width)

    def points(
        self, sides: Sides
    ) -> tuple[Float32[np.ndarray, "frames 1 width"], Float32[np.ndarray, "frames height 1"]]:
        """Image x and y of the samples, on a grid of `sides` rows and columns."""
        cols = self.cols[:, None] + np.arange(self.width)
        rows = self.rows[:, None] + np.arange(self.height)
        return _axis(sides[1])[cols][:, None, :], -_axis(sides[0])[rows][:, :, None]


class _Canvas(NamedTuple):
    """Linear light and depth of some frames, sample by sample, and where there is only floor."""

    light: Float32[np.ndarray, "frames 3 height width"]
    depth: Float32[np.ndarray, "frames height width"]
    bare: Bool[np.ndarray, "#frames height width"]

    def copies(self, count: int, floor: Float32[np.ndarray, "1 height width"]) -> "_Canvas":
        """The only frame of this canvas many times, to draw on: what was drawn is not bare."""
        return _Canvas(
            np.repeat(self.light, count, 0),
            np.repeat(self.depth, count, 0),
            np.broadcast_to(self.depth == floor, (count, *self.depth.shape[1:])),
        )


def render(scene: Scene, size: int | Sides) -> UInt8[np.ndarray, "frames 3 height width"]:
    """Draw all frames of a scene with 2 x 2 samples a pixel.

    `size` is the side of square frames in pixels, or their height and width.
    """
    height, width = _sides(size)
    sides = (_SAMPLES * height, _SAMPLES * width)
    out = np.empty((scene.frames, 3, height, width), np.uint8)
    draw = _draw_moving if isinstance(scene.camera, CameraPath) else _draw_still
    draw(scene, sides, out)
    return out


def _draw_moving(scene: Scene, sides: Sides, out: UInt8[np.ndarray, "frames 3 h w"]) -> None:
    for frames in _chunks(scene.frames, sides):
        canvas = _empty(scene, frames, sides)
        _paint(scene, scene.solids, frames, canvas)
        out[frames] = _develop(canvas.light)


def _draw_still(scene: Scene, sides: Sides, out: UInt8[np.ndarray, "frames 3 h w"]) -> None:
    still = _empty(scene, np.arange(1), sides)
    floor = still.depth.copy()
    _paint(scene, [s for s in scene.solids if not _moves(s)], np.arange(1), still)
    movers = [solid for solid in scene.solids if _moves(solid)]
    if not movers:
        out[:] = _develop(still.light)
        return
    for frames in _chunks(scene.frames, sides):
        resting = still.copies(1, floor)
        first, rest = frames[:1], [s for s in movers if not _moves(s, frames)]
        _paint(scene, rest, first, resting)
        moving = [s for s in movers if _moves(s, frames)]
        canvas = resting.copies(len(frames) if moving else 1, floor)
        _paint(scene, moving, frames, canvas)
        out[frames] = _develop(canvas.light)


def render_geometry(
    scene: Scene, size: int | Sides, frames: Int[np.ndarray, " frames"] | None = None
) -> tuple[Float32[np.ndarray, "frames height width"], UInt8[np.ndarray, "frames height width"]]:
    """Depth along the optical axis, and what is seen (0 the floor, i + 1 solid i).

    Both hold for the ray through the middle of each pixel, in all frames or in those given.
    """
    sides = _sides(size)
    wanted = np.arange(scene.frames) if frames is None else frames
    depth = np.empty((len(wanted), *sides), np.float32)
    seen = np.zeros(depth.shape, np.uint8)
    for chunk in _chunks(len(wanted), sides):
        *_, depth[chunk] = _floor(scene.camera.view(wanted[chunk]), sides)
        for i, solid in enumerate(scene.solids):
            shown = chunk[_shown(solid, wanted[chunk])]
            if not len(shown):
                continue
            window, hit = _meet(scene.camera.view(wanted[shown]), solid, wanted[shown], sides)
            for place, frame in enumerate(shown):
                here = (frame, *window.inside(place))
                nearer = hit.depth[place] < depth[here]
                np.copyto(depth[here], hit.depth[place], where=nearer)
                np.copyto(seen[here], np.uint8(i + 1), where=nearer)
    return depth, seen


def _moves(solid: Solid, frames: Frames = np.s_[:]) -> bool:
    """Whether a solid's looks change in these frames."""
    path, covered = solid.trajectory, solid.covered
    parts = [path.positions, path.rotations] + ([] if covered is None else [covered])
    return any(bool((part[frames] != part[frames][0]).any()) for part in parts)


def _shown(solid: Solid, frames: Int[np.ndarray, " frames"]) -> Int[np.ndarray, " shown"]:
    """The places in `frames` where the solid is not inside another."""
    if solid.covered is None:
        return np.arange(len(frames))
    return np.flatnonzero(~solid.covered[frames])


def _empty(scene: Scene, frames: Int[np.ndarray, " frames"], sides: Sides) -> _Canvas:
    x, y, depth = _floor(scene.camera.view(frames), sides)
    light = floor_light(scene.floor, scene.camera.home, x, y)
    return _Canvas(light, depth, np.ones((1, *sides), bool))


def _paint(
    scene: Scene,
    solids: tuple[Solid, ...] | list[Solid],
    frames: Int[np.ndarray, " frames"],
    canvas: _Canvas,
) -> None:
    """Darken the bare floor under the solids' shadows, then draw what is nearer than before."""
    drawn = [(s, places) for s in solids if len(places := _shown(s, frames))]
    for solid, places in drawn:
        _darken(scene.camera.view(frames[places]), solid, frames[places], canvas, places)
    for solid, places in drawn:
        view = scene.camera.view(frames[places])
        window, hit = _meet(view, solid, frames[places], canvas.depth.shape[1:])
        light = shade(view, solid, frames[places], hit.normal)
        for i, (place, depth) in enumerate(zip(places, hit.depth, strict=True)):
            here = window.inside(i)
            nearer = depth < canvas.depth[place][here]
            np.copyto(canvas.depth[place][here], depth, where=nearer)
            np.copyto(canvas.light[(place, slice(None), *here)], light[i], where=nearer)


def _darken(
    view: View,
    solid: Solid,
    frames: Int[np.ndarray, " shown"],
    canvas: _Canvas,
    places: Int[np.ndarray, " shown"],
) -> None:
    points = _corners(solid, frames)
    # The hull of the corners' shadows under the key light and straight below holds both shadows.
    below = points * [1, 1, 0]
    cast = below.copy()
    cast[..., :2] += points[..., 2:] * key_drift(view.home)
    margin = shadow_margin(solid, frames)[:, None, None]
    hull = np.concatenate([below, cast], 1)
    hull = np.concatenate([hull + margin * [i, j, 0] for i in (-1, 1) for j in (-1, 1)], 1)
    sides = canvas.depth.shape[1:]
    window, _ = _window(view, hull, sides)
    left = shadow(view, solid, frames, *window.points(sides))
    for i, (place, share) in enumerate(zip(places, left, strict=True)):
        here = window.inside(i)
        bare = canvas.bare[place % len(canvas.bare)][here]
        canvas.light[(place, slice(None), *here)] *= np.where(bare, share, 1)


def _meet(
    view: View, solid: Solid, frames: Int[np.ndarray, " shown"], sides: Sides
) -> tuple[_Window, Hit]:
    """Cast the rays of a solid's window; the hit is in the solid's own axes."""
    window, behind = _window(view, _corners(solid, frames), sides)
    x, y = window.points(sides)
    rotations = solid.trajectory.rotations[frames]
    origin = np.einsum("fji,fj->if", rotations, view.eyes - solid.trajectory.positions[frames])
    rays = np.einsum("fji,fjk->ikf", rotations, np.broadcast_to(view.rays, rotations.shape))
    rays = rays.astype(np.float32)[..., None, None]
    direction = tuple((across * x + ahead) + up * y for across, up, ahead in rays)
    hit = cast(solid.shape, solid.extents, origin.astype(np.float32)[..., None, None], direction)
    if behind:
        np.copyto(hit.depth, np.inf, where=hit.depth < _NEAR)
    return window, hit


def _corners(
    solid: Solid, frames: Int[np.ndarray, " frames"]
) -> Float64[np.ndarray, "frames points 3"]:
    own = corners(solid.shape, solid.extents)
    rotated = np.einsum("fij,pj->fpi", solid.trajectory.rotations[frames], own)
    return rotated + solid.trajectory.positions[frames, None]


def _window(
    view: View, points: Float64[np.ndarray, "frames points 3"], sides: Sides
) -> tuple[_Window, bool]:
    """The samples around world points in each frame, cut to the image; and is any point behind?

    Between a point before the camera and one behind it the image has no end: it goes on to the
    side where either is.
    """
    image = view.project(points)
    behind = np.less(image[..., 2], _NEAR)
    flat = image[..., :2]
    if behind.any():
        beyond = 2 * np.sign(flat * image[..., 2:])
        ends = np.where(behind.any(1)[:, None, None], beyond, flat)
        flat = np.concatenate([np.where(behind[..., None], beyond, flat), ends], 1)
    flat = flat * [1, -1]
    count = np.array(sides[::-1])
    low = np.floor((flat.min(1) + 1) / 2 * count).astype(int).clip(0, count - 1)
    high = np.ceil((flat.max(1) + 1) / 2 * count).astype(int).clip(1, count)
    width, height = (high - low).max(0).clip(1)
    cols, rows = np.minimum(low, count - [width, height]).T
    return _Window(rows, cols, int(height), int(width)), bool(behind.any())


def _sides(size: int | Sides) -> Sides:
    return (size, size) if isinstance(size, int) else size


def _floor(view: View, sides: Sides) -> tuple[Field, Field, Field]:
    """World x, y and depth of the floor behind every sample."""
    x, y = _axis(sides[1]).astype(np.float64), -_axis(sides[0])[:, None].astype(np.float64)
    across, up, ahead = (view.rays[:, :, i, None, None] for i in range(3))
    slopes = [(across[:, i] * x + ahead[:, i]) + up[:, i] * y for i in range(3)]
    depth = -view.eyes[:, 2, None, None] / slopes[2]
    spots = [view.eyes[:, i, None, None] + depth * slopes[i] for i in (0, 1)]
    return spots[0].astype(np.float32), spots[1].astype(np.float32), depth.astype(np.float32)


def _develop(light: Float32[np.ndarray, "frames 3 height width"]) -> UInt8[np.ndarray, "f 3 h w"]:
    """Average the samples of each pixel, and encode."""
    rows = light[:, :, 0::2] + light[:, :, 1::2]
    return to_srgb((rows[..., 0::2] + rows[..., 1::2]) / 4)


def _chunks(frames: int, sides: Sides) -> Iterator[Int[np.ndarray, " frames"]]:
    step = max(_LEAST, _CHUNK // (sides[0] * sides[1]))
    for start in range(0, frames, step):
        yield np.arange(start, min(start + step, frames))


def _axis(side: int) -> Float32[np.ndarray, " side"]:
    return ((2 * np.arange(side) + 1) / side - 1).astype(np.float32)
