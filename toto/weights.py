"""Weights as safetensors, and what tells them from others."""

import hashlib
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


@contextmanager
def unfilled() -> Iterator[None]:
    """Modules made here have shapes and no values: their parameters are on the meta device."""
    with torch.device("meta"), _Unfilled():
        yield


class _Unfilled(TorchFunctionMode):
    """Leaves out the drawing of values that are nowhere: it would load PyTorch's compiler first."""

    def __torch_function__(
        self, func: Callable, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        return kwargs["tensor"] if func is nn.init.normal_ else func(*args, **kwargs)


def weights_fingerprint(module: nn.Module) -> str:
    """16 hex digits of a module's parameters and buffers, by name."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(name.encode() + value.float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def write_weights(
    path: Path, weights: Mapping[str, Tensor], about: dict[str, str] | None = None
) -> None:
    """Write safetensors that take the name `path` at the end, replacing what was there.

    After a kill or a power cut the old file or the new one is there. Who may read it the umask
    says, as of any other file: the library itself makes it its writer's alone.

    Args:
        path: the file.
        weights: tensors by name, on any device; no two of them share memory.
        about: what the file says of itself.

    Raises:
        OSError: it could not be written.
    """
    partial = path.with_name(f".{path.name}.partial")
    partial.unlink(missing_ok=True)
    partial.touch()
    mode = partial.stat().st_mode
    try:
        save_file({name: x.contiguous().cpu() for name, x in weights.items()}, partial, about)
    except SafetensorError as error:
        failure = re.search(r"\(os error (\d+)\)", str(error))
        if failure is None:
            raise
        number = int(failure[1])
        raise OSError(number, os.strerror(number), str(path)) from error
    partial.chmod(mode)
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    partial.replace(path)
