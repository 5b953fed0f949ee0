"""Light: two lamps, a sky, two materials, and soft shadows on the floor. Colours are linear."""

import numpy as np
from jaxtyping import Float32, Float64

from toto.world.camera import Camera, Frames, View
from toto.world.scenes import Floor, Material, Rgb, Solid
from toto.world.shapes import Field, Vector, support

_GAMMA = 2.2
_LEVELS = 1 << 14
_TO_SRGB = np.round(255 * (np.arange(_LEVELS) / (_LEVELS - 1)) ** (1 / _GAMMA)).astype(np.uint8)

# The lamps as (right, away, up) seen from the camera: the key light comes over its left shoulder.
_KEY, _FILL = (-0.62, -0.42, 0.95), (0.85, -0.35, 0.35)
_AMBIENT, _KEY_POWER, _FILL_POWER = 0.38, 1.0, 0.25
# Soft shadows: the share of light they take, and the half width of their edge (world units).
_CAST, _CAST_EDGE = 0.55, 0.10
_CONTACT, _CONTACT_EDGE, _CONTACT_REACH = 0.5, 0.22, 0.35
_TILE_SHADE = 0.16
# A shadow's outline is held by this many half planes: at 16, a disc's is 2 % too large at most.
_SIDES = np.stack([np.cos(a := np.arange(16) * np.pi / 8), np.sin(a)], 1)


def linear(colour: Rgb) -> Float32[np.ndarray, "3"]:
    """The linear light of an sRGB colour."""
    return ((np.array(colour) / 255) ** _GAMMA).astype(np.float32)


def to_srgb(light: Float32[np.ndarray, "*n"]) -> np.ndarray:
    """The uint8 sRGB values of linear light, 1 being white."""
    return _TO_SRGB[(np.clip(light, 0, 1) * (_LEVELS - 1)).astype(np.uint16)]


def smooth(x: np.ndarray) -> np.ndarray:
    """The smooth step of values that are first cut to 0..1."""
    x = np.clip(x, 0, 1)
    return x * x * (3 - 2 * x)


def _toward(home: Camera, lamp: tuple[float, float, float]) -> Float64[np.ndarray, "3"]:
    right, away, up = lamp
    direction = np.append(right * home.right + away * home.away, up)
    return direction / np.linalg.norm(direction)


def _dot(normal: Vector, direction: Float64[np.ndarray, "frames 3"]) -> Field:
    x, y, z = direction.T.astype(np.float32)[:, :, None, None]
    return normal[0] * x + normal[1] * y + normal[2] * z


def shade(
    view: View, solid: Solid, frames: Frames, normal: Vector
) -> Float32[np.ndarray, "frames 3 height width"]:
    """The light of a solid's surface at unit `normal`s, given in the solid's own axes."""
    rotations = solid.trajectory.rotations[frames]
    eye = view.eyes - solid.trajectory.positions[frames]
    eye /= np.linalg.norm(eye, axis=-1, keepdims=True)
    key, fill = _toward(view.home, _KEY), _toward(view.home, _FILL)
    half = eye + key
    half /= np.linalg.norm(half, axis=-1, keepdims=True)

    def own(vector: np.ndarray) -> Float64[np.ndarray, "frames 3"]:
        return np.einsum("fji,fj->fi", rotations, np.broadcast_to(vector, eye.shape))

    up = _dot(normal, own(np.array([0.0, 0.0, 1.0])))
    light = (
        _AMBIENT * (0.68 + 0.32 * up)
        + _KEY_POWER * np.maximum(_dot(normal, own(key)), 0)
        + _FILL_POWER * np.maximum(_dot(normal, own(fill)), 0)
    )
    glint = np.clip(_dot(normal, own(half)), 0, 1)  # rays that miss have no unit normal
    light, glint = _finish(solid.material, light, glint, up, _dot(normal, own(eye)), eye)
    return linear(solid.rgb)[:, None, None] * light[:, None] + glint[:, None]


def _finish(
    material: Material,
    light: Field,
    glint: Field,
    up: Field,
    facing: Field,
    eye: Float64[np.ndarray, "frames 3"],
) -> tuple[Field, Field]:
    """Tinted light and white highlight of a material."""
    if material == "rubber":
        for _ in range(4):
            glint = glint * glint
        return light, 0.10 * glint
    for _ in range(6):
        glint = glint * glint
    # Metal mirrors a studio: a bright sky above a dark horizon.
    mirrored = 2 * facing * up - eye[:, 2].astype(np.float32)[:, None, None]
    sky = smooth((mirrored + 0.15) * np.float32(1.1))
    return 0.55 * light + 0.12 + 0.85 * sky, 0.08 * sky + 0.75 * glint


def floor_light(
    floor: Floor, home: Camera, x: Field, y: Field
) -> Float32[np.ndarray, "frames 3 height width"]:
    """The light of the bare floor at world (x, y): a gradient away from the first camera."""
    away = home.away.astype(np.float32)
    distance = x * away[0] + y * away[1]
    far = smooth((distance + 4) / 16)
    square = x**2 + y**2
    pool = 1 - 0.0035 * np.minimum(square, 60)
    if floor.tile:
        scale = np.float32(1 / floor.tile)
        half = np.float32(0.5) * (np.floor(x * scale) + np.floor(y * scale))
        # Far tiles would be finer than the samples: they fade away.
        clear = np.clip(np.float32(1.3) - square * np.float32(0.009), 0, 1)
        pool *= 1 - np.float32(2 * _TILE_SHADE) * clear * (half - np.floor(half))
    near, end = linear(floor.near), linear(floor.far)
    light = np.empty((len(x), 3, *x.shape[1:]), np.float32)
    for channel in range(3):
        np.multiply(far, end[channel] - near[channel], out=light[:, channel])
        light[:, channel] += near[channel]
        light[:, channel] *= pool
    return light


def shadow_margin(solid: Solid, frames: Frames) -> Float64[np.ndarray, " frames"]:
    """How far a solid's shadow reaches beyond its outline, in world units."""
    return np.maximum(_edge(_gap(solid, frames)), _CONTACT_EDGE)


def key_drift(home: Camera) -> Float64[np.ndarray, "2"]:
    """How far on the floor the shadow of a point moves per unit of its height."""
    key = _toward(home, _KEY)
    return -key[:2] / key[2]


def shadow(
    view: View,
    solid: Solid,
    frames: Frames,
    x: Float32[np.ndarray, "frames 1 width"],
    y: Float32[np.ndarray, "frames height 1"],
) -> Field:
    """The share of the light (0..1) that a solid leaves on the floor at image points (x, y)."""
    gap = _gap(solid, frames)
    edge = _edge(gap).astype(np.float32)[:, None, None]
    cast = smooth(0.5 - _outside(view, solid, frames, key_drift(view.home), x, y) / (2 * edge))
    strength = (_CONTACT * np.exp(-gap / _CONTACT_REACH)).astype(np.float32)[:, None, None]
    below = _outside(view, solid, frames, np.zeros(2), x, y)
    contact = smooth(0.5 - below * np.float32(0.5 / _CONTACT_EDGE))
    return (1 - np.float32(_CAST) * cast) * (1 - strength * contact)


def _gap(solid: Solid, frames: Frames) -> Float64[np.ndarray, " frames"]:
    """How high the lowest point of a solid is above the floor."""
    down = -solid.trajectory.rotations[frames, 2]
    return solid.trajectory.positions[frames, 2] - support(solid.shape, solid.extents, down)


def _edge(gap: Float64[np.ndarray, " frames"]) -> Float64[np.ndarray, " frames"]:
    return _CAST_EDGE + 0.16 * np.maximum(gap, 0)


def _outside(
    view: View,
    solid: Solid,
    frames: Frames,
    drift: Float64[np.ndarray, "2"],
    x: Float32[np.ndarray, "frames 1 width"],
    y: Float32[np.ndarray, "frames height 1"],
) -> Field:
    """Signed distance on the floor to a solid's outline along light that drifts so (< 0 inside).

    A floor point is linear in image (x, y) up to its division by the ray's slope, and so is its
    distance to each side of the outline: the division is done once, after the maximum.
    """
    eyes, rays = view.eyes, view.rays
    sides = np.concatenate([_SIDES, (_SIDES @ drift)[:, None]], 1)
    own = np.einsum("fji,kj->fki", solid.trajectory.rotations[frames], sides)
    reach = solid.trajectory.positions[frames] @ sides.T
    reach = reach + support(solid.shape, solid.extents, own)
    ahead = (reach - eyes[:, :2] @ _SIDES.T)[..., None] * rays[:, None, 2]
    ahead = (ahead + eyes[:, 2, None, None] * (_SIDES @ rays[:, :2])).astype(np.float32)
    ahead = ahead.transpose(1, 2, 0)[..., None, None]
    farthest = ahead[0, 0] * x + ahead[0, 2] + ahead[0, 1] * y
    term = np.empty_like(farthest)
    for slope_x, slope_y, offset in ahead[1:]:
        np.add(slope_x * x + offset, slope_y * y, out=term)
        np.maximum(farthest, term, out=farthest)
    down = rays[:, 2].T.astype(np.float32)[..., None, None]
    return farthest / -(down[0] * x + down[1] * y + down[2])
