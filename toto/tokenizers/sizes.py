"""The shapes of the tokenizers, and what they compute in."""

from dataclasses import dataclass
from typing import Literal

Precision = Literal["fp32", "bf16"]


@dataclass(frozen=True, kw_only=True)
class DVAESize:
    """The shape of a discrete VAE; the defaults are DALL-E's (openai/DALL-E: dall_e/encoder.py)."""

    codebook_size: int = 8192
    """number of codes"""
    width: int = 256
    """channels of the first group of blocks; each further group doubles them"""
    groups: int = 4
    """groups of blocks; the resolution halves between them"""
    blocks: int = 2
    """residual blocks in each group"""
    decoder_input: int = 128
    """channels that the decoder embeds a code into"""
    patch: int = 1
    """side of the pixel patches that are folded into channels before the first convolution"""

    @property
    def downsample(self) -> int:
        """Pixels per code along one side."""
        return self.patch * 2 ** (self.groups - 1)
