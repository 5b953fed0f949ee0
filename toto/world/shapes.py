"""Rays against solids, and how far a solid reaches: exact formulas in a solid's own axes.

Every solid but the rings is convex: a ray is inside it from the last surface it enters to the
first it leaves. The rings are three crossed hoops, each a cylinder with a wider bore.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Float64

from toto.world.scenes import Shape

Field = Float32[np.ndarray, "frames height width"]
PerFrame = Float32[np.ndarray, "frames 1 1"]
Vector = tuple[Field, Field, Field]
Origin = Float32[np.ndarray, "3 frames 1 1"]

# The rings' bore and half width, in radii.
_BORE, _BAND = 0.7, 0.22


class Hit(NamedTuple):
    """Where rays meet a solid: depth (infinite where they miss), and unit normals there."""

    depth: Field
    normal: Vector


def cast(shape: Shape, extents: Float64[np.ndarray, "3"], origin: Origin, direction: Vector) -> Hit:
    """Meet rays `origin + depth * direction` with a solid, all in the solid's own axes.

    No ray starts inside a solid. Depths of what is behind the rays' origin are negative.
    """
    half = extents.astype(np.float32)
    if shape == "cube":
        return _box(half, origin, direction)
    if shape == "sphere":
        return _sphere(half[0], origin, direction)
    if shape == "cylinder":
        return _cylinder(half, origin, direction)
    if shape == "spl":
        return _rings(half[0], origin, direction)
    return _cone(half, origin, direction)


def _roots(a: Field, b: Field, c: PerFrame) -> tuple[Field, Field]:
    """Both solutions of a t^2 + 2 b t + c = 0; (inf, -inf) where there is none."""
    square = b * b - a * c
    misses = square < 0
    root = np.sqrt(np.maximum(square, 0))
    scale = 1 / a
    near, far = (-b - root) * scale, (root - b) * scale
    near[misses], far[misses] = np.inf, -np.inf
    return near, far


def _slab(half: np.float32, origin: PerFrame, direction: Field) -> tuple[Field, Field]:
    """When rays enter and leave |coordinate| <= half."""
    with np.errstate(divide="ignore"):
        scale = 1 / direction
    middle, reach = -origin * scale, half * np.abs(scale)
    return middle - reach, middle + reach


def _sphere(radius: np.float32, origin: Origin, direction: Vector) -> Hit:
    x, y, z = direction
    ox, oy, oz = origin
    depth, _ = _roots(
        x * x + y * y + z * z, x * ox + y * oy + z * oz, ox**2 + oy**2 + oz**2 - radius**2
    )
    reach = np.where(np.isfinite(depth), depth, 0) / radius
    ox, oy, oz = origin / radius
    return Hit(depth, (ox + reach * x, oy + reach * y, oz + reach * z))


def _box(half: Float32[np.ndarray, "3"], origin: Origin, direction: Vector) -> Hit:
    slabs = [_slab(h, o, d) for h, o, d in zip(half, origin, direction, strict=True)]
    enter = np.maximum(np.maximum(slabs[0][0], slabs[1][0]), slabs[2][0])
    leave = np.minimum(np.minimum(slabs[0][1], slabs[1][1]), slabs[2][1])
    x, y, z = (
        np.where(near == enter, -np.sign(d), np.float32(0))
        for (near, _), d in zip(slabs, direction, strict=True)
    )
    enter[enter >= leave] = np.inf
    return Hit(enter, (x, y, z))


def _capped(
    side: tuple[Field, Field], caps: tuple[Field, Field], direction: Field
) -> tuple[Field, Field, Field]:
    """Depth, the cap's normal along the axis, and 1 where the side is met instead of a cap."""
    depth = np.maximum(side[0], caps[0])
    on_side = (side[0] >= caps[0]).astype(np.float32)
    depth[depth >= np.minimum(side[1], caps[1])] = np.inf
    return depth, (on_side - 1) * np.sign(direction), on_side


def _cylinder(half: Float32[np.ndarray, "3"], origin: Origin, direction: Vector) -> Hit:
    x, y, z = direction
    ox, oy, oz = origin
    side = _roots(x * x + y * y, x * ox + y * oy, ox**2 + oy**2 - half[0] ** 2)
    depth, cap, on_side = _capped(side, _slab(half[2], oz, z), z)
    reach = np.where(np.isfinite(depth), depth, 0)
    scale = on_side / half[0]
    return Hit(depth, ((ox + reach * x) * scale, (oy + reach * y) * scale, cap))


def _cone(half: Float32[np.ndarray, "3"], origin: Origin, direction: Vector) -> Hit:
    x, y, z = direction
    ox, oy, oz = origin
    slope = half[0] / (2 * half[2])
    # In coordinates that put the apex at 0 the side is x^2 + y^2 = (slope * z)^2.
    z, oz = slope * z, slope * (oz - half[2])
    steep = x * x + y * y - z * z
    side = _roots(steep, x * ox + y * oy - z * oz, ox**2 + oy**2 - oz**2)
    # Steeper than the side, a ray meets it once, and the cone upside down above the apex once.
    np.copyto(side[1], np.inf, where=(steep < 0) & (z < 0))
    np.copyto(side[0], -np.inf, where=(steep < 0) & (z > 0))
    depth, cap, on_side = _capped(side, _slab(half[0] / 2, oz + half[0] / 2, z), z)
    reach = np.where(np.isfinite(depth), depth, 0)
    # The side's normal is (x, y, slope * radius), and the radius there is -z.
    px, py, radius = ox + reach * x, oy + reach * y, np.maximum(-(oz + reach * z), 1e-6)
    on_side /= np.sqrt(1 + slope**2)
    scale = on_side / radius
    return Hit(depth, (px * scale, py * scale, cap + slope * on_side))


def _rings(radius: np.float32, origin: Origin, direction: Vector) -> Hit:
    best = _ring(radius, origin, direction)
    for turn in ((1, 2, 0), (2, 0, 1)):
        # The axes go round, so that each hoop's own axis is the third.
        a, b, c = turn
        hit = _ring(radius, origin[[a, b, c]], (direction[a], direction[b], direction[c]))
        nearer = hit.depth < best.depth
        np.copyto(best.depth, hit.depth, where=nearer)
        for axis, normal in zip(turn, hit.normal, strict=True):
            np.copyto(best.normal[axis], normal, where=nearer)
    return best


def _ring(radius: np.float32, origin: Origin, direction: Vector) -> Hit:
    """One hoop about the third axis: what is in the cylinder but not in its bore."""
    x, y, z = direction
    ox, oy, oz = origin
    a, b, c = x * x + y * y, x * ox + y * oy, ox**2 + oy**2
    caps = _slab(radius * np.float32(_BAND), oz, z)
    side = _roots(a, b, c - radius**2)
    enter = np.maximum(side[0], caps[0])
    leave = np.minimum(side[1], caps[1])
    bore = _roots(a, b, c - (radius * np.float32(_BORE)) ** 2)
    # A ray that comes in through the bore meets the hoop's inside as it leaves the bore.
    within = (bore[0] <= enter) & (enter < bore[1])
    depth = np.where(within, bore[1], enter)
    depth[(depth >= leave) | (enter >= leave)] = np.inf
    reach = np.where(np.isfinite(depth), depth, 0)
    on_side = ((side[0] >= caps[0]) & ~within).astype(np.float32)
    outward = (on_side - within) / np.where(within, radius * np.float32(_BORE), radius)
    cap = (on_side + within - 1) * np.sign(z)
    return Hit(depth, ((ox + reach * x) * outward, (oy + reach * y) * outward, cap))


def support(
    shape: Shape,
    extents: Float64[np.ndarray, "3"],
    directions: Float64[np.ndarray, "*n 3"],
) -> Float64[np.ndarray, "*n"]:
    """How far a solid reaches from its centre along `directions` (own axes, any length)."""
    if shape == "cube":
        return np.abs(directions) @ extents
    if shape == "sphere":
        return extents[0] * np.linalg.norm(directions, axis=-1)
    if shape == "spl":
        size = np.abs(directions)
        discs = np.sqrt(np.maximum((size**2).sum(-1, keepdims=True) - size**2, 0))
        return extents[0] * (discs + _BAND * size).max(-1)
    rim = extents[0] * np.hypot(directions[..., 0], directions[..., 1])
    height = extents[2] * directions[..., 2]
    if shape == "cylinder":
        return rim + np.abs(height)
    return np.maximum(rim - height, height)


def corners(shape: Shape, extents: Float64[np.ndarray, "3"]) -> Float64[np.ndarray, "points 3"]:
    """Points whose convex hull holds the solid, in its own axes."""
    x, y, z = extents
    signs = [(i, j) for i in (-1, 1) for j in (-1, 1)]
    base = [(i * x, j * y, -z) for i, j in signs]
    top = [(0.0, 0.0, z)] if shape == "cone" else [(i * x, j * y, z) for i, j in signs]
    return np.array(base + top)
