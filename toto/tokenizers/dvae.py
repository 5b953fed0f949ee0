"""DALL-E's discrete VAE (Ramesh et al. 2021; openai/DALL-E: dall_e/{encoder,decoder,utils}.py).

Module and parameter names are those of the official release, so that its weights load as they are.
"""

import math
from collections import OrderedDict
from functools import cached_property
from pathlib import Path
from typing import cast

import torch
from jaxtyping import Float, Int, UInt8
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from toto.config import fingerprint, from_dict, read_json, to_dict, write_json
from toto.errors import UserError
from toto.models.saved import weights_fingerprint
from toto.tokenizers.sizes import DVAESize

# Pixels are squeezed into [EPSILON, 1 - EPSILON], where the logit-Laplace density is defined.
EPSILON = 0.1


class Conv2d(nn.Module):
    """Convolution of stride 1 with zero padding; `fp32` keeps it so under autocast."""

    def __init__(self, n_in: int, n_out: int, kw: int, fp32: bool = False) -> None:
        super().__init__()
        self.kw, self.fp32 = kw, fp32
        self.w = nn.Parameter(torch.empty(n_out, n_in, kw, kw))
        self.b = nn.Parameter(torch.zeros(n_out))
        nn.init.normal_(self.w, std=(n_in * kw**2) ** -0.5)

    def forward(self, x: Tensor) -> Tensor:
        if self.fp32:
            with torch.autocast(x.device.type, enabled=False):
                return F.conv2d(x.float(), self.w, self.b, padding=self.kw // 2)
        return F.conv2d(x, self.w, self.b, padding=self.kw // 2)


class ResidualBlock(nn.Module):
    """Four convolutions of the given kernel sizes on a quarter of the channels, and a skip."""

    def __init__(self, n_in: int, n_out: int, n_layers: int, kernels: tuple[int, ...]) -> None:
        super().__init__()
        hidden = n_out // 4
        widths = (n_in, hidden, hidden, hidden, n_out)
        self.post_gain = 1 / n_layers**2
        self.id_path = Conv2d(n_in, n_out, 1) if n_in != n_out else nn.Identity()
        path: OrderedDict[str, nn.Module] = OrderedDict()
        for i, kw in enumerate(kernels, 1):
            path[f"relu_{i}"] = nn.ReLU()
            path[f"conv_{i}"] = Conv2d(widths[i - 1], widths[i], kw)
        self.res_path = nn.Sequential(path)

    def forward(self, x: Tensor) -> Tensor:
        return self.id_path(x) + self.post_gain * self.res_path(x)


def _group(
    widths: tuple[int, int], size: DVAESize, kernels: tuple[int, ...], resample: dict
) -> nn.Sequential:
    n_layers = size.groups * size.blocks
    blocks: OrderedDict[str, nn.Module] = OrderedDict()
    for i in range(1, size.blocks + 1):
        n_in = widths[0] if i == 1 else widths[1]
        blocks[f"block_{i}"] = ResidualBlock(n_in, widths[1], n_layers, kernels)
    return nn.Sequential(blocks | resample)


class Encoder(nn.Module):
    """Mapped pixels `(n, 3, height, width)` to logits over the codes `(n, codes, rows, cols)`."""

    def __init__(self, size: DVAESize) -> None:
        super().__init__()
        widths = [size.width * 2**i for i in range(size.groups)]
        blocks: OrderedDict[str, nn.Module] = OrderedDict()
        blocks["input"] = Conv2d(3 * size.patch**2, size.width, 7 if size.patch == 1 else 3)
        for i, n_out in enumerate(widths):
            last = i == size.groups - 1
            pool = {} if last else {"pool": nn.MaxPool2d(2)}
            group = _group((widths[max(i - 1, 0)], n_out), size, (3, 3, 3, 1), pool)
            blocks[f"group_{i + 1}"] = group
        output = Conv2d(widths[-1], size.codebook_size, 1, fp32=True)
        blocks["output"] = nn.Sequential(OrderedDict(relu=nn.ReLU(), conv=output))
        self.patch = size.patch
        self.blocks = nn.Sequential(blocks)

    def features(self, x: Tensor) -> Tensor:
        """What the last convolution reads, `(n, channels, rows, cols)`."""
        return F.relu(self.blocks[:-1](self._fold(x)))

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(self._fold(x))

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
            last = i == size.groups - 1
            upsample = {} if last else {"upsample": nn.Upsample(scale_factor=2, mode="nearest")}
            blocks[f"group_{i + 1}"] = _group((n_in, n_out), size, (1, 3, 3, 3), upsample)
        output = Conv2d(size.width, 6 * size.patch**2, 1)
        blocks["output"] = nn.Sequential(OrderedDict(relu=nn.ReLU(), conv=output))
        self.patch = size.patch
        self.blocks = nn.Sequential(blocks)

    def forward(self, z: Tensor) -> Tensor:
        z = z.contiguous(memory_format=torch.channels_last)
        return F.pixel_shuffle(self.blocks(z), self.patch)


class DVAE(nn.Module):
    """Encoder and decoder as a tokenizer."""

    def __init__(self, size: DVAESize) -> None:
        super().__init__()
        self.size = size
        self.codebook_size, self.downsample = size.codebook_size, size.downsample
        self.encoder, self.decoder = Encoder(size), Decoder(size)

    @torch.no_grad()
    def init_codes(self, frames: UInt8[Tensor, "n 3 height width"], rounds: int = 10) -> None:
        """Begin with codes that tell these frames' patches apart: k-means of the features.

        A code's logit becomes the scaled distance to its centroid. From random weights a small run
        spends most of its steps on finding codes that are used at all.
        """
        output = cast(Conv2d, self.encoder.get_submodule("blocks.output.conv"))
        features = self.encoder.features(to_mapped(frames)).movedim(1, -1).flatten(0, 2)
        centroids, error = kmeans(features, self.codebook_size, rounds)
        output.w.copy_((centroids / error)[:, :, None, None])
        output.b.copy_(-centroids.square().sum(1) / (2 * error))

    @torch.no_grad()
    def encode(self, frames: UInt8[Tensor, "n 3 height width"]) -> Int[Tensor, "n rows cols"]:
        """The most likely code at each place.

        Raises:
            UserError: the frames' sides are no multiples of `downsample`.
        """
        height, width = frames.shape[-2:]
        if height % self.downsample or width % self.downsample:
            raise UserError(
                f"frames of {height}x{width}: this tokenizer needs multiples of {self.downsample}"
            )
        return self.encoder(to_mapped(frames)).argmax(1)

    @torch.no_grad()
    def decode(self, codes: Int[Tensor, "n rows cols"]) -> UInt8[Tensor, "n 3 height width"]:
        """The mean image of each frame's codes."""
        one_hot = F.one_hot(codes.long(), self.codebook_size).movedim(-1, 1).float()
        return to_frames(self.decoder(one_hot))

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits of weights and configuration: equal codes need equal fingerprints."""
        return fingerprint([to_dict(self.size), weights_fingerprint(self)])

    def save(self, folder: Path) -> None:
        """Write `config.json` and `model.safetensors`."""
        folder.mkdir(parents=True, exist_ok=True)
        weights = {name: value.contiguous().cpu() for name, value in self.state_dict().items()}
        save_file(weights, folder / "model.safetensors")
        config = {"kind": "dvae", "size": to_dict(self.size), "fingerprint": self.fingerprint}
        write_json(folder / "config.json", config)

    @classmethod
    def load(cls, folder: Path) -> "DVAE":
        """Read what `save` wrote.

        Raises:
            UserError: the folder holds no dVAE, or its weights do not fit its configuration.
        """
        config = read_json(folder / "config.json", "a tokenizer")
        tokenizer = cls(from_dict(DVAESize, config.get("size"), f"{folder}/config.json"))
        try:
            tokenizer.load_state_dict(load_file(folder / "model.safetensors"))
        except (OSError, RuntimeError, SafetensorError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"{folder}/model.safetensors does not fit: {reason}") from error
        return tokenizer.eval().requires_grad_(False)


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
