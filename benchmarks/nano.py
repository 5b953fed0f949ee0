"""A compiled training loop in the style of nanoGPT, for a LLaMA: a peer of `pretrain.py`.

Its habits: one projection for query, key and value, rotary tables kept as buffers, the loss inside
of the one compiled forward pass, batches cut out of a memory-mapped array and copied ahead.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Attention(nn.Module):
    """Causal self-attention with one projection for query, key and value."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        b, t, c = x.shape
        q, k, v = (
            part.view(b, t, self.heads, c // self.heads).transpose(1, 2)
            for part in self.qkv(x).split(c, dim=2)
        )
        q, k = turn(q, cos, sin), turn(k, cos, sin)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(y.transpose(1, 2).contiguous().view(b, t, c))


def turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


class Block(nn.Module):
    """Pre-norm attention and SwiGLU."""

    def __init__(self, width: int, heads: int, mlp_width: int) -> None:
        super().__init__()
        self.norm_1, self.norm_2 = nn.RMSNorm(width, eps=1e-6), nn.RMSNorm(width, eps=1e-6)
        self.attention = Attention(width, heads)
        self.gate = nn.Linear(width, mlp_width, bias=False)
        self.up = nn.Linear(width, mlp_width, bias=False)
        self.down = nn.Linear(mlp_width, width, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.attention(self.norm_1(x), cos, sin)
        y = self.norm_2(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


class NanoLlama(nn.Module):
    """Forward gives the loss."""

    def __init__(self, shape: dict[str, Any], vocabulary: int, positions: int) -> None:
        super().__init__()
        width, heads = shape["width"], shape["heads"]
        self.embedding = nn.Embedding(vocabulary, width)
        self.blocks = nn.ModuleList(
            Block(width, heads, shape["mlp_width"]) for _ in range(shape["layers"])
        )
        self.norm = nn.RMSNorm(width, eps=1e-6)
        self.head = nn.Linear(width, vocabulary, bias=False)
        channels = torch.arange(0, width // heads, 2) / (width // heads)
        angles = torch.outer(torch.arange(positions).float(), 1e4**-channels)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x, self.cos, self.sin)
        logits = self.head(self.norm(x))
        return F.cross_entropy(logits.view(-1, logits.size(-1)), targets.view(-1), ignore_index=-1)


def train(task: dict[str, Any]) -> None:
    """Train without end."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = NanoLlama(task["shape"], task["vocabulary"], task["positions"]).to(device)
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    groups = [
        {"params": matrices, "weight_decay": 0.1},
        {"params": vectors, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=3e-4, betas=(0.9, 0.95), fused=True)
    rows = np.load(task["sequences"], mmap_mode="r")
    random, accumulate = np.random.default_rng(0), task["batch"] // task["micro_batch"]

    def batch() -> tuple[Tensor, Tensor]:
        chosen = rows[random.integers(len(rows), size=task["micro_batch"])].astype(np.int64)
        pair = torch.from_numpy(chosen[:, :-2]), torch.from_numpy(chosen[:, 1:-1])
        if device.type == "cpu":
            return pair[0], pair[1].contiguous()
        x, y = (part.pin_memory().to(device, non_blocking=True) for part in pair)
        return x, y.contiguous()

    forward: Any = torch.compile(model)
    following = batch()
    while True:
        for _ in range(accumulate):
            with torch.autocast(device.type, torch.bfloat16, enabled=task["bf16"]):
                loss = forward(*following) / accumulate
            following = batch()
            loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
