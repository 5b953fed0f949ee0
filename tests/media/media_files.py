"""Media made on the spot."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np


def moving(frames: int, height: int = 48, width: int = 64, seed: int = 0) -> np.ndarray:
    """Frames `(frames, height, width, 3)` of a pattern that moves, each unlike all others."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 255, (height // 4 + 1, width // 4 + 1, 3), np.uint8)
    pattern = coarse.repeat(4, 0).repeat(4, 1)[:height, :width]
    video = np.stack([np.roll(pattern, (i, 2 * i), (0, 1)) for i in range(frames)])
    for i, frame in enumerate(video):
        frame[:8, :8] = (37 * i) % 256
    return video


def encode(
    path: Path,
    frames: np.ndarray,
    codec: str = "libx264",
    container: str = "mp4",
    options: dict[str, str] | None = None,
    times: Sequence[int] | None = None,
    rotation: int = 0,
    mux: dict[str, str] | None = None,
) -> Path:
    """Encode frames `(frames, height, width, 3)`; `times` are in milliseconds, 25 fps if None."""
    with av.open(str(path), "w", format=container, options=mux or {}) as out:
        stream = out.add_stream(codec, rate=25)
        context = stream.codec_context
        context.height, context.width = frames.shape[1:3]
        context.pix_fmt = "yuv420p"
        context.thread_count = 1
        context.options = options or {}
        if times is not None:
            context.time_base = Fraction(1, 1000)
        if rotation:
            stream.set_display_rotation(rotation)
        for i, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            if times is not None:
                picture.pts, picture.time_base = times[i], Fraction(1, 1000)
            out.mux(stream.encode(picture))
        out.mux(stream.encode())
    return path
