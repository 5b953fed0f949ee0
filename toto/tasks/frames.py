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
        patch: side of a place in pixels.
        grid: rows and columns of a frame's places.
    """

    def __init__(self, encoder: Encoder, size: int, patch: int) -> None:
        if size % patch:
            raise UserError(f"size {size}: this encoder needs a multiple of {patch}")
        self.encoder, self.size, self.patch = encoder, size, patch
        self.grid = size // patch, size // patch

    @abstractmethod
    def inputs(self, frames: Pictures) -> Iterator[Shaped[Tensor, "b ..."]]:
        """What the encoder reads to have the states of each frame, which come last; in batches."""

    def states(
        self, frames: Pictures, layers: Sequence[int]
    ) -> Iterator[dict[int, Float[Tensor, "places channels"]]]:
        """The states of each frame's places by layer, in fp32 on the encoder's device."""
        device, places = self.encoder.device, self.grid[0] * self.grid[1]
        for some in self.inputs(frames):
            with torch.no_grad(), autocast(device, pick_precision("auto", device)):
                hidden = self.encoder.hidden_states(some.to(device), layers)
            for i in range(len(some)):
                yield {layer: x[i, -places:].float() for layer, x in hidden.items()}


class _Trained(FrameReader):
    """Of a trained model: each frame with those before it, the first one repeated at the start."""

    def __init__(self, loaded: Toto, size: int, context: int) -> None:
        if context > loaded.frames:
            raise UserError(f"context {context}: {loaded.folder} reads {loaded.frames} frames")
        if context > 1 and "video" not in loaded.kinds:
            raise UserError(f"context {context}: {loaded.folder} was trained on images alone")
        super().__init__(loaded.encoder, size, loaded.tokenizer.downsample)
        self._loaded, self._context = loaded, context
        self._is_image = context == 1 and "image" in loaded.kinds

    def inputs(self, frames: Pictures) -> Iterator[Shaped[Tensor, "b ..."]]:
        encode, device = self._loaded.tokenizer.encode, self._loaded.device
        parts = torch.from_numpy(frames).split(_BATCH)
        codes = torch.cat([encode(part.to(device)).cpu() for part in parts]).numpy()
        layout, context = layout_of(self._loaded.tokenizer, self.size), self._context
        batch = max(_BATCH // context, 1)
        for first in range(0, len(codes), batch):
            ends = np.arange(first, min(first + batch, len(codes)))
            seen = (ends[:, None] + np.arange(1 - context, 1)).clip(0)
            kinds, lengths = np.full(len(ends), self._is_image), np.full(len(ends), context)
            yield torch.from_numpy(layout.sequences(codes[seen], kinds, lengths))[:, :-1]


class _Pictured(FrameReader):
    """Of another encoder: each frame by itself."""

    def inputs(self, frames: Pictures) -> Iterator[Shaped[Tensor, "b ..."]]:
        yield from torch.from_numpy(frames)[:, None].split(_BATCH)


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
    if not isinstance(loaded, ImageBaseline):
        raise UserError(
            "this encoder reads videos: tracking needs a trained model, or one of images"
        )
    if context != 1:
        raise UserError(f"context {context}: of others than trained models 1")
    sized = loaded.at(size or loaded.pixels.size)
    return _Pictured(sized, sized.pixels.size, sized.patch)
