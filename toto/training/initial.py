"""What a model begins with: weights that are drawn, or those of a saved model."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from toto.errors import UserError
from toto.models.llama import Llama
from toto.models.saved import open_weights, read_shape, saved_in
from toto.training.config import Pretrain

# What may differ: the rotary base (a longer context), and how weights would have been drawn.
_SAME = ("width", "layers", "heads", "mlp_width", "norm_eps", "tied_head", "mup_base")


def check_init_from(config: Pretrain, rows: int, tokenizer: str) -> None:
    """Refuse a saved model that cannot be what a run begins with.

    Args:
        config: the run's recipe
        rows: of the run's embedding table
        tokenizer: fingerprint of the run's tokenizer

    Raises:
        UserError: there is no such model, or its shape, vocabulary or tokenizer is another.
    """
    if config.init_from is None:
        return
    size, its_rows, details = read_shape(saved_in(config.init_from))
    its_tokenizer = details.get("tokenizer", tokenizer)
    pairs = [(name, getattr(size, name), getattr(config.model, name)) for name in _SAME]
    pairs += [("vocabulary", its_rows, rows), ("tokenizer", its_tokenizer, tokenizer)]
    for name, its, ours in pairs:
        if its != ours:
            raise UserError(f"{config.init_from} has {name} {its}, this run {ours}")


@contextmanager
def first_values(
    model: Llama, init_from: Path | None
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
