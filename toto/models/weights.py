"""Weights as safetensors, and what tells them from others."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor, nn


def weights_fingerprint(module: nn.Module) -> str:
    """16 hex digits of a module's parameters and buffers, by name."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(name.encode() + value.float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def write_weights(
    path: Path, weights: Mapping[str, Tensor], about: Mapping[str, str] | None = None
) -> None:
    """Write them, and what is to be said `about` them, to a file that is there whole or not at all.

    Who may read other files that are made here may read it.
    """
    partial = path.with_name(f".{path.name}.partial")
    partial.touch()
    allowed = partial.stat().st_mode  # safetensors alone would let nobody else read it
    held = {name: value.contiguous().cpu() for name, value in weights.items()}
    save_file(held, partial, dict(about) if about else None)
    partial.chmod(allowed)
    partial.replace(path)
