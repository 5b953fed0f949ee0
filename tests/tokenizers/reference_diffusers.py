"""The VQModel of diffusers from its published layers, under its own names, and nothing of ours.

huggingface/diffusers: models/autoencoders/{vq_model,vae}.py, models/unets/unet_2d_blocks.py,
models/{resnet,attention_processor}.py. `first` are the names of its first versions.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.tokenizers.reference_vqgan import Shape


class Attention(nn.Module):
    def __init__(self, channels: int, groups: int, first: bool) -> None:
        super().__init__()
        self.group_norm = nn.GroupNorm(groups, channels, eps=1e-6)
        names = ("query", "key", "value") if first else ("to_q", "to_k", "to_v")
        self.products = names
        for name in names:
            setattr(self, name, nn.Linear(channels, channels))
        if first:
            self.proj_attn = nn.Linear(channels, channels)
        else:
            self.to_out = nn.ModuleList([nn.Linear(channels, channels), nn.Dropout(0.0)])

    def forward(self, x: Tensor) -> Tensor:
        n, channels, rows, cols = x.shape
        places = self.group_norm(x.reshape(n, channels, -1)).transpose(1, 2)
        q, k, v = (getattr(self, name)(places) for name in self.products)
        shares = torch.softmax(q @ k.transpose(1, 2) / channels**0.5, dim=-1)
        out = self.proj_attn if hasattr(self, "proj_attn") else self.to_out[0]
        return out(shares @ v).transpose(1, 2).reshape(n, channels, rows, cols) + x


class Resnet(nn.Module):
    def __init__(self, n_in: int, n_out: int, groups: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, n_in, eps=1e-6)
        self.conv1 = nn.Conv2d(n_in, n_out, 3, padding=1)
        self.norm2 = nn.GroupNorm(groups, n_out, eps=1e-6)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(n_in, n_out, 1) if n_in != n_out else None

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return h + (x if self.conv_shortcut is None else self.conv_shortcut(x))


class Sampler(nn.Module):
    def __init__(self, channels: int, up: bool) -> None:
        super().__init__()
        self.up = up
        self.conv = nn.Conv2d(channels, channels, 3, 1 if up else 2, 1 if up else 0)

    def forward(self, x: Tensor) -> Tensor:
        if self.up:
            return self.conv(x.repeat_interleave(2, 2).repeat_interleave(2, 3))
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Block(nn.Module):
    """Residual blocks with attention between them or not, and a sampler or none."""

    def __init__(self, resnets: list, attentions: list, **samplers: Sampler) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(resnets)
        if attentions:
            self.attentions = nn.ModuleList(attentions)
        for name, sampler in samplers.items():
            setattr(self, name, nn.ModuleList([sampler]))
        self.samplers = list(samplers)

    def forward(self, x: Tensor) -> Tensor:
        attentions = getattr(self, "attentions", [])
        for i, resnet in enumerate(self.resnets):
            x = resnet(x)
            if i < len(attentions):
                x = attentions[i](x)
        for name in self.samplers:
            x = getattr(self, name)[0](x)
        return x


class Half(nn.Module):
    """The encoder, or the decoder."""

    def __init__(self, shape: Shape, groups: int, first: bool, decodes: bool) -> None:
        super().__init__()
        channels = [shape.ch * multiplier for multiplier in shape.ch_mult]
        attends = [shape.attends(i) for i in range(len(channels))]
        lowest = channels[-1]
        if decodes:
            channels, attends = channels[::-1], attends[::-1]
        n_in = channels[0]
        self.conv_in = nn.Conv2d(shape.z_channels if decodes else 3, n_in, 3, padding=1)
        middle = [Resnet(lowest, lowest, groups) for _ in range(2)]
        blocks = []
        for i, n_out in enumerate(channels):
            count = shape.num_res_blocks + decodes
            resnets = [Resnet(n_out if j else n_in, n_out, groups) for j in range(count)]
            attentions = [Attention(n_out, groups, first) for _ in range(count * attends[i])]
            name = "upsamplers" if decodes else "downsamplers"
            last = i == len(channels) - 1
            samplers = {} if last else {name: Sampler(n_out, decodes)}
            blocks.append(Block(resnets, attentions, **samplers))
            n_in = n_out
        self.decodes = decodes
        setattr(self, "up_blocks" if decodes else "down_blocks", nn.ModuleList(blocks))
        self.mid_block = Block(middle, [Attention(lowest, groups, first)])
        self.conv_norm_out = nn.GroupNorm(groups, n_in, eps=1e-6)
        self.conv_out = nn.Conv2d(n_in, 3 if decodes else shape.z_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        if self.decodes:
            x = self.mid_block(x)
        for block in self.up_blocks if self.decodes else self.down_blocks:
            x = block(x)
        if not self.decodes:
            x = self.mid_block(x)
        return self.conv_out(F.silu(self.conv_norm_out(x)))


class VQModel(nn.Module):
    def __init__(self, shape: Shape, groups: int = 32, first: bool = False) -> None:
        super().__init__()
        self.shape, self.groups = shape, groups
        self.encoder = Half(shape, groups, first, decodes=False)
        self.quant_conv = nn.Conv2d(shape.z_channels, shape.embed_dim, 1)
        self.quantize = nn.Module()
        self.quantize.embedding = nn.Embedding(shape.n_embed, shape.embed_dim)
        self.post_quant_conv = nn.Conv2d(shape.embed_dim, shape.z_channels, 1)
        self.decoder = Half(shape, groups, first, decodes=True)
        for name, value in self.named_parameters():
            if "norm" in name:
                nn.init.normal_(value, float(name.endswith("weight")), 0.1)
        self.requires_grad_(False)

    def config(self) -> dict:
        """Its config.json."""
        shape, levels = self.shape, range(len(self.shape.ch_mult))
        kinds = ["Attn" * shape.attends(i) for i in levels]
        return {
            "_class_name": "VQModel",
            "_diffusers_version": "0.30.0",
            "act_fn": "silu",
            "block_out_channels": [shape.ch * multiplier for multiplier in shape.ch_mult],
            "down_block_types": [f"{kind}DownEncoderBlock2D" for kind in kinds],
            "in_channels": 3,
            "latent_channels": shape.z_channels,
            "layers_per_block": shape.num_res_blocks,
            "mid_block_add_attention": True,
            "norm_num_groups": self.groups,
            "norm_type": "group",
            "num_vq_embeddings": shape.n_embed,
            "out_channels": 3,
            "sample_size": 32,
            "up_block_types": [f"{kind}UpDecoderBlock2D" for kind in kinds[::-1]],
            "vq_embed_dim": shape.embed_dim,
        }

    def encode(self, frames: Tensor) -> Tensor:
        latents = self.quant_conv(self.encoder(frames.float() / 127.5 - 1)).movedim(1, -1)
        distances = torch.cdist(latents.flatten(0, 2), self.quantize.embedding.weight)
        return distances.argmin(1).view(latents.shape[:3])

    def decode(self, codes: Tensor) -> Tensor:
        """Images, not rounded."""
        vectors = self.quantize.embedding(codes).movedim(-1, 1)
        pixels = self.decoder(self.post_quant_conv(vectors))
        return (pixels.clamp(-1, 1) + 1) * 127.5
