"""What every tokenizer offers, and how one is found in a folder."""

from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Int, UInt8, UInt16
from torch import Tensor

from toto.config import read_json
from toto.errors import unknown


@runtime_checkable
class Tokenizer(Protocol):
    """Frames to codes and back. It lives in a folder with `config.json` and `model.safetensors`."""

    codebook_size: int
    downsample: int

    @property
    def fingerprint(self) -> str:
        """16 hex digits of weights and configuration."""
        ...

    def encode(self, frames: UInt8[Tensor, "n 3 height width"]) -> Int[Tensor, "n rows cols"]:
        """Codes of each frame."""
        ...

    def decode(self, codes: Int[Tensor, "n rows cols"]) -> UInt8[Tensor, "n 3 height width"]:
        """Frames that the codes stand for."""
        ...


def codes_of(
    tokenizer: Tokenizer, frames: UInt8[np.ndarray, "n 3 height width"], device: str
) -> UInt16[np.ndarray, "n rows cols"]:
    """The codes of frames as they are stored; `device` is the tokenizer's."""
    # The precision of a training around it is none of the codes' business.
    with torch.autocast(torch.device(device).type, enabled=False):
        codes = tokenizer.encode(torch.from_numpy(frames).to(device))
    return codes.cpu().numpy().astype(np.uint16)


def load_tokenizer(folder: Path, device: str = "cpu") -> Tokenizer:
    """Open the tokenizer in `folder` on `device`.

    Raises:
        UserError: the folder holds no tokenizer, or one of a kind that is not known.
    """
    from toto.tokenizers.dvae import DVAE

    kinds = {"dvae": DVAE}
    kind = read_json(folder / "config.json", "a tokenizer").get("kind")
    if kind not in kinds:
        raise unknown("kind of tokenizer", str(kind), kinds)
    return kinds[kind].load(folder).to(device)
