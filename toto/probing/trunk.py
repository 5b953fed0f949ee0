"""A trunk that is trained further."""

from copy import deepcopy
from dataclasses import replace

from toto.models.llama import Llama


def trainable_copy(model: Llama, rope_base: float | None = None) -> Llama:
    """A copy whose weights can be trained; with another base of the rotary embedding if asked."""
    trunk = deepcopy(model).train().requires_grad_(True)
    if rope_base is not None:
        trunk.size = replace(trunk.size, rope_base=rope_base)
        trunk.rotary.base = rope_base
    return trunk
