"""Several processes that train one model: each takes its share of every step.

torchrun starts them and says in the environment who is who. Each holds the whole model; a step's
gradients are added up once, after the last micro-batch, so that with many micro-batches a step the
exchange costs next to nothing. Alone, nothing of this happens.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

# Bytes of gradients that are added up at a time: enough to be fast, little beside the model.
_BUCKET = 256 * 2**20


@dataclass(frozen=True)
class World:
    """Which of how many processes this is."""

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether it is the one that writes and talks."""
        return self.rank == 0

    def share(self, count: int) -> range:
        """Which of `count` things, a multiple of the processes, are this one's."""
        each = count // self.size
        return range(self.rank * each, (self.rank + 1) * each)


ALONE = World()


@contextmanager
def join_world(device: torch.device) -> Iterator[World]:
    """Join the processes that torchrun started; without it this one is alone."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield ALONE
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    # Tensors of the CPU, which steer the run, go over gloo.
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    try:
        yield World(dist.get_rank(), size)
    finally:
        dist.destroy_process_group()


def wait(world: World) -> None:
    """Until all processes are here."""
    if world.size > 1:
        dist.all_reduce(torch.zeros(1))


def any_of(world: World, number: int) -> int:
    """The largest number that a process has."""
    if world.size == 1:
        return number
    largest = torch.tensor([number])
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    return int(largest)


def total(world: World, values: Tensor) -> Tensor:
    """The sum of the processes' values."""
    if world.size > 1:
        dist.all_reduce(values)
    return values


def add_gradients(world: World, module: nn.Module) -> None:
    """Give each parameter the sum of all processes' gradients, the same bits everywhere."""
    if world.size == 1:
        return
    bucket: list[Tensor] = []
    for parameter in module.parameters():
        if parameter.grad is None:
            continue
        bucket.append(parameter.grad)
        if sum(gradient.nbytes for gradient in bucket) >= _BUCKET:
            _add(bucket)
            bucket = []
    if bucket:
        _add(bucket)


def _add(gradients: list[Tensor]) -> None:
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    pieces = flat.split([gradient.numel() for gradient in gradients])
    for gradient, piece in zip(gradients, pieces, strict=True):
        gradient.copy_(piece.view_as(gradient))
