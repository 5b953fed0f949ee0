"""The shapes of the tokenizers, and what they compute in."""

from dataclasses import dataclass
from math import prod
from typing import Literal

from toto.errors import UserError, at_least, within

Precision = Literal["fp32", "bf16"]

MOST_CODES = 2**16  # that a stored code, uint16, tells apart


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

    def __post_init__(self) -> None:
        within(1, MOST_CODES, codebook_size=self.codebook_size)
        at_least(4, width=self.width)  # a block's bottleneck is a quarter of it
        at_least(
            1,
            groups=self.groups,
            blocks=self.blocks,
            decoder_input=self.decoder_input,
            patch=self.patch,
        )

    @property
    def downsample(self) -> int:
        """Pixels per code along one side."""
        return self.patch * 2 ** (self.groups - 1)


@dataclass(frozen=True, kw_only=True)
class VQGANSize:
    """The shape of a VQGAN; the defaults are CompVis' f16 (taming-transformers: configs)."""

    codebook_size: int = 1024
    """number of codes"""
    levels: tuple[int, ...] = ()
    """values of each channel of a finite-scalar quantiser, whose product is codebook_size; empty:
    codes are vectors that are learned"""
    code_width: int = 256
    """channels of a code that is a vector"""
    unit_codes: bool = False
    """codes, and what is compared with them, have length 1"""
    latent_width: int = 256
    """channels between the encoder and the codes"""
    width: int = 128
    """channels at full resolution"""
    multipliers: tuple[int, ...] = (1, 1, 2, 2, 4)
    """channels at each resolution in widths; each next resolution is half the one before"""
    blocks: int = 2
    """residual blocks of the encoder at each resolution; the decoder has one more"""
    attention: tuple[int, ...] = (4,)
    """resolutions whose blocks are followed by attention, 0 the full one"""
    norm_groups: int = 32
    """groups of channels that are normalised together"""
    patch: int = 1
    """side of the pixel patches that are folded into channels before the first convolution"""

    def __post_init__(self) -> None:
        within(1, MOST_CODES, codebook_size=self.codebook_size)
        at_least(3, levels=min(self.levels, default=3))
        at_least(
            1,
            code_width=self.code_width,
            latent_width=self.latent_width,
            width=self.width,
            multipliers=min(self.multipliers, default=0),
            blocks=self.blocks,
            norm_groups=self.norm_groups,
            patch=self.patch,
        )
        if self.levels and prod(self.levels) != self.codebook_size:
            raise UserError(
                f"levels {' '.join(map(str, self.levels))} make {prod(self.levels)} codes, not "
                f"codebook_size {self.codebook_size}"
            )
        for multiplier in (1, *self.multipliers):
            if multiplier * self.width % self.norm_groups:
                raise UserError(
                    f"width {self.width} x {multiplier} is no multiple of norm_groups "
                    f"{self.norm_groups}"
                )

    @property
    def downsample(self) -> int:
        """Pixels per code along one side."""
        return self.patch * 2 ** (len(self.multipliers) - 1)


@dataclass(frozen=True, kw_only=True)
class PatchesSize:
    """The shape of patches, the continuous tokenizer."""

    patch: int = 8
    """side of a patch in pixels"""

    def __post_init__(self) -> None:
        at_least(1, patch=self.patch)

    @property
    def codebook_size(self) -> int:
        """There are no codes."""
        return 0

    @property
    def downsample(self) -> int:
        """Pixels per patch along one side."""
        return self.patch
