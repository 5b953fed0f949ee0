"""The processes of a run: who is who, and what they say to each other.

torchrun starts them and says in the environment who is who. Alone, nothing of this happens.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist
from jaxtyping import Int
from torch import Tensor

from toto.files import only_writer

Result = TypeVar("Result")

_PATIENCE = timedelta(days=7)


@dataclass(frozen=True)
class World:
    """Which of how many processes this is."""

    rank: int = 0
    size: int = 1
    on_node: int = 1
    """processes of one machine"""

    @property
    def is_first(self) -> bool:
        """Whether it is the one that writes and talks."""
        return self.rank == 0

    def share(self, count: int) -> range:
        """Which of `count` things, a multiple of the processes, are this one's."""
        each = count // self.size
        return range(self.rank * each, (self.rank + 1) * each)

    def part(self, count: int) -> Int[Tensor, " part"]:
        """Which of any number of things are this one's: as many as others', or one more or less."""
        return torch.arange(count).tensor_split(self.size)[self.rank]


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
        yield World(dist.get_rank(), size, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    finally:
        dist.destroy_process_group()


def wait(world: World) -> None:
    """Until all processes are here."""
    if world.size > 1:
        dist.all_reduce(torch.zeros(1))


def apart(world: World, work: Callable[[], Result]) -> Result:
    """Have each process work by itself for as long as it takes, then wait for all."""
    with _patience(world) as wait_for_all:
        done = work()
        wait_for_all()
    return done


def in_turn(world: World, work: Callable[[], Result]) -> Result:
    """Have the first process work, then the others, who find what it has left."""
    with _patience(world) as wait_for_all:
        done = [work()] if world.is_first else []
        wait_for_all()
    return done[0] if done else work()


@contextmanager
def _patience(world: World) -> Iterator[Callable[[], None]]:
    """Waiting for all that may take days.

    Decoding a source takes hours; elsewhere who waits for half of one is waiting for the dead.
    """
    if world.size == 1:
        yield lambda: None
        return
    patient = dist.new_group(backend="gloo", timeout=_PATIENCE)

    def wait_for_all() -> None:
        dist.all_reduce(torch.zeros(1), group=patient)

    yield wait_for_all
    dist.destroy_process_group(patient)


@contextmanager
def one_writer(folder: Path, world: World) -> Iterator[None]:
    """Hold a folder against others; the first process does it for all.

    Raises:
        UserError: another process is writing there.
    """
    with only_writer(folder) if world.is_first else nullcontext():
        yield


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


def all_of(world: World, value: Result) -> list[Result]:
    """What every process has, by rank."""
    values = [value] * world.size
    if world.size > 1:
        dist.all_gather_object(values, value)
    return values
