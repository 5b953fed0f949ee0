"""A report's pictures and films, as data URIs."""

import base64
import io
import tempfile
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from toto.media.write import write_gif
from toto.studies.report.charts import COLOURS
from toto.studies.report.records import Continuation, Frames, TokenizerQuality

_FRAME = (86, 92, 104)  # around pictures that are nobody's prediction
_FPS = 5  # slow enough to compare pictures side by side

Larger = UInt8[np.ndarray, "frames 3 tall wide"]


def pairs(tokenizer: TokenizerQuality) -> list[str]:
    """Frames, each beside what is left of it."""
    sides = (_enlarged(tokenizer.frames), _enlarged(tokenizer.reconstructions))
    return [_png(pair) for pair in np.concatenate(sides, 3)]


def moving(continuation: Continuation) -> str:
    """All rows side by side, so that they stay in time, over a bar that shows the time."""
    panels = [
        _bordered(_enlarged(frames), continuation.prompt if predicted else None, 3)
        for _, frames, predicted in continuation.rows()
    ]
    film = np.concatenate(panels, 3)
    film = np.concatenate([film, _timeline(len(film), continuation.prompt, film.shape[3])], 2)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "film.gif"
        write_gif(path, film, _FPS)
        return _data_uri("gif", path.read_bytes())


def strip(continuation: Continuation) -> str:
    """All rows from above to below, time from left to right."""
    rows = [
        np.concatenate(list(_bordered(frames, continuation.prompt if predicted else None, 2)), 2)
        for _, frames, predicted in continuation.rows()
    ]
    return _png(np.concatenate(rows, 1))


def _enlarged(frames: Frames) -> Larger:
    """By a whole factor, to about 128 pixels, so that small frames stay crisp when scaled."""
    factor = max(1, round(128 / frames.shape[2]))
    return frames.repeat(factor, 2).repeat(factor, 3)


def _bordered(frames: Frames, prompt: int | None, edge: int) -> Larger:
    """Frames of the model in the colour of what was given up to `prompt`, then in the model's."""
    padded = np.pad(frames, ((0, 0), (0, 0), (edge, edge), (edge, edge)))
    for i, frame in enumerate(padded):
        colour = _FRAME if prompt is None else _rgb("given" if i < prompt else "model")
        frame[:] = np.array(colour, np.uint8)[:, None, None]
        frame[:, edge:-edge, edge:-edge] = frames[i]
    return padded


def _timeline(frames: int, prompt: int, width: int) -> Frames:
    """A bar of one cell for each frame, filled up to the frame that is shown."""
    bar = np.zeros((frames, 3, 8, width), np.uint8)
    edges = np.linspace(0, width, frames + 1).round().astype(int)
    for now in range(frames):
        for cell in range(frames):
            colour = np.array(_rgb("given" if cell < prompt else "model"))
            shown = colour if cell <= now else colour * 0.3
            bar[now, :, 3:, edges[cell] + 1 : edges[cell + 1] - 1] = shown[:, None, None]
    return bar


def _rgb(name: str) -> tuple[int, ...]:
    return tuple(bytes.fromhex(COLOURS[name][1:]))


def _png(picture: UInt8[np.ndarray, "3 height width"]) -> str:
    file = io.BytesIO()
    image = Image.fromarray(np.ascontiguousarray(picture.transpose(1, 2, 0)))
    image.save(file, format="PNG", optimize=True)
    return _data_uri("png", file.getvalue())


def _data_uri(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
