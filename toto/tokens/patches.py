"""How pixels become sequences of patches, and patches frames again.

A sequence is `[start] + patches in raster order, frame after frame + [end]`, the places of tokens
(see vocabulary.py), uint8 `(positions, patch x patch x 3)`: each value of the start is 1 for a clip
of a video and 3 for images, as the token's id would be. Values of the end and of padding are 0, and
nothing reads them: how many frames count is said beside.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int, UInt8
from torch import Tensor

from toto.tokens.vocabulary import IMAGES, VIDEO, Layout


def patchify(
    frames: UInt8[np.ndarray, "n 3 height width"], patch: int
) -> UInt8[np.ndarray, "n places values"]:
    """Patches of frames in raster order, each by (row, column, channel) as MAE's.

    Source: facebookresearch/mae, models_mae.py.
    """
    n, channels, height, width = frames.shape
    rows, cols = height // patch, width // patch
    apart = frames.reshape(n, channels, rows, patch, cols, patch)
    return apart.transpose(0, 2, 4, 3, 5, 1).reshape(n, rows * cols, patch * patch * channels)


def unpatchify(
    patches: UInt8[np.ndarray, "n places values"], patch: int, rows: int, cols: int
) -> UInt8[np.ndarray, "n 3 height width"]:
    """The frames that `patchify` cut."""
    apart = patches.reshape(len(patches), rows, cols, patch, patch, 3)
    return apart.transpose(0, 5, 1, 3, 2, 4).reshape(len(patches), 3, rows * patch, cols * patch)


@dataclass(frozen=True)
class PatchGrid(Layout):
    """The patches of frames: for pixels what `Vocabulary` is for codes."""

    patch: int
    """side of a patch in pixels"""
    rows: int
    cols: int

    @property
    def values(self) -> int:
        """Values of a patch: three of each pixel."""
        return 3 * self.patch**2

    def sequences(
        self,
        codes: UInt8[np.ndarray, "b frames 3 height width"],
        images: Bool[np.ndarray, " b"],
        lengths: Int[np.ndarray, " b"],
    ) -> UInt8[np.ndarray, "b positions values"]:
        """The patches of `codes`, which are pixels."""
        count, frames = codes.shape[:2]
        out = np.zeros((count, self.length(frames), self.values), np.uint8)
        out[:, 0] = np.where(images, IMAGES, VIDEO)[:, None]
        patches = patchify(codes.reshape(-1, *codes.shape[2:]), self.patch)
        out[:, 1:-1] = patches.reshape(count, -1, self.values)
        for short in np.flatnonzero(lengths < frames):
            out[short, lengths[short] * self.frame + 1 :] = 0
        return out

    def patches(self, pixels: UInt8[Tensor, "b frames 3 height width"]) -> UInt8[Tensor, "b t v"]:
        """Patches of whole frames in raster order, without start and end."""
        apart = patchify(pixels.flatten(0, 1).cpu().numpy(), self.patch)
        return torch.from_numpy(apart).to(pixels.device).view(len(pixels), -1, self.values)

    def pixels(self, patches: UInt8[Tensor, "b t v"]) -> UInt8[Tensor, "b frames 3 height width"]:
        """The frames of whole frames of patches, start and end taken away before."""
        apart = patches.reshape(-1, self.frame, self.values).cpu().numpy()
        frames = unpatchify(apart, self.patch, self.rows, self.cols)
        return torch.from_numpy(frames).to(patches.device).unflatten(0, (len(patches), -1))

    def to_dict(self) -> dict[str, Any]:
        return {
            "patch": self.patch,
            "grid": [self.rows, self.cols],
            "special": {"video": VIDEO, "images": IMAGES},
        }
