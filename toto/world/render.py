"""A small software renderer: analytic ray casting inside each solid's window, and a depth buffer.

Solids that stand still are drawn once; the others are drawn over them, many frames at a time.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Float64, UInt8

from toto.world.camera import Camera
from toto.world.scenes import Scene, Solid
from toto.world.shading import floor_light, key_drift, shade, shadow, shadow_margin, to_srgb
from toto.world.shapes import Hit, cast, corners

_SAMPLES = 2  # per pixel and axis
_CHUNK = 1 << 19  # samples that one pass holds: little enough for a core's cache


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
        self, side: int
    ) -> tuple[Float32[np.ndarray, "frames 1 width"], Float32[np.ndarray, "frames height 1"]]:
        """Image x and y of the samples, on a grid of side x side."""
        axis = _axis(side)
        cols = self.cols[:, None] + np.arange(self.width)
        rows = self.rows[:, None] + np.arange(self.height)
        return axis[cols][:, None, :], -axis[rows][:, :, None]


class _Canvas(NamedTuple):
    """Linear light and depth of some frames, sample by sample."""

    light: Float32[np.ndarray, "frames 3 side side"]
    depth: Float32[np.ndarray, "frames side side"]


def render(scene: Scene, size: int) -> UInt8[np.ndarray, "frames 3 {size} {size}"]:
    """Draw all frames of a scene, `size` pixels square, with 2 x 2 samples a pixel."""
    camera, side = scene.camera, _SAMPLES * size
    points, floor_depth = _floor(camera, side)
    light = floor_light(scene.floor, camera, points)
    still = _Canvas(light[None], floor_depth[None].copy())
    everywhere = np.ones((side, side), bool)
    _paint(camera, [s for s in scene.solids if not s.trajectory.moves], slice(1), still, everywhere)
    movers = [solid for solid in scene.solids if solid.trajectory.moves]
    if not movers:
        return np.repeat(_develop(still.light), scene.frames, axis=0)
    bare = still.depth[0] == floor_depth
    out = np.empty((scene.frames, 3, size, size), np.uint8)
    for frames in _chunks(scene.frames, side):
        count = frames.stop - frames.start
        canvas = _Canvas(np.repeat(still.light, count, 0), np.repeat(still.depth, count, 0))
        _paint(camera, movers, frames, canvas, bare)
        out[frames] = _develop(canvas.light)
    return out


def render_geometry(
    scene: Scene, size: int
) -> tuple[Float32[np.ndarray, "frames {size} {size}"], UInt8[np.ndarray, "frames {size} {size}"]]:
    """Depth along the optical axis, and what is seen (0 the floor, i + 1 solid i).

    Both hold for the ray through the middle of each pixel.
    """
    _, floor_depth = _floor(scene.camera, size)
    depth = np.repeat(floor_depth[None], scene.frames, 0)
    seen = np.zeros(depth.shape, np.uint8)
    for frames in _chunks(scene.frames, size):
        for i, solid in enumerate(scene.solids):
            window, hit = _meet(scene.camera, solid, frames, size)
            for frame in range(len(hit.depth)):
                here = (frames.start + frame, *window.inside(frame))
                nearer = hit.depth[frame] < depth[here]
                np.copyto(depth[here], hit.depth[frame], where=nearer)
                np.copyto(seen[here], np.uint8(i + 1), where=nearer)
    return depth, seen


def _paint(
    camera: Camera,
    solids: list[Solid],
    frames: slice,
    canvas: _Canvas,
    bare: Bool[np.ndarray, "side side"],
) -> None:
    """Darken the `bare` floor under the solids' shadows, then draw what is nearer than before."""
    for solid in solids:
        _darken(camera, solid, frames, canvas, bare)
    for solid in solids:
        window, hit = _meet(camera, solid, frames, len(bare))
        light = shade(camera, solid, frames, hit.normal)
        for frame, depth in enumerate(hit.depth):
            here = window.inside(frame)
            nearer = depth < canvas.depth[frame][here]
            np.copyto(canvas.depth[frame][here], depth, where=nearer)
            np.copyto(canvas.light[(frame, slice(None), *here)], light[frame], where=nearer)


def _darken(
    camera: Camera,
    solid: Solid,
    frames: slice,
    canvas: _Canvas,
    bare: Bool[np.ndarray, "side side"],
) -> None:
    points = _corners(solid, frames)
    # The hull of the corners' shadows under the key light and straight below holds both shadows.
    below = points * [1, 1, 0]
    cast = below.copy()
    cast[..., :2] += points[..., 2:] * key_drift(camera)
    margin = shadow_margin(solid, frames)[:, None, None]
    hull = np.concatenate([below, cast], 1)
    hull = np.concatenate([hull + margin * [i, j, 0] for i in (-1, 1) for j in (-1, 1)], 1)
    window = _window(camera, hull, len(bare))
    left = shadow(camera, solid, frames, *window.points(len(bare)))
    for frame, share in enumerate(left):
        here = window.inside(frame)
        canvas.light[(frame, slice(None), *here)] *= np.where(bare[here], share, 1)


def _meet(camera: Camera, solid: Solid, frames: slice, side: int) -> tuple[_Window, Hit]:
    """Cast the rays of a solid's window; the hit is in the solid's own axes."""
    window = _window(camera, _corners(solid, frames), side)
    x, y = window.points(side)
    rotations = solid.trajectory.rotations[frames]
    origin = np.einsum(
        "fji,fj->if", rotations, camera.position - solid.trajectory.positions[frames]
    )
    rays = np.einsum("fji,jk->ikf", rotations, camera.rays).astype(np.float32)[..., None, None]
    direction = tuple((across * x + ahead) + up * y for across, up, ahead in rays)
    return window, cast(
        solid.shape, solid.extents, origin.astype(np.float32)[..., None, None], direction
    )


def _corners(solid: Solid, frames: slice) -> Float64[np.ndarray, "frames points 3"]:
    own = corners(solid.shape, solid.extents)
    rotated = np.einsum("fij,pj->fpi", solid.trajectory.rotations[frames], own)
    return rotated + solid.trajectory.positions[frames, None]


def _window(camera: Camera, points: Float64[np.ndarray, "frames points 3"], side: int) -> _Window:
    """The samples around world points in each frame, cut to the image."""
    image = camera.project(points)[..., :2] * [1, -1]
    low = np.floor((image.min(1) + 1) / 2 * side).astype(int).clip(0, side - 1)
    high = np.ceil((image.max(1) + 1) / 2 * side).astype(int).clip(1, side)
    width, height = (high - low).max(0).clip(1)
    cols, rows = np.minimum(low, [side - width, side - height]).T
    return _Window(rows, cols, int(height), int(width))


def _floor(
    camera: Camera, side: int
) -> tuple[Float32[np.ndarray, "2 {side} {side}"], Float32[np.ndarray, "{side} {side}"]]:
    """World (x, y) and depth of the floor behind every sample."""
    axis = _axis(side).astype(np.float64)
    image = np.stack(np.broadcast_arrays(axis[None], -axis[:, None], 1.0))
    rays = np.einsum("ij,jyx->iyx", camera.rays, image)
    depth = -camera.position[2] / rays[2]
    points = camera.position[:2, None, None] + depth * rays[:2]
    return points.astype(np.float32), depth.astype(np.float32)


def _develop(light: Float32[np.ndarray, "frames 3 side side"]) -> UInt8[np.ndarray, "frames 3 h w"]:
    """Average the samples of each pixel, and encode."""
    rows = light[:, :, 0::2] + light[:, :, 1::2]
    return to_srgb((rows[..., 0::2] + rows[..., 1::2]) / 4)


def _chunks(frames: int, side: int) -> Iterator[slice]:
    step = max(1, _CHUNK // side**2)
    for start in range(0, frames, step):
        yield slice(start, min(start + step, frames))


def _axis(side: int) -> Float32[np.ndarray, " side"]:
    return ((2 * np.arange(side) + 1) / side - 1).astype(np.float32)
