"""The continuous tokenizer: frames stay pixels, and the model cuts them into patches."""

from jaxtyping import UInt8
from torch import Tensor

from toto.tokenizers.base import TokenizerModule
from toto.tokenizers.sizes import PatchesSize, Precision


class Patches(TokenizerModule):
    """What is stored of frames are the frames; normalising and embedding are the model's.

    It has no weights, and no codes: its codebook is empty.
    """

    kind = "patches"
    size_kind = PatchesSize

    def __init__(self, size: PatchesSize, precision: Precision = "fp32") -> None:
        # Nothing is computed: in every precision it is the same tokenizer.
        super().__init__(size, "fp32")

    def to_codes(self, frames: UInt8[Tensor, "n 3 height width"]) -> Tensor:
        return frames

    def to_frames(self, codes: UInt8[Tensor, "n 3 height width"]) -> Tensor:
        return codes
