"""What `toto.load` returns: a model that reads videos."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from toto.config import from_dict
from toto.errors import UserError, at_least
from toto.generation.continuation import continue_codes
from toto.generation.sampling import Sampling
from toto.media.video import read_clip, read_frames
from toto.media.view import View
from toto.models.llama import Llama
from toto.models.saved import check_table, load_model, saved_in
from toto.probing.encoder import TokenEncoder
from toto.probing.features import pick_layers
from toto.tokenizers.base import Tokenizer, load_tokenizer
from toto.tokens.vocabulary import Vocabulary
from toto.training.device import pick_device

Video = str | Path | UInt8[np.ndarray, "frames 3 height width"]


class Toto:
    """A saved model and its tokenizer.

    A video is a path, or frames: uint8 `(frames, 3, height, width)`, of which nothing is skipped.
    """

    def __init__(
        self, folder: Path, model: Llama, tokenizer: Tokenizer, details: dict[str, Any]
    ) -> None:
        layout = details["vocabulary"]
        self.folder, self.model, self.tokenizer = folder, model, tokenizer
        self.vocabulary = Vocabulary(layout["codebook_size"], *layout["grid"])
        self.frames: int = details["frames"]
        """frames of the longest clip that the model reads"""
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
    def encoder(self) -> TokenEncoder:
        """What probes read."""
        return TokenEncoder(self.model)

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return next(self.model.parameters()).device

    def tokenize(self, video: Video) -> Int[Tensor, "frames rows cols"]:
        """Codes of all kept frames.

        Raises:
            toto.errors.MediaError: the file cannot be read.
        """
        if isinstance(video, np.ndarray):
            return self._encode(video)
        return torch.cat([self._encode(part) for part in read_frames(str(video), self.view)])

    def features(
        self, video: Video, layers: str = "all"
    ) -> dict[int, Float[Tensor, "positions channels"]]:
        """Hidden states of the first clip's codes, in raster order, by layer.

        Args:
            video: its first `self.frames` kept frames are read.
            layers: "all", numbers ("0,4,8"), or a depth between 0 and 1 ("0.5").
        """
        codes = self._clip(video, self.frames)
        tokens = self.vocabulary.sequence(codes.cpu().numpy(), "video", len(codes))
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
            prompt: how many of the video's first kept frames to read; by default half a clip.
            sampling: how codes are drawn; by default from the model's own distribution.
            on_frame: called after each frame.

        Raises:
            toto.errors.UserError: `frames` or `prompt` is not positive.
            toto.errors.MediaError: the file cannot be read.
        """
        prompt = max(self.frames // 2, 1) if prompt is None else prompt
        if prompt < 1:
            raise UserError(f"prompt {prompt}: at least 1 frame")
        codes = self._clip(video, prompt)
        future = continue_codes(
            self.model,
            self.vocabulary,
            codes[None],
            frames,
            self.frames,
            sampling or Sampling(),
            on_frame,
        )
        return self.tokenizer.decode(future[0]).cpu().numpy()

    def _clip(self, video: Video, frames: int) -> Int[Tensor, "kept rows cols"]:
        if isinstance(video, np.ndarray):
            return self._encode(video[:frames])
        return self._encode(read_clip(str(video), 0, frames, self.view))

    def _encode(self, frames: np.ndarray) -> Int[Tensor, "frames rows cols"]:
        return self.tokenizer.encode(torch.from_numpy(frames).to(self.device))


def _refuse_misfits(
    folder: Path, model: Llama, tokenizer: Tokenizer, details: dict[str, Any]
) -> None:
    """Compare what the key `toto` says with the tokenizer, the table and our layout of tokens."""
    try:
        layout, side = details["vocabulary"], details["view"]["size"] // tokenizer.downsample
        vocabulary = Vocabulary(tokenizer.codebook_size, side, side)
        same = {
            "tokenizer": (details["tokenizer"], tokenizer.fingerprint),
            **{key: (layout[key], value) for key, value in vocabulary.to_dict().items()},
        }
        at_least(1, frames=details["frames"])
    except (KeyError, TypeError) as error:
        raise UserError(f"{folder}/config.json: its key `toto` is damaged: {error!r}") from error
    for what, (said, found) in same.items():
        if said != found:
            raise UserError(
                f"{folder} does not fit its tokenizer: `toto` in config.json says {what} {said}, "
                f"expected is {found}"
            )
    check_table(folder, model.vocabulary, layout)
