"""Several processes that train one model: each takes its share of every step.

Either each holds the whole model, and a step's gradients are added up once, after its last
micro-batch; or weights, gradients and the optimizer's state are divided among them (FSDP2), and
each block's weights are brought together when it is computed.
"""

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from toto.errors import UserError
from toto.training.config import Sharding
from toto.training.device import blocks_of
from toto.training.world import World

# Bytes of gradients that are added up at a time: enough to be fast, little beside the model.
_BUCKET = 256 * 2**20


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
