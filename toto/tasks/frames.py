"""Videos read frame by frame: states of the places of each frame."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float, Shaped, UInt8
from torch import Tensor

from toto.api import Toto, layout_of
from toto.errors import UserError
from toto.probing.baselines.base import Baseline, ImageBaseline
from toto.probing.encoder import Encoder
from toto.training.device import autocast, pick_precision

Pictures = UInt8[np.ndarray, "frames 3 size size"]

# Frames that are read at once.
_BATCH = 8


class FrameReader(ABC):
    """Reads videos of square frames.

    Attributes:
        encoder: whose states are read.
        size: side of a frame in pixels.
        grid: rows and columns of its places.
    """

    def __init__(self, encoder: Encoder, size: int, patch: int, together: int) -> None:
        if size % patch:
            raise UserError(f"size {size}: this encoder needs a multiple of {patch}")
        self.encoder, self.size, self.patch = encoder, size, patch
        self.grid = size // patch, size // patch
        self._batch = max(_BATCH // together, 1)

    @abstractmethod
    def inputs(self, frames: Pictures) -> Shaped[Tensor, "frames ..."]:
        """What the encoder reads to have the states of each frame, which come last."""

    def states(
        self, frames: Pictures, layers: Sequence[int]
    ) -> Iterator[dict[int, Float[Tensor, "places channels"]]]:
        """The states of each frame's places by layer, in fp32 on the encoder's device."""
        device, places = self.encoder.device, self.grid[0] * self.grid[1]
        for some in self.inputs(frames).split(self._batch):
            with torch.no_grad(), autocast(device, pick_precision("auto", device)):
                hidden = self.encoder.hidden_states(some.to(device), layers)
            for i in range(len(some)):
                yield {layer: x[i, -places:].float() for layer, x in hidden.items()}


class _Trained(FrameReader):
    """Of a trained model: each frame with those before it, the first one repeated at the start."""

    def __init__(self, loaded: Toto, size: int, context: int) -> None:
        if context > loaded.frames:
            raise UserError(f"context {context}: {loaded.folder} reads {loaded.frames} frames")
        super().__init__(loaded.encoder, size, loaded.tokenizer.downsample, context)
        self._loaded, self._context = loaded, context
        self._is_image = context == 1 and "image" in loaded.kinds

    def inputs(self, frames: Pictures) -> Shaped[Tensor, "frames ..."]:
        encode, device = self._loaded.tokenizer.encode, self._loaded.device
        parts = torch.from_numpy(frames).split(_BATCH)
        codes = torch.cat([encode(part.to(device)).cpu() for part in parts]).numpy()
        ends = np.arange(len(frames))[:, None]
        seen = (ends + np.arange(1 - self._context, 1)).clip(0)
        kinds, lengths = np.full(len(frames), self._is_image), np.full(len(frames), seen.shape[1])
        layout = layout_of(self._loaded.tokenizer, self.size)
        return torch.from_numpy(layout.sequences(codes[seen], kinds, lengths))[:, :-1]


class _Pictured(FrameReader):
    """Of another encoder: each frame by itself."""

    def inputs(self, frames: Pictures) -> Shaped[Tensor, "frames ..."]:
        return torch.from_numpy(frames)[:, None]


def frame_reader(loaded: Toto | Baseline, size: int | None, context: int = 1) -> FrameReader:
    """What reads frames of `size` pixels, by default of the encoder's own.

    Args:
        loaded: a trained model, or another encoder.
        size: side of the frames.
        context: how many of them a trained model reads at once.

    Raises:
        UserError: the encoder reads no such size, not so many frames, or no single ones.
    """
    if isinstance(loaded, Toto):
        return _Trained(loaded, size or loaded.view.size, context)
    if not isinstance(loaded, ImageBaseline) or context != 1:
        raise UserError("frame by frame, and in no context, encoders of images read videos")
    sized = loaded.at(size or loaded.pixels.size)
    return _Pictured(sized, sized.pixels.size, sized.patch, 1)
