"""Where a run computes, and in which precision."""

import os
import sys
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from toto.errors import UserError
from toto.processes import keep_freed_memory
from toto.training.config import Precision


def pick_device(name: str) -> torch.device:
    """The device of that name; "auto" is cuda, mps or cpu, in that order.

    Of several GPUs, each process that torchrun started has its own. On a CPU the process keeps the
    memory that it frees, as PyTorch does a GPU's.

    Raises:
        UserError: there is no such device here.
    """
    device = _device(name)
    if device.type == "cpu":
        keep_freed_memory()
    return device


def _device(name: str) -> torch.device:
    if name == "auto":
        if torch.cuda.is_available():
            return own_device(torch.device("cuda"))
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device {name!r} cannot be used: {str(error).splitlines()[0]}") from error
    return own_device(torch.device(name))


def own_device(device: torch.device) -> torch.device:
    """The process's own GPU, where only that it is one has been said.

    Raises:
        UserError: several processes are to share one GPU.
    """
    if device.type != "cuda":
        return device
    if device.index is None:
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    if int(os.environ.get("LOCAL_WORLD_SIZE", "1")) > 1:
        raise UserError(f"device {device}: of several processes each has its own, say cuda")
    return device


def pick_devices(names: str) -> list[str]:
    """The devices of a comma-separated list; "auto" is every GPU, or what `pick_device` picks.

    Raises:
        UserError: one is not here.
    """
    if names == "auto" and torch.cuda.is_available():
        return [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    return [str(pick_device(name.strip())) for name in names.split(",")]


def pick_precision(precision: Precision, device: torch.device) -> Precision:
    """What "auto" means on the device: bf16 where matrix units for it exist."""
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    # Without such units a CPU emulates bf16, slower than fp32.
    if device.type == "cpu" and torch.cpu._is_avx512_bf16_supported():
        return "bf16"
    return "fp32"


def round_hidden(modules: nn.Module) -> None:
    """Under autocast, have embeddings and norms give bf16, as products do; norms compute in fp32.

    Autocast leaves both in fp32, and with them the residual stream: twice the memory and traffic.
    """

    def exact(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(value.float() for value in inputs)

    def rounded(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        kind = output.device.type
        if not torch.is_autocast_enabled(kind):
            return output
        return output.to(torch.get_autocast_dtype(kind))

    for module in modules.modules():
        if isinstance(module, nn.RMSNorm):
            module.register_forward_pre_hook(exact)
        if isinstance(module, nn.Embedding | nn.RMSNorm):
            module.register_forward_hook(rounded)


def blocks_of(module: nn.Module) -> list[nn.Module]:
    """What is repeated in a module: the members of its lists."""
    lists = (child for child in module.modules() if isinstance(child, nn.ModuleList))
    return [block for blocks in lists for block in blocks]


def recompute(modules: nn.Module, part: float) -> None:
    """Have `part` of the blocks, spread evenly, compute their activations again in the backward."""
    for i, block in enumerate(blocks_of(modules)):
        if int((i + 1) * part) > int(i * part):
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager:
    """Matrix products in bf16, the rest and the weights in fp32; or all in fp32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def peak_memory(device: torch.device) -> int:
    """Most bytes held so far: on a GPU the allocator's, else the process's resident set."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
