"""What could make training faster on a GPU, switched on from outside; kept in the model if it wins.

Contenders of `pretrain.py`, each beside the same loop without it:

    python benchmarks/pretrain.py --sizes base --contenders "toto compiled" "toto fused" "toto FA3"
"""

import torch
from torch import Tensor, nn
from torch.nn import attention
from torch.nn import functional as F

from toto.models.llama import MLP, Attention, Cache, rotate


def fused(model: nn.Module) -> None:
    """One product for queries, keys and values, and one for gate and up.

    The weights stay apart and keep their names: they are put side by side as autocast casts them.
    """
    Attention.forward = _attention  # type: ignore[method-assign]
    MLP.forward = _mlp  # type: ignore[method-assign]


def flash3(model: nn.Module) -> None:
    """FlashAttention-3 in the place of PyTorch's own flash kernel, and no other.

    Raises:
        ImportError: `flash_attn_interface` is not installed.
    """
    attention.activate_flash_attention_impl("FA3")
    for backend in ("cudnn", "mem_efficient", "math"):
        getattr(torch.backends.cuda, f"enable_{backend}_sdp")(False)


def fp8(model: nn.Module) -> None:
    """Products of the blocks in fp8, scaled by tensor as they come (torchao).

    Raises:
        ImportError: torchao is not installed.
    """
    from torchao.float8 import convert_to_float8_training

    convert_to_float8_training(model, module_filter_fn=lambda _, name: name.endswith("_proj"))


def _attention(
    self: Attention, x_btc: Tensor, cos: Tensor, sin: Tensor, cache: Cache | None, layer: int
) -> Tensor:
    parts = (self.q_proj.weight, self.k_proj.weight, self.v_proj.weight)
    q, k, v = (
        each.unflatten(-1, (-1, self.head_width)).transpose(1, 2)
        for each in F.linear(x_btc, torch.cat(parts)).chunk(3, -1)
    )
    q, k = rotate(q, cos, sin), rotate(k, cos, sin)
    x_bhtd = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=self.scale)
    return self.o_proj(x_bhtd.transpose(1, 2).flatten(-2))


def _mlp(self: MLP, x_btc: Tensor) -> Tensor:
    weights = torch.cat((self.gate_proj.weight, self.up_proj.weight))
    gate, up = F.linear(x_btc, weights).chunk(2, -1)
    return self.down_proj(F.silu(gate) * up)
