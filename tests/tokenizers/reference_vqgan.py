"""A VQGAN from its published layers: names, shapes and sums, and nothing of ours.

CompVis/taming-transformers: taming/modules/diffusionmodules/model.py and
taming/modules/vqvae/quantize.py, as a list of weights and a forward pass by their names.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Shape:
    """What `model.yaml` says."""

    n_embed: int
    embed_dim: int = 256
    ch: int = 128
    ch_mult: tuple[int, ...] = (1, 1, 2, 2, 4)
    num_res_blocks: int = 2
    attn_resolutions: tuple[int, ...] = (16,)
    resolution: int = 256
    z_channels: int = 256

    def attends(self, level: int) -> bool:
        return self.resolution >> level in self.attn_resolutions


def conv(name: str, n_in: int, n_out: int, kernel: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", (n_out, n_in, kernel, kernel)
    yield f"{name}.bias", (n_out,)


def norm(name: str, channels: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", (channels,)
    yield f"{name}.bias", (channels,)


def resnet(name: str, n_in: int, n_out: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield from norm(f"{name}.norm1", n_in)
    yield from conv(f"{name}.conv1", n_in, n_out, 3)
    yield from norm(f"{name}.norm2", n_out)
    yield from conv(f"{name}.conv2", n_out, n_out, 3)
    if n_in != n_out:
        yield from conv(f"{name}.nin_shortcut", n_in, n_out, 1)


def attention(name: str, channels: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield from norm(f"{name}.norm", channels)
    for part in ("q", "k", "v", "proj_out"):
        yield from conv(f"{name}.{part}", channels, channels, 1)


def middle(name: str, channels: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield from resnet(f"{name}.mid.block_1", channels, channels)
    yield from attention(f"{name}.mid.attn_1", channels)
    yield from resnet(f"{name}.mid.block_2", channels, channels)


def layers(shape: Shape) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Every weight's name and shape."""
    levels = len(shape.ch_mult)
    lowest = shape.ch * shape.ch_mult[-1]
    yield from conv("encoder.conv_in", 3, shape.ch, 3)
    n_in = shape.ch
    for i, multiplier in enumerate(shape.ch_mult):
        for j in range(shape.num_res_blocks):
            n_out = shape.ch * multiplier
            yield from resnet(f"encoder.down.{i}.block.{j}", n_in, n_out)
            n_in = n_out
            if shape.attends(i):
                yield from attention(f"encoder.down.{i}.attn.{j}", n_in)
        if i < levels - 1:
            yield from conv(f"encoder.down.{i}.downsample.conv", n_in, n_in, 3)
    yield from middle("encoder", lowest)
    yield from norm("encoder.norm_out", lowest)
    yield from conv("encoder.conv_out", lowest, shape.z_channels, 3)
    yield from conv("quant_conv", shape.z_channels, shape.embed_dim, 1)
    yield "quantize.embedding.weight", (shape.n_embed, shape.embed_dim)
    yield from conv("post_quant_conv", shape.embed_dim, shape.z_channels, 1)
    yield from conv("decoder.conv_in", shape.z_channels, lowest, 3)
    yield from middle("decoder", lowest)
    n_in = lowest
    for i in reversed(range(levels)):
        for j in range(shape.num_res_blocks + 1):
            n_out = shape.ch * shape.ch_mult[i]
            yield from resnet(f"decoder.up.{i}.block.{j}", n_in, n_out)
            n_in = n_out
            if shape.attends(i):
                yield from attention(f"decoder.up.{i}.attn.{j}", n_in)
        if i:
            yield from conv(f"decoder.up.{i}.upsample.conv", n_in, n_in, 3)
    yield from norm("decoder.norm_out", n_in)
    yield from conv("decoder.conv_out", n_in, 3, 3)


def random_weights(shape: Shape, seed: int = 0) -> Weights:
    """Weights that neither vanish nor explode, the norms' and biases' not at rest."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, size in layers(shape):
        drawn = torch.randn(size, generator=generator)
        if len(size) == 4:
            drawn /= (size[1] * size[2] * size[3]) ** 0.5
        elif len(size) == 1:
            drawn = 0.1 * drawn + ("norm" in name and name.endswith("weight"))
        weights[name] = drawn
    return weights


class Reference:
    """The forward pass, by names alone; `unit` is LlamaGen's: codes of length 1."""

    def __init__(self, shape: Shape, weights: Weights, unit: bool = False) -> None:
        self.shape, self.w, self.unit = shape, weights, unit

    def conv(self, name: str, x: Tensor, **how: int) -> Tensor:
        w = self.w[f"{name}.weight"]
        how = how or {"padding": (w.shape[-1] - 1) // 2}
        return F.conv2d(x, w, self.w[f"{name}.bias"], **how)

    def norm(self, name: str, x: Tensor) -> Tensor:
        groups = x.reshape(len(x), 32, -1)
        mean = groups.mean(2, keepdim=True)
        variance = ((groups - mean) ** 2).mean(2, keepdim=True)
        y = ((groups - mean) / (variance + 1e-6) ** 0.5).reshape(x.shape)
        w, b = self.w[f"{name}.weight"], self.w[f"{name}.bias"]
        return y * w[:, None, None] + b[:, None, None]

    def active(self, name: str, x: Tensor) -> Tensor:
        y = self.norm(name, x)
        return y * torch.sigmoid(y)

    def resnet(self, name: str, x: Tensor) -> Tensor:
        h = self.conv(f"{name}.conv1", self.active(f"{name}.norm1", x))
        h = self.conv(f"{name}.conv2", self.active(f"{name}.norm2", h))
        shortcut = f"{name}.nin_shortcut"
        return h + (self.conv(shortcut, x) if f"{shortcut}.weight" in self.w else x)

    def attention(self, name: str, x: Tensor) -> Tensor:
        h = self.norm(f"{name}.norm", x)
        q, k, v = (self.conv(f"{name}.{part}", h).flatten(2) for part in "qkv")
        scores = torch.einsum("bci,bcj->bij", q, k) * q.shape[1] ** -0.5
        h = torch.einsum("bij,bcj->bci", scores.softmax(2), v).reshape(x.shape)
        return x + self.conv(f"{name}.proj_out", h)

    def level(self, name: str, x: Tensor) -> Tensor:
        j = 0
        while f"{name}.block.{j}.conv1.weight" in self.w:
            x = self.resnet(f"{name}.block.{j}", x)
            if f"{name}.attn.{j}.q.weight" in self.w:
                x = self.attention(f"{name}.attn.{j}", x)
            j += 1
        return x

    def middle(self, name: str, x: Tensor) -> Tensor:
        x = self.attention(f"{name}.mid.attn_1", self.resnet(f"{name}.mid.block_1", x))
        return self.resnet(f"{name}.mid.block_2", x)

    def codebook(self) -> Tensor:
        e = self.w["quantize.embedding.weight"]
        return e / e.norm(dim=1, keepdim=True) if self.unit else e

    def encode(self, frames: Tensor) -> Tensor:
        x = self.conv("encoder.conv_in", frames.float() / 127.5 - 1)
        levels = len(self.shape.ch_mult)
        for i in range(levels):
            x = self.level(f"encoder.down.{i}", x)
            if i < levels - 1:
                x = F.pad(x, (0, 1, 0, 1))
                x = self.conv(f"encoder.down.{i}.downsample.conv", x, stride=2)
        x = self.active("encoder.norm_out", self.middle("encoder", x))
        z = self.conv("quant_conv", self.conv("encoder.conv_out", x)).movedim(1, -1)
        if self.unit:
            z = z / z.norm(dim=-1, keepdim=True)
        e = self.codebook()
        distances = (z**2).sum(-1, keepdim=True) + (e**2).sum(1) - 2 * z @ e.T
        return distances.argmin(-1)

    def decode(self, codes: Tensor) -> Tensor:
        x = self.conv("post_quant_conv", self.codebook()[codes].movedim(-1, 1))
        x = self.middle("decoder", self.conv("decoder.conv_in", x))
        for i in reversed(range(len(self.shape.ch_mult))):
            x = self.level(f"decoder.up.{i}", x)
            if i:
                x = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
                x = self.conv(f"decoder.up.{i}.upsample.conv", x)
        x = self.conv("decoder.conv_out", self.active("decoder.norm_out", x))
        return (x.clamp(-1, 1) + 1) * 127.5
