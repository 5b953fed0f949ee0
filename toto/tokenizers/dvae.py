"""DALL-E's discrete VAE (Ramesh et al. 2021; openai/DALL-E: dall_e/{encoder,decoder,utils}.py).

Module and parameter names are those of the official release, so that its weights load as they are.
"""

import math
from collections import OrderedDict
from typing import cast

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from toto.tokenizers.base import TokenizerModule
from toto.tokenizers.sizes import DVAESize, Precision

# Pixels are squeezed into [EPSILON, 1 - EPSILON], where the logit-Laplace density is defined.
EPSILON = 0.1

# Places whose logits over the codes are computed at once: 32 MiB at 8,192 codes.
PLACES = 1024


class Conv2d(nn.Module):
    """Convolution of stride 1 with zero padding; `fp32` keeps it so under autocast.

    With `upsample`, of the input with each pixel repeated to 2x2, which for one of 1x1 is its own
    output repeated, at a quarter of the work.
    """

    def __init__(
        self, n_in: int, n_out: int, kw: int, fp32: bool = False, upsample: bool = False
    ) -> None:
        super().__init__()
        self.kw, self.fp32, self.upsample = kw, fp32, upsample
        self.w = nn.Parameter(torch.empty(n_out, n_in, kw, kw))
        self.b = nn.Parameter(torch.zeros(n_out))
        nn.init.normal_(self.w, std=(n_in * kw**2) ** -0.5)

    def forward(self, x: Tensor) -> Tensor:
        if self.fp32:
            with torch.autocast(x.device.type, enabled=False):
                return F.conv2d(x.float(), self.w, self.b, padding=self.kw // 2)
        x = F.conv2d(x, self.w, self.b, padding=self.kw // 2)
        return F.interpolate(x, scale_factor=2) if self.upsample else x


class ResidualBlock(nn.Module):
    """Four convolutions of the given kernel sizes on a quarter of the channels, and a skip."""

    def __init__(
        self, n_in: int, n_out: int, n_layers: int, kernels: tuple[int, ...], upsample: bool = False
    ) -> None:
        super().__init__()
        hidden = n_out // 4
        widths = (n_in, hidden, hidden, hidden, n_out)
        self.post_gain = 1 / n_layers**2
        widen = Conv2d(n_in, n_out, 1, upsample=upsample) if n_in != n_out else nn.Identity()
        self.id_path = widen
        path: OrderedDict[str, nn.Module] = OrderedDict()
        for i, kw in enumerate(kernels, 1):
            path[f"relu_{i}"] = nn.ReLU(inplace=i > 1)  # the skip reads what the first one reads
            path[f"conv_{i}"] = Conv2d(widths[i - 1], widths[i], kw, upsample=upsample and i == 1)
        self.res_path = nn.Sequential(path)

    def forward(self, x: Tensor) -> Tensor:
        return torch.add(self.id_path(x), self.res_path(x), alpha=self.post_gain)


def _group(
    widths: tuple[int, int], size: DVAESize, kernels: tuple[int, ...], upsample: bool = False
) -> OrderedDict[str, nn.Module]:
    n_layers = size.groups * size.blocks
    first = ResidualBlock(*widths, n_layers, kernels, upsample)
    blocks: OrderedDict[str, nn.Module] = OrderedDict(block_1=first)
    for i in range(2, size.blocks + 1):
        blocks[f"block_{i}"] = ResidualBlock(widths[1], widths[1], n_layers, kernels)
    return blocks


class Encoder(nn.Module):
    """Mapped pixels `(n, 3, height, width)` to logits over the codes `(n, codes, rows, cols)`."""

    def __init__(self, size: DVAESize) -> None:
        super().__init__()
        widths = [size.width * 2**i for i in range(size.groups)]
        blocks: OrderedDict[str, nn.Module] = OrderedDict()
        blocks["input"] = Conv2d(3 * size.patch**2, size.width, 7 if size.patch == 1 else 3)
        for i, n_out in enumerate(widths):
            group = _group((widths[max(i - 1, 0)], n_out), size, (3, 3, 3, 1))
            if n_out != widths[-1]:
                group["pool"] = nn.MaxPool2d(2)
            blocks[f"group_{i + 1}"] = nn.Sequential(group)
        output = Conv2d(widths[-1], size.codebook_size, 1, fp32=True)
        blocks["output"] = nn.Sequential(OrderedDict(relu=nn.ReLU(inplace=True), conv=output))
        self.patch = size.patch
        self.blocks = nn.Sequential(blocks)

    @property
    def output(self) -> Conv2d:
        """The last convolution."""
        return cast(Conv2d, self.get_submodule("blocks.output.conv"))

    def features(self, x: Tensor) -> Float[Tensor, "n rows cols channels"]:
        """What the last convolution reads."""
        return F.relu(self.blocks[:-1](self._fold(x))).movedim(1, -1)

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(self._fold(x))

    def codes(self, x: Tensor) -> Int[Tensor, "n rows cols"]:
        """The most likely code at each place.

        The logits of all places, 8 MiB for each frame of 128 px at DALL-E's size, never exist at
        once.
        """
        features, output = self.features(x), self.output
        with torch.autocast(x.device.type, enabled=False):
            places = features.float().flatten(0, 2).split(PLACES)
            codes = [F.linear(some, output.w.flatten(1), output.b).argmax(1) for some in places]
        return torch.cat(codes).view(features.shape[:-1])

    def _fold(self, x: Tensor) -> Tensor:
        # Channels last is what the convolution kernels want: 1.3x on a CPU.
        return F.pixel_unshuffle(x, self.patch).contiguous(memory_format=torch.channels_last)


class Decoder(nn.Module):
    """Weights over the codes `(n, codes, rows, cols)` to `(n, 6, height, width)`.

    The first three channels are the means, the last three the log scales of the likelihood.
    """

    def __init__(self, size: DVAESize) -> None:
        super().__init__()
        widths = [size.width * 2**i for i in reversed(range(size.groups))]
        blocks: OrderedDict[str, nn.Module] = OrderedDict()
        blocks["input"] = Conv2d(size.codebook_size, size.decoder_input, 1, fp32=True)
        for i, n_out in enumerate(widths):
            n_in = widths[i - 1] if i else size.decoder_input
            group = _group((n_in, n_out), size, (1, 3, 3, 3), upsample=i > 0)
            blocks[f"group_{i + 1}"] = nn.Sequential(group)
        output = Conv2d(size.width, 6 * size.patch**2, 1)
        blocks["output"] = nn.Sequential(OrderedDict(relu=nn.ReLU(inplace=True), conv=output))
        self.patch = size.patch
        self.blocks = nn.Sequential(blocks)

    def forward(self, z: Tensor) -> Tensor:
        z = z.contiguous(memory_format=torch.channels_last)
        return F.pixel_shuffle(self.blocks(z), self.patch)

    def of_codes(self, codes: Int[Tensor, "n rows cols"]) -> Tensor:
        """What `forward` gives for certain codes, whose convolution picks one column of weights."""
        first = cast(Conv2d, self.blocks.get_submodule("input"))
        x = F.embedding(codes, first.w.flatten(1).T) + first.b
        return F.pixel_shuffle(self.blocks[1:](x.movedim(-1, 1)), self.patch)


class DVAE(TokenizerModule):
    """Encoder and decoder as a tokenizer."""

    kind, size_kind = "dvae", DVAESize

    def __init__(self, size: DVAESize, precision: Precision = "fp32") -> None:
        super().__init__(size, precision)
        self.encoder, self.decoder = Encoder(size), Decoder(size)

    @torch.no_grad()
    def init_codes(self, frames: UInt8[Tensor, "n 3 height width"], rounds: int = 10) -> None:
        """Begin with codes that tell these frames' patches apart: k-means of the features.

        A code's logit becomes the scaled distance to its centroid. From random weights a small run
        spends most of its steps on finding codes that are used at all.
        """
        output = self.encoder.output
        features = self.encoder.features(to_mapped(frames)).flatten(0, 2)
        centroids, error = kmeans(features, self.codebook_size, rounds)
        output.w.copy_((centroids / error)[:, :, None, None])
        output.b.copy_(-centroids.square().sum(1) / (2 * error))

    def to_codes(self, frames: UInt8[Tensor, "n 3 height width"]) -> Int[Tensor, "n rows cols"]:
        return self.encoder.codes(to_mapped(frames))

    def to_frames(self, codes: Int[Tensor, "n rows cols"]) -> UInt8[Tensor, "n 3 height width"]:
        """The mean image of each frame's codes."""
        return to_frames(self.decoder.of_codes(codes.long()))


def to_mapped(frames: UInt8[Tensor, "n 3 height width"]) -> Float[Tensor, "n 3 height width"]:
    """8-bit pixels to the interval of the logit-Laplace likelihood."""
    return (1 - 2 * EPSILON) / 255 * frames.float() + EPSILON


def to_frames(statistics: Float[Tensor, "n 6 height width"]) -> UInt8[Tensor, "n 3 height width"]:
    """The decoder's output to 8-bit pixels: the likelihood's means, unmapped."""
    pixels = (torch.sigmoid(statistics[:, :3].float()) - EPSILON) / (1 - 2 * EPSILON)
    return (pixels.clamp(0, 1) * 255).round().to(torch.uint8)


def logit_laplace_nll(
    mapped: Float[Tensor, "n 3 height width"],
    statistics: Float[Tensor, "n 6 height width"],
    least_log_scale: float,
) -> Float[Tensor, ""]:
    """Mean negative log likelihood of a pixel's channel (Ramesh et al. 2021, appendix A.3), nats.

    Log scales are held at `least_log_scale` or above, since the density of a pixel that is
    predicted exactly has no upper bound.
    """
    mean, log_scale = statistics.float().chunk(2, dim=1)
    log_scale = log_scale.clamp(min=least_log_scale)
    distance = (torch.logit(mapped) - mean).abs() * torch.exp(-log_scale)
    jacobian = torch.log(mapped) + torch.log1p(-mapped)
    return (math.log(2) + log_scale + jacobian + distance).mean()


def kl_to_uniform(logits: Float[Tensor, "n codes rows cols"]) -> Float[Tensor, ""]:
    """KL from each place's posterior to the uniform prior, mean over places, nats."""
    log_q = F.log_softmax(logits, dim=1)
    return (log_q.exp() * log_q).sum(1).mean() + math.log(logits.shape[1])


def usage_kl(logits: Float[Tensor, "n codes rows cols"]) -> Float[Tensor, ""]:
    """KL from a batch's mean posterior to the uniform prior: how unevenly codes are used; nats."""
    usage = F.softmax(logits, dim=1).mean(dim=(0, 2, 3))
    return (usage * torch.log(usage + 1e-12)).sum() + math.log(logits.shape[1])


def kmeans(
    points: Float[Tensor, "n c"], count: int, rounds: int
) -> tuple[Float[Tensor, "count c"], float]:
    """Centroids by Lloyd's rounds from k-means++ seeds, and the mean squared distance to them."""
    centroids = points[:1]
    nearest = (points - centroids).square().sum(1)
    while len(centroids) < count:
        # Several seeds a turn, each far from those of the turns before.
        drawn = torch.multinomial(nearest + 1e-12, min(count - len(centroids), 16))
        centroids = torch.cat((centroids, points[drawn]))
        nearest = torch.minimum(nearest, torch.cdist(points, points[drawn]).square().amin(1))
    for _ in range(rounds):
        distances, owner = torch.cdist(points, centroids).min(1)
        members = torch.bincount(owner, minlength=count)
        sums = torch.zeros_like(centroids).index_add_(0, owner, points)
        means = sums / members.clamp(min=1)[:, None]
        centroids = torch.where(members[:, None] > 0, means, centroids)
    return centroids, float(distances.square().mean().clamp(min=1e-8))
