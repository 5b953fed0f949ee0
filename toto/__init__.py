"""Toto: autoregressive pre-training from videos (arXiv 2501.05453), in the open."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from toto.api import Toto

__version__ = "0.1.0"
__all__ = ["load"]


def load(path: str | Path, device: str = "auto") -> "Toto":
    """Open a saved model: a run's `model` folder, or the run's own folder.

    Raises:
        toto.errors.UserError: there is no saved model, or it cannot be used on `device`.
    """
    from toto.api import Toto

    return Toto.load(Path(path), device)
