"""Several processes that train one model: each takes its share of every step.

torchrun starts them and says in the environment who is who. Either each holds the whole model, and
a step's gradients are added up once, after its last micro-batch; or weights, gradients and the
optimizer's state are divided among them (FSDP2), and each block's weights are brought together when
it is computed. Alone, nothing of this happens.
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
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from toto.errors import UserError
from toto.files import only_writer
from toto.training.config import Sharding
from toto.training.device import blocks_of

Result = TypeVar("Result")

# Bytes of gradients that are added up at a time: enough to be fast, little beside the model.
_BUCKET = 256 * 2**20

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


def in_turn(world: World, work: Callable[[], Result]) -> Result:
    """Have the first process work, then the others, who find what it has left."""
    if world.size == 1:
        return work()
    # Decoding a source takes hours; elsewhere who waits for half of one is waiting for the dead.
    patient = dist.new_group(backend="gloo", timeout=_PATIENCE)
    done = [work()] if world.is_first else []
    dist.all_reduce(torch.zeros(1), group=patient)
    dist.destroy_process_group(patient)
    return done[0] if done else work()


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


def place(modules: nn.ModuleDict, device: torch.device, world: World, sharding: Sharding) -> None:
    """Put modules on the device, divided among the processes as `sharding` says.

    Parameters on the meta device get memory, each process for its own part, and no values yet.

    Raises:
        UserError: the world cannot be divided so.
    """
    mesh = _mesh(device, world, sharding)
    for module in modules.children():
        if mesh is not None:
            _shard(module, mesh)
        if any(parameter.is_meta for parameter in module.parameters()):
            _allocate(module, device)
        else:
            module.to(device)


def _allocate(module: nn.Module, device: torch.device) -> None:
    """Memory for parameters that have none; what shares a parameter goes on sharing it."""
    homes: dict[int, list[tuple[nn.Module, str]]] = {}
    for part in module.modules():
        for name, parameter in part.named_parameters(recurse=False):
            homes.setdefault(id(parameter), []).append((part, name))
    module.to_empty(device=device)
    for (first, name), *others in homes.values():
        for part, its_name in others:
            setattr(part, its_name, getattr(first, name))


def _mesh(device: torch.device, world: World, sharding: Sharding) -> DeviceMesh | None:
    if world.size == 1 or sharding == "none":
        return None
    if sharding == "all" or world.size == world.on_node:
        return init_device_mesh(device.type, (world.size,))
    if world.size % world.on_node:
        raise UserError(
            f"sharding node: {world.size} processes are no multiple of {world.on_node} on a machine"
        )
    shape = world.size // world.on_node, world.on_node
    return init_device_mesh(device.type, shape, mesh_dim_names=("machines", "processes"))


def _shard(module: nn.Module, mesh: DeviceMesh) -> None:
    """Each block by itself, so that only few are whole at a time; then what is left."""
    for part in (*blocks_of(module), module):
        fully_shard(part, mesh=mesh)
    for sharded in _sharded(module):
        # Losses are shares of the whole step's: their gradients are added up, not averaged.
        sharded.set_gradient_divide_factor(1.0)
        sharded.set_force_sum_reduction_for_comms(True)


def is_sharded(module: nn.Module) -> bool:
    """Whether its parameters are divided among processes."""
    return bool(_sharded(module))


def _sharded(module: nn.Module) -> list[FSDPModule]:
    return [part for part in module.modules() if isinstance(part, FSDPModule)]


@torch.no_grad()
def fill(parameter: Tensor, whole: Tensor) -> None:
    """Give a parameter its values; where it is divided, each process takes its part of them."""
    mine = parameter.to_local() if isinstance(parameter, DTensor) else parameter
    mine.copy_(own_part(whole.to(mine.device), parameter))


def own_part(whole: Tensor, like: Tensor) -> Tensor:
    """What this process holds of a whole, divided as another tensor is."""
    if not isinstance(like, DTensor):
        return whole
    mesh, placements = like.device_mesh, like.placements
    return distribute_tensor(whole, mesh, placements, src_data_rank=None).to_local()


def all_parts(part: Tensor, like: Tensor) -> Tensor:
    """The whole of which each process holds a part, divided as another tensor is."""
    if not isinstance(like, DTensor):
        return part
    mesh, placements, shape, stride = like.device_mesh, like.placements, like.shape, like.stride()
    return DTensor.from_local(part, mesh, placements, shape=shape, stride=stride).full_tensor()


def whole(value: Tensor) -> Tensor:
    """All of a value of which each process has a part."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def before_backward(module: nn.Module, last: bool) -> None:
    """Machines that hold the same parts exchange gradients in a step's last backward pass alone."""
    for part in _sharded(module):
        part.set_requires_all_reduce(last, recurse=False)


def add_gradients(world: World, module: nn.Module) -> None:
    """Give each parameter the sum of all processes' gradients, the same bits everywhere."""
    if world.size == 1 or is_sharded(
        module
    ):  # divided gradients have been added up in the backward
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
