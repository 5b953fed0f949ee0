"""What all other encoders share: pixels as each wants them, and the states of its blocks."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from copy import copy
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from toto.config import fingerprint
from toto.errors import UserError
from toto.media.view import View
from toto.weights import weights_fingerprint

# Keys of a config on which no state depends.
_ASIDE = ("_name_or_path", "transformers_version", "architectures", "dtype")

Frames = UInt8[Tensor, "b frames 3 height width"]
Beside = dict[str, Any]


@dataclass(frozen=True)
class Pixels:
    """What becomes of frames before a model reads them."""

    size: int
    """side of the square that it reads"""
    mean: tuple[float, ...]
    """of the channels, whose range is 0 to 1"""
    std: tuple[float, ...]
    resample: str
    """bilinear or bicubic; in either, a smaller picture's pixels are means over a larger one's"""

    def __call__(self, frames: Frames) -> Float[Tensor, "b frames 3 size size"]:
        """The frames, their shorter side resized; of that the middle square, normalised."""
        x, short = frames.float(), min(frames.shape[-2:])
        if short != self.size:
            shape = [side * self.size // short for side in frames.shape[-2:]]
            x = F.interpolate(x.flatten(0, 1), shape, mode=self.resample, antialias=True)
            # Processors of images give whole levels.
            x = x.round().clamp(0, 255).unflatten(0, frames.shape[:2])
        top, left = ((side - self.size) // 2 for side in x.shape[-2:])
        x = x[..., top : top + self.size, left : left + self.size]
        mean, std = (x.new_tensor(own).view(3, 1, 1) for own in (self.mean, self.std))
        return (x / 255 - mean) / std


IMAGENET = Pixels(224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "bicubic")
OPENAI = Pixels(
    224,
    (0.48145466, 0.4578275, 0.40821073),
    (0.26862954, 0.26130258, 0.27577711),
    "bicubic",
)


class Baseline(nn.Module, ABC):
    """An encoder of `transformers`, frozen: an `Encoder` (`toto/probing/encoder.py`) of frames.

    Attributes:
        layers: its blocks; layer 0 is the embedding's output, layer i that of block i, before the
            final norm.
        width: channels of its states.
        heads: heads of its attention.
        patch: side of a patch in pixels.
        frames: of the longest clip that it reads at once, or of a clip of the project.
        pixels: what becomes of frames before it reads them; `pixels.size` is its own size.
        fingerprint: 16 hex digits of weights, config and pixels.
    """

    models: ClassVar[dict[str, str]]
    """by `model_type` of a config.json the class that opens its folder"""
    usual: ClassVar[Pixels]
    """where the folder has no preprocessor_config.json"""
    own_size: ClassVar[str | None] = "image_size"
    """the config's key of its own size; None where the processor tells it"""
    reads_any_size: ClassVar[bool] = False
    """whether its positions go on beyond its own size"""

    def __init__(self, model: Any, pixels: Pixels) -> None:
        super().__init__()
        self.model: Any = model.eval().requires_grad_(False)
        config = self.model.config
        if self.own_size is not None:
            pixels = replace(pixels, size=getattr(config, self.own_size))
        self.pixels = pixels
        self.layers: int = config.num_hidden_layers
        self.width: int = config.hidden_size
        self.heads: int = config.num_attention_heads
        self.patch: int = config.patch_size
        self.frames = 16
        told = {key: value for key, value in config.to_diff_dict().items() if key not in _ASIDE}
        self.fingerprint = fingerprint([weights_fingerprint(model), told, asdict(pixels)])

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return next(self.parameters()).device

    @property
    def view(self) -> View:
        """Frames as it reads them, which it need not resize."""
        return View(size=self.pixels.size)

    def at(self, size: int) -> "Baseline":
        """The same encoder, which reads squares of `size` pixels.

        Raises:
            UserError: it reads no others than its own.
        """
        if not self.reads_any_size and size != self.pixels.size:
            raise UserError(f"size {size}: this encoder reads {self.pixels.size} pixels alone")
        other = copy(self)
        other.pixels = replace(self.pixels, size=size)
        return other

    @property
    def encoder(self) -> "Baseline":
        """What probes read, as of a trained model."""
        return self

    @property
    @abstractmethod
    def blocks(self) -> nn.ModuleList:
        """Its blocks, from the first on."""

    @abstractmethod
    def embed(self, pixels: Float[Tensor, "..."]) -> tuple[Float[Tensor, "n t c"], Beside]:
        """The embedding's output, and what each block is told beside it."""

    def hidden_states(
        self, frames: Frames, layers: Sequence[int]
    ) -> dict[int, Float[Tensor, "b t c"]]:
        """The states of all places of a clip, by layer; no block above the highest one runs.

        They come in raster order, frame by frame, without those of class and register tokens.
        Gradients reach the parameters that require them.

        Raises:
            UserError: it does not read so many frames.
        """
        states, beside = self.embed(self._arrange(self.pixels(frames.to(self.device))))
        found: dict[int, Tensor] = {}
        for layer in range(max(layers) + 1):
            if layer:
                states = self._pass(self.blocks[layer - 1], states, beside)
            if layer in layers:
                found[layer] = self._places(states, len(frames))
        return found

    def _pass(self, block: nn.Module, states: Tensor, beside: Beside) -> Tensor:
        return block(states, **beside)

    @abstractmethod
    def _arrange(self, pixels: Float[Tensor, "b frames 3 size size"]) -> Float[Tensor, "..."]:
        """The pixels as `embed` takes them."""

    @abstractmethod
    def _places(self, states: Float[Tensor, "n t c"], clips: int) -> Float[Tensor, "b places c"]:
        """The states of each clip's places, without special tokens."""


class ImageBaseline(Baseline):
    """Reads each frame by itself."""

    @property
    def special(self) -> int:
        """Class and register tokens, which stand before the places."""
        return 1

    def _arrange(self, pixels: Float[Tensor, "b frames 3 size size"]) -> Float[Tensor, "n 3 s s"]:
        return pixels.flatten(0, 1)

    def _places(self, states: Float[Tensor, "n t c"], clips: int) -> Float[Tensor, "b places c"]:
        return states[:, self.special :].unflatten(0, (clips, -1)).flatten(1, 2)


class VideoBaseline(Baseline):
    """Reads `tubelet_size` frames as one; a clip that is too short has its last one repeated."""

    def _places(self, states: Float[Tensor, "n t c"], clips: int) -> Float[Tensor, "b places c"]:
        return states


def lengthen(
    pixels: Float[Tensor, "b frames 3 size size"], count: int
) -> Float[Tensor, "b count 3 size size"]:
    """`count` frames, the last one repeated."""
    last = pixels[:, -1:].expand(-1, count - pixels.shape[1], -1, -1, -1)
    return torch.cat((pixels, last), 1)
