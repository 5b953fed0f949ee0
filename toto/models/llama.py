"""LLaMA with Hugging Face's parameter names (Touvron et al. 2023; transformers: modeling_llama).

Where `LlamaSize.mup_base` is given it is parametrised by muP, see mup.py; else `growth` is 1.
Tensors are named by their axes: b batch, t positions, c channels, h heads, d channels of a head.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn
from torch.nn import functional as F

from toto.models.sizes import LlamaSize


@dataclass
class Cache:
    """Keys and values of the positions read so far, for `Llama.forward`."""

    keys: Float[Tensor, "layers b h t d"]
    values: Float[Tensor, "layers b h t d"]
    length: int = 0

    def extend(
        self, layer: int, k_bhtd: Tensor, v_bhtd: Tensor
    ) -> tuple[Float[Tensor, "b h t d"], Float[Tensor, "b h t d"]]:
        """Store one layer's new keys and values; return those of all positions so far."""
        end = self.length + k_bhtd.shape[2]
        self.keys[layer, :, :, self.length : end] = k_bhtd
        self.values[layer, :, :, self.length : end] = v_bhtd
        return self.keys[layer, :, :, :end], self.values[layer, :, :, :end]


class Rotary(nn.Module):
    """Rotary position embedding by halves (Hugging Face's rotate-half)."""

    def __init__(self, head_width: int, base: float) -> None:
        super().__init__()
        self.head_width, self.base = head_width, base

    def forward(self, start: int, count: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Cosine and sine `(count, head_width / 2)` of the positions `start ..` in fp32."""
        channels = torch.arange(0, self.head_width, 2, device=device, dtype=torch.float32)
        inverse = self.base ** (-channels / self.head_width)
        positions = torch.arange(start, start + count, device=device, dtype=torch.float32)
        angles = torch.outer(positions, inverse)
        return angles.cos(), angles.sin()


def rotate(x: Float[Tensor, "b h t d"], cos: Tensor, sin: Tensor) -> Float[Tensor, "b h t d"]:
    """Turn each pair of channels `(i, i + d/2)` by the angle of its position."""
    x1, x2 = x.chunk(2, dim=-1)
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)
    return torch.cat((x1 * cos - x2 * sin, x2 * cos + x1 * sin), dim=-1)


class Attention(nn.Module):
    """Causal self-attention without biases."""

    causal = True
    """False, set from outside: each position sees all others, and no cache can be used"""

    def __init__(self, size: LlamaSize) -> None:
        super().__init__()
        self.head_width = size.head_width
        # 1 / sqrt(d) in the standard parametrisation, in proportion to 1 / d under muP.
        self.scale = 1 / math.sqrt(size.head_width * size.growth)
        self.q_proj = nn.Linear(size.width, size.width, bias=False)
        self.k_proj = nn.Linear(size.width, size.width, bias=False)
        self.v_proj = nn.Linear(size.width, size.width, bias=False)
        self.o_proj = nn.Linear(size.width, size.width, bias=False)

    def forward(
        self, x_btc: Tensor, cos: Tensor, sin: Tensor, cache: Cache | None, layer: int
    ) -> Tensor:
        q, k, v = (
            projection(x_btc).unflatten(-1, (-1, self.head_width)).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        if cache is not None:
            k, v = cache.extend(layer, k, v)
        is_causal = self.causal and q.shape[2] == k.shape[2]
        x_bhtd = F.scaled_dot_product_attention(
            q, k, v, _mask(q, k), is_causal=is_causal, scale=self.scale
        )
        return self.o_proj(x_bhtd.transpose(1, 2).flatten(-2))


def _mask(q: Tensor, k: Tensor) -> Tensor | None:
    """What the new positions may see: None if a causal mask or none at all says it."""
    new, all_ = q.shape[2], k.shape[2]
    if new in (1, all_):
        return None
    return torch.ones(new, all_, dtype=torch.bool, device=q.device).tril(all_ - new)


class MLP(nn.Module):
    """SwiGLU."""

    def __init__(self, size: LlamaSize) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(size.width, size.mlp_width, bias=False)
        self.up_proj = nn.Linear(size.width, size.mlp_width, bias=False)
        self.down_proj = nn.Linear(size.mlp_width, size.width, bias=False)

    def forward(self, x_btc: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x_btc)) * self.up_proj(x_btc))


class Block(nn.Module):
    """Pre-norm attention and MLP, each added to the residual stream."""

    def __init__(self, size: LlamaSize) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(size.width, eps=size.norm_eps)
        self.self_attn = Attention(size)
        self.post_attention_layernorm = nn.RMSNorm(size.width, eps=size.norm_eps)
        self.mlp = MLP(size)

    def forward(
        self, x_btc: Tensor, cos: Tensor, sin: Tensor, cache: Cache | None, layer: int
    ) -> Tensor:
        x_btc = x_btc + self.self_attn(self.input_layernorm(x_btc), cos, sin, cache, layer)
        return x_btc + self.mlp(self.post_attention_layernorm(x_btc))


class Trunk(nn.Module):
    """Embedding, blocks and final norm: what Hugging Face calls `model`."""

    def __init__(self, size: LlamaSize, vocabulary: int) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(vocabulary, size.width)
        self.layers = nn.ModuleList(Block(size) for _ in range(size.layers))
        self.norm = nn.RMSNorm(size.width, eps=size.norm_eps)


class Backbone(nn.Module):
    """LLaMA's blocks, before which a model puts its own embedding, and after which its own head.

    Layer 0 is the embedding's output, layer `i` the output of block `i`, before the final norm.
    """

    model: Any
    """a module with the embedding, `layers` and the final `norm`"""
    ends: int
    """rows of the matrices beside the blocks' that positions are multiplied by"""

    def __init__(self, size: LlamaSize) -> None:
        super().__init__()
        self.size = size
        self.rotary = Rotary(size.head_width, size.rope_base)

    def embed(self, inputs: Shaped[Tensor, "b t ..."], first: bool) -> Float[Tensor, "b t c"]:
        """What block 1 reads; the `first` of `inputs` begin their sequences."""
        raise NotImplementedError

    @torch.no_grad()
    def init_weights(self) -> None:
        for name, weight in self.named_parameters():
            self.fill(name, weight)

    def fill(self, name: str, weight: Tensor) -> None:
        """Draw the initial values of the parameter `name` into `weight`, a tensor of its shape."""
        if weight.ndim == 1:
            nn.init.ones_(weight)
        else:
            nn.init.normal_(weight, std=self.size.init_std * math.sqrt(self.rate_factor(name)))

    def rate_factor(self, name: str) -> float:
        """Learning rate of the parameter `name` as a factor of the model's.

        Under muP that of matrices whose two sides grow with the width shrinks with it.
        """
        return 1 / self.size.growth if name.endswith("_proj.weight") else 1.0

    def normed(self, x_btc: Float[Tensor, "b t c"]) -> Float[Tensor, "b t c"]:
        """What the head multiplies: the last layer after the final norm, shrunk by muP."""
        x_btc = self.model.norm(x_btc)
        return x_btc if self.size.growth == 1 else x_btc / self.size.growth

    def hidden_states(
        self, inputs: Shaped[Tensor, "b t ..."], layers: Sequence[int]
    ) -> dict[int, Float[Tensor, "b t c"]]:
        """Hidden states of the asked `layers`, by layer; no block above the highest is run."""
        return self._run(inputs, layers, None)

    def new_cache(self, batch: int, positions: int) -> Cache:
        """An empty cache for `positions` positions, on the model's device in its dtype."""
        weight = self.model.norm.weight
        shape = (self.size.layers, batch, self.size.heads, positions, self.size.head_width)
        return Cache(weight.new_zeros(shape), weight.new_zeros(shape))

    def _run(self, inputs: Tensor, wanted: Sequence[int], cache: Cache | None) -> dict[int, Tensor]:
        return self.run_blocks(self.embed(inputs, not cache or not cache.length), wanted, cache)

    def run_blocks(
        self, x_btc: Float[Tensor, "b t c"], wanted: Sequence[int], cache: Cache | None = None
    ) -> dict[int, Float[Tensor, "b t c"]]:
        """States of the `wanted` layers, by layer, where `x_btc` is layer 0."""
        start = cache.length if cache else 0
        cos, sin = self.rotary(start, x_btc.shape[1], x_btc.device)
        states = {0: x_btc} if 0 in wanted else {}
        for layer in range(1, max(wanted) + 1):
            x_btc = self.model.layers[layer - 1](x_btc, cos, sin, cache, layer - 1)
            if layer in wanted:
                states[layer] = x_btc
        if cache is not None:
            cache.length += x_btc.shape[1]
        return states


class Llama(Backbone):
    """A causal language model over tokens."""

    def __init__(self, size: LlamaSize, vocabulary: int) -> None:
        super().__init__(size)
        self.vocabulary = self.ends = vocabulary
        self.model = Trunk(size, vocabulary)
        self.lm_head = nn.Linear(size.width, vocabulary, bias=False)
        if size.tied_head:
            self.lm_head.weight = self.model.embed_tokens.weight
        self.init_weights()

    def embed(self, inputs: Int[Tensor, "b t"], first: bool) -> Float[Tensor, "b t c"]:
        return self.model.embed_tokens(inputs)

    def forward(
        self, tokens: Int[Tensor, "b t"], cache: Cache | None = None
    ) -> Float[Tensor, "b t vocabulary"]:
        """Logits of the next token at each position.

        With a `cache`, `tokens` follow the positions already in it, and are added to it.
        """
        last = self.size.layers
        x_btc = self._run(tokens, (last,), cache)[last]
        return self.lm_head(self.normed(x_btc))
