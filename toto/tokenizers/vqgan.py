"""VQGAN (Esser et al. 2021; CompVis/taming-transformers: taming/modules/diffusionmodules/model.py).

Module and parameter names are those of the official code, so that its weights load as they are.
"""

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from toto.tokenizers.base import TokenizerModule
from toto.tokenizers.quantise import ScalarQuantizer, VectorQuantizer
from toto.tokenizers.sizes import Precision, VQGANSize


def _conv(n_in: int, n_out: int, kernel: int = 3) -> nn.Conv2d:
    return nn.Conv2d(n_in, n_out, kernel, padding=kernel // 2)


def _norm(channels: int, size: VQGANSize) -> nn.GroupNorm:
    return nn.GroupNorm(size.norm_groups, channels, eps=1e-6)


class ResnetBlock(nn.Module):
    """Two convolutions, each after a norm and a swish, and a skip."""

    def __init__(self, n_in: int, n_out: int, size: VQGANSize) -> None:
        super().__init__()
        self.norm1, self.conv1 = _norm(n_in, size), _conv(n_in, n_out)
        self.norm2, self.conv2 = _norm(n_out, size), _conv(n_out, n_out)
        if n_in != n_out:
            self.nin_shortcut = _conv(n_in, n_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x) + h


class AttnBlock(nn.Module):
    """Attention among all places of a frame, with one head, and a skip."""

    def __init__(self, channels: int, size: VQGANSize) -> None:
        super().__init__()
        self.norm = _norm(channels, size)
        self.q, self.k, self.v = (_conv(channels, channels, 1) for _ in range(3))
        self.proj_out = _conv(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        q, k, v = (f(h).flatten(2).transpose(1, 2).unsqueeze(1) for f in (self.q, self.k, self.v))
        h = F.scaled_dot_product_attention(q, k, v)
        return x + self.proj_out(h.squeeze(1).transpose(1, 2).reshape(x.shape))


class Downsample(nn.Module):
    """A convolution of stride 2; zeros are added to the right and below alone."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Each place four times, and a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = _conv(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Level(nn.Module):
    """The residual blocks of one resolution, with attention if it has any, and the way to the next.

    `resample` is `downsample` or `upsample`, or nothing at the last one.
    """

    def __init__(
        self,
        widths: tuple[int, int],
        blocks: int,
        attends: bool,
        size: VQGANSize,
        **resample: nn.Module,
    ) -> None:
        super().__init__()
        n_in, n_out = widths
        self.block = nn.ModuleList(
            ResnetBlock(n_out if i else n_in, n_out, size) for i in range(blocks)
        )
        self.attn = nn.ModuleList(AttnBlock(n_out, size) for _ in range(blocks if attends else 0))
        for name, module in resample.items():
            self.add_module(name, module)
        self.resample = tuple(resample)

    def forward(self, x: Tensor) -> Tensor:
        for i, block in enumerate(self.block):
            x = block(x)
            if self.attn:
                x = self.attn[i](x)
        for name in self.resample:
            x = self.get_submodule(name)(x)
        return x


class Middle(nn.Module):
    """Attention between two residual blocks, at the lowest resolution."""

    def __init__(self, channels: int, size: VQGANSize) -> None:
        super().__init__()
        self.block_1 = ResnetBlock(channels, channels, size)
        self.attn_1 = AttnBlock(channels, size)
        self.block_2 = ResnetBlock(channels, channels, size)

    def forward(self, x: Tensor) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(x)))


class Encoder(nn.Module):
    """Pixels in [-1, 1] `(n, 3, height, width)` to `(n, latent_width, rows, cols)`."""

    def __init__(self, size: VQGANSize) -> None:
        super().__init__()
        widths = [size.width * multiplier for multiplier in size.multipliers]
        self.patch = size.patch
        self.conv_in = _conv(3 * size.patch**2, size.width)
        self.down = nn.ModuleList()
        for i, n_out in enumerate(widths):
            last = i == len(widths) - 1
            resample = {} if last else {"downsample": Downsample(n_out)}
            n_in = widths[i - 1] if i else size.width
            attends = i in size.attention
            self.down.append(Level((n_in, n_out), size.blocks, attends, size, **resample))
        self.mid = Middle(widths[-1], size)
        self.norm_out = _norm(widths[-1], size)
        self.conv_out = _conv(widths[-1], size.latent_width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(F.pixel_unshuffle(x, self.patch))
        for level in self.down:
            x = level(x)
        return self.conv_out(F.silu(self.norm_out(self.mid(x))))


class Decoder(nn.Module):
    """`(n, latent_width, rows, cols)` to pixels around [-1, 1] `(n, 3, height, width)`."""

    def __init__(self, size: VQGANSize) -> None:
        super().__init__()
        widths = [size.width * multiplier for multiplier in size.multipliers]
        self.patch = size.patch
        self.conv_in = _conv(size.latent_width, widths[-1])
        self.mid = Middle(widths[-1], size)
        # In the order of the resolutions, of which the last comes first.
        self.up = nn.ModuleList()
        for i, n_out in enumerate(widths):
            n_in = widths[min(i + 1, len(widths) - 1)]
            resample = {"upsample": Upsample(n_out)} if i else {}
            attends = i in size.attention
            self.up.append(Level((n_in, n_out), size.blocks + 1, attends, size, **resample))
        self.norm_out = _norm(widths[0], size)
        self.conv_out = _conv(widths[0], 3 * size.patch**2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.mid(self.conv_in(x))
        for level in reversed(self.up):
            x = level(x)
        return F.pixel_shuffle(self.conv_out(F.silu(self.norm_out(x))), self.patch)


class VQGAN(TokenizerModule):
    """Encoder, quantiser and decoder as a tokenizer."""

    kind, size_kind = "vqgan", VQGANSize

    def __init__(self, size: VQGANSize, precision: Precision = "fp32") -> None:
        super().__init__(size, precision)
        self.encoder, self.decoder = Encoder(size), Decoder(size)
        self.quantize: VectorQuantizer | ScalarQuantizer = (
            ScalarQuantizer(size.levels)
            if size.levels
            else VectorQuantizer(size.codebook_size, size.code_width, size.unit_codes)
        )
        self.quant_conv = _conv(size.latent_width, self.quantize.width, 1)
        self.post_quant_conv = _conv(self.quantize.width, size.latent_width, 1)

    def forward(
        self, pixels: Float[Tensor, "n 3 height width"]
    ) -> tuple[Float[Tensor, "n 3 height width"], Tensor, Tensor]:
        """Pixels in [-1, 1] as they come back, and the quantiser's two losses."""
        quantised, commitment, following = self.quantize(self.latents(pixels))
        return self.decoder(self.post_quant_conv(quantised)), commitment, following

    def latents(self, pixels: Float[Tensor, "n 3 height width"]) -> Float[Tensor, "n c rows cols"]:
        """What is quantised of pixels in [-1, 1]."""
        return self.quant_conv(self.encoder(pixels))

    def to_codes(self, frames: UInt8[Tensor, "n 3 height width"]) -> Int[Tensor, "n rows cols"]:
        return self.quantize.codes(self.latents(to_signed(frames)))

    def to_frames(self, codes: Int[Tensor, "n rows cols"]) -> UInt8[Tensor, "n 3 height width"]:
        vectors = self.quantize.vectors(codes.long())
        return from_signed(self.decoder(self.post_quant_conv(vectors)))


def to_signed(frames: UInt8[Tensor, "n 3 height width"]) -> Float[Tensor, "n 3 height width"]:
    """8-bit pixels to [-1, 1]."""
    return frames.float() / 127.5 - 1


def from_signed(pixels: Float[Tensor, "n 3 height width"]) -> UInt8[Tensor, "n 3 height width"]:
    """Pixels around [-1, 1], clamped to it, to 8 bits."""
    return ((pixels.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
