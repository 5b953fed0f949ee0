"""HDR video in standard range: the rule, in a few lines of arithmetic on small pictures.

PQ (SMPTE ST 2084) and HLG (ARIB STD-B67) code values become light (ITU-R BT.2100), 1.0 being the
reference white of 203 cd/m2 (BT.2408). Luminance goes through the extended Reinhard curve that
takes 1000 cd/m2 to white; colours go from BT.2020's primaries to BT.709's and are cut to its gamut;
the result is coded as sRGB.
"""

import numpy as np
from jaxtyping import Float, UInt8, UInt16

_WHITE, _PEAK = 203.0, 1000.0
# BT.2020 to BT.709 (BT.2087), and the luminance of BT.2020.
_PRIMARIES = np.array(
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], np.float32
)
_LUMINANCE = np.array([0.2627, 0.6780, 0.0593], np.float32)


def pq_light(code: Float[np.ndarray, "*n"]) -> Float[np.ndarray, "*n"]:
    """Light in cd/m2 of PQ code values 0 to 1 (BT.2100, table 4)."""
    m1, m2 = 2610 / 16384, 2523 / 4096 * 128
    c1, c2, c3 = 3424 / 4096, 2413 / 4096 * 32, 2392 / 4096 * 32
    power = np.clip(code, 0, 1) ** (1 / m2)
    return 10000 * (np.maximum(power - c1, 0) / (c2 - c3 * power)) ** (1 / m1)


def hlg_light(code: Float[np.ndarray, "*n 3"]) -> Float[np.ndarray, "*n 3"]:
    """Light in cd/m2 of HLG code values 0 to 1 on a display of 1000 cd/m2 (BT.2100, table 5)."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    code = np.clip(code, 0, 1)
    scene = np.where(code <= 0.5, code**2 / 3, (np.exp((code - c) / a) + b) / 12)
    luminance = (scene @ _LUMINANCE)[..., None]
    return _PEAK * scene * np.maximum(luminance, 1e-9) ** 0.2


def to_standard_range(
    pixels: UInt16[np.ndarray, "height width 3"], is_hlg: bool
) -> UInt8[np.ndarray, "height width 3"]:
    """8-bit sRGB of 16-bit BT.2020 code values by the rule above."""
    code = pixels.astype(np.float32) / 65535
    light = (hlg_light(code) if is_hlg else pq_light(code)) / _WHITE
    luminance = np.maximum(light @ _LUMINANCE, 1e-9)[..., None]
    white = _PEAK / _WHITE
    mapped = light * ((1 + luminance / white**2) / (1 + luminance))
    linear = np.clip(mapped @ _PRIMARIES.T, 0, 1)
    coded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.round(255 * coded).astype(np.uint8)
