"""What `toto.load` returns: a model that reads videos."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from toto.config import from_dict
from toto.errors import UserError, at_least
from toto.generation.continuation import continue_codes
from toto.generation.patches import continue_patches
from toto.generation.sampling import Sampling
from toto.media.video import probe, read_clip, read_frames
from toto.media.view import View
from toto.models.llama import Llama
from toto.models.saved import Saved, check_table, load_model, saved_in
from toto.probing.encoder import TrainedEncoder
from toto.probing.features import pick_layers
from toto.tokenizers.base import Codes, Tokenizer, load_tokenizer
from toto.tokenizers.patches import Patches
from toto.tokens.patches import PatchGrid
from toto.tokens.vocabulary import Kind, Layout, Vocabulary
from toto.training.device import pick_device

Video = str | Path | UInt8[np.ndarray, "frames 3 height width"]


class Toto:
    """A saved model and its tokenizer.

    A video is a path, or frames: uint8 `(frames, 3, height, width)`, of which nothing is skipped.
    """

    def __init__(
        self, folder: Path, model: Saved, tokenizer: Tokenizer, details: dict[str, Any]
    ) -> None:
        self.folder, self.model, self.tokenizer = folder, model, tokenizer
        self.layout = layout_of(tokenizer, details["view"]["size"])
        """how frames become sequences: of tokens, or of patches"""
        self.frames: int = details["frames"]
        """frames of the longest clip that the model reads"""
        self.kinds: list[Kind] = details["kinds"]
        """what its sequences were of in training: videos, images or both"""
        self.view = from_dict(View, details["view"], str(folder))

    @classmethod
    def load(cls, path: Path, device: str = "auto") -> "Toto":
        """See `toto.load`."""
        folder = saved_in(path)
        model, details = load_model(folder)
        if not details:
            raise UserError(
                f"{folder}/config.json says nothing of videos: `toto adopt` makes a saved model of "
                "a LLaMA that was trained elsewhere"
            )
        where = pick_device(device)
        tokenizer = load_tokenizer(folder / "tokenizer", str(where))
        _refuse_misfits(folder, model, tokenizer, details)
        return cls(folder, model.to(where), tokenizer, details)

    @property
    def encoder(self) -> TrainedEncoder:
        """What probes read."""
        return TrainedEncoder(self.model)

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return next(self.model.parameters()).device

    @property
    def vocabulary(self) -> Vocabulary:
        """The tokens that it reads.

        Raises:
            toto.errors.UserError: it reads patches.
        """
        if not isinstance(self.layout, Vocabulary):
            raise UserError(f"{self.folder} reads patches of pixels, no tokens")
        return self.layout

    def tokenize(self, video: Video) -> Codes:
        """Codes of all kept frames; of a model of patches their pixels.

        Raises:
            toto.errors.MediaError: the file cannot be read.
        """
        if isinstance(video, np.ndarray):
            return self._encode(video)
        return torch.cat([self._encode(part) for part in read_frames(str(video), self.view)])

    def features(
        self, video: Video, layers: str = "all"
    ) -> dict[int, Float[Tensor, "positions channels"]]:
        """Hidden states of the first clip's codes, or patches, in raster order, by layer.

        A file of an image is read as one, and so is all that a model of images alone is given.

        Args:
            video: its first `self.frames` kept frames are read.
            layers: "all", numbers ("0,4,8"), or a depth between 0 and 1 ("0.5").

        Raises:
            toto.errors.UserError: no such layers, or frames of another size.
            toto.errors.MediaError: the file cannot be read.
        """
        codes = self._clip(video, self.frames)
        tokens = self.layout.sequence(codes.cpu().numpy(), self._kind(video), len(codes))
        inputs = torch.from_numpy(tokens[None, :-1]).to(self.device)
        with torch.no_grad():
            hidden = self.model.hidden_states(inputs, pick_layers(layers, self.model.size.layers))
        return {layer: states[0, 1:] for layer, states in hidden.items()}

    def predict(
        self,
        video: Video,
        frames: int = 8,
        prompt: int | None = None,
        sampling: Sampling | None = None,
        on_frame: Callable[[], None] = lambda: None,
    ) -> UInt8[np.ndarray, "future 3 size size"]:
        """The frames that the model imagines next.

        Args:
            video: what has been seen so far.
            frames: how many to imagine.
            prompt: how many of the video's first kept frames to continue, by default half a clip;
                of more than a clip's the last are read.
            sampling: how codes are drawn; by default from the model's own distribution. Patches
                are predicted, see `continue_patches`.
            on_frame: called after each frame.

        Raises:
            toto.errors.UserError: `frames` or `prompt` is not positive, the model knows no videos,
                or one of patches cannot do as it is told.
            toto.errors.MediaError: the file cannot be read.
        """
        prompt = max(self.frames // 2, 1) if prompt is None else prompt
        if "video" not in self.kinds:
            raise UserError(f"{self.folder} was trained on images alone: it continues no video")
        at_least(1, prompt=prompt)
        codes = self._clip(video, prompt)[None]
        how = frames, self.frames, sampling or Sampling(), on_frame
        if isinstance(self.model, Llama):
            future = continue_codes(self.model, self.vocabulary, codes, *how)
        else:
            future = continue_patches(self.model, codes, *how)
        return self.tokenizer.decode(future[0]).cpu().numpy()

    def _clip(self, video: Video, frames: int) -> Codes:
        if isinstance(video, np.ndarray):
            return self._encode(video[:frames])
        return self._encode(read_clip(str(video), 0, frames, self.view))

    def _kind(self, video: Video) -> Kind:
        if len(self.kinds) == 1:
            return self.kinds[0]
        return "video" if isinstance(video, np.ndarray) else probe(str(video)).kind

    def _encode(self, frames: np.ndarray) -> Codes:
        expected = (3, self.view.size, self.view.size)
        if frames.dtype != np.uint8 or frames.shape[1:] != expected or not len(frames):
            raise UserError(
                f"frames of {frames.dtype} {frames.shape}: this model reads uint8 "
                f"(1 or more, {', '.join(map(str, expected))})"
            )
        return self.tokenizer.encode(torch.from_numpy(frames).to(self.device))


def _refuse_misfits(
    folder: Path, model: Saved, tokenizer: Tokenizer, details: dict[str, Any]
) -> None:
    """Compare what the key `toto` says with the tokenizer, the table and our layout of tokens."""
    try:
        said = details["vocabulary" if isinstance(model, Llama) else "patches"]
        same = {
            "tokenizer": (details["tokenizer"], tokenizer.fingerprint),
            **{
                key: (said[key], value)
                for key, value in layout_of(tokenizer, details["view"]["size"]).to_dict().items()
            },
        }
        at_least(1, frames=details["frames"])
    except (KeyError, TypeError) as error:
        raise UserError(f"{folder}/config.json: its key `toto` is damaged: {error!r}") from error
    for what, (its, found) in same.items():
        if its != found:
            raise UserError(
                f"{folder} does not fit its tokenizer: `toto` in config.json says {what} {its}, "
                f"expected is {found}"
            )
    if isinstance(model, Llama):
        check_table(folder, model.vocabulary, said)


def layout_of(tokenizer: Tokenizer, size: int) -> Layout:
    """How frames of `size` pixels become sequences."""
    side = size // tokenizer.downsample
    if isinstance(tokenizer, Patches):
        return PatchGrid(tokenizer.downsample, side, side)
    return Vocabulary(tokenizer.codebook_size, side, side)
