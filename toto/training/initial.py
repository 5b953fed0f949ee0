"""What a model begins with: weights that are drawn, or those of a saved model."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from toto.errors import UserError
from toto.models.llama import Backbone, Llama
from toto.models.patches import PatchLlama
from toto.models.saved import open_weights, read_model, saved_in
from toto.training.config import Pretrain

# What may differ: the rotary base (a longer context), and how weights would have been drawn.
_SAME = ("width", "layers", "heads", "mlp_width", "norm_eps", "tied_head", "mup_base")


def check_init_from(
    config: Pretrain, model: Llama | PatchLlama, details: Mapping[str, Any]
) -> None:
    """Refuse a saved model that cannot be what a run begins with.

    Args:
        config: the run's recipe
        model: the run's, of whatever values
        details: what will be saved with it, see `details_of`

    Raises:
        UserError: there is no such model, or its shape, vocabulary or tokenizer is another.
    """
    if config.init_from is None:
        return
    found, said = read_model(saved_in(config.init_from))
    pairs: list[tuple[str, Any, Any]] = [("inputs", _inputs(found), _inputs(model))]
    pairs += [(name, getattr(found.size, name), getattr(model.size, name)) for name in _SAME]
    pairs += [("vocabulary", found.vocabulary, model.vocabulary)]
    for name in ("tokenizer", "target"):
        pairs += [(name, said[name], details.get(name))] if name in said else []
    for name, its, ours in pairs:
        if its != ours:
            raise UserError(f"{config.init_from} has {name} {its}, this run {ours}")


def _inputs(model: Llama | PatchLlama) -> str:
    return "tokens" if isinstance(model, Llama) else f"patches of {model.patch} pixels"


@contextmanager
def first_values(
    model: Backbone, init_from: Path | None
) -> Iterator[Callable[[str, torch.Size], Tensor]]:
    """A parameter's name and shape to its first values: read, or drawn in the order of calls."""

    def draw(name: str, shape: torch.Size) -> Tensor:
        weight = torch.empty(shape)
        model.fill(name, weight)
        return weight

    if init_from is None:
        yield draw
        return
    with open_weights(saved_in(init_from)) as get:
        yield lambda name, shape: get(name)
