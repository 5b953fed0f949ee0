"""Hidden states of a frozen trunk: any layers, in one pass."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from toto.errors import UserError
from toto.models.llama import Backbone
from toto.training.device import autocast, pick_precision

Hidden = dict[str, Tensor]


def pick_layers(layers: str, count: int) -> list[int]:
    """Layers by name: "all", numbers ("0,4,8"), or a depth between 0 and 1 ("0.5").

    Raises:
        UserError: no such layers in a model of `count` blocks.
    """
    if layers == "all":
        return list(range(count + 1))
    try:
        if "." in layers:
            return (
                [round(float(layers) * count)] if 0 <= float(layers) <= 1 else _none(layers, count)
            )
        chosen = [int(part) for part in layers.split(",")]
    except ValueError as error:
        raise UserError(
            f"layers {layers!r}: all, numbers like 0,4,8, or a depth like 0.5"
        ) from error
    return chosen if all(0 <= i <= count for i in chosen) else _none(layers, count)


def _none(layers: str, count: int) -> list[int]:
    raise UserError(f"layers {layers!r}: this model has layers 0 to {count}")


class FrozenFeatures:
    """Hidden states of the clips' code positions, by layer name.

    They are computed once and kept in bf16 if all of them fit into `limit` bytes, and computed
    anew for each batch otherwise. They are given in fp32, or where that need not be `exact`, in the
    precision that the trunk computes in.
    """

    def __init__(
        self,
        model: Backbone,
        tokens: Shaped[Tensor, "clips positions ..."],
        layers: Sequence[int],
        batch: int = 16,
        limit: int = 0,
        advance: Callable[[int], None] = lambda done: None,
        exact: bool = True,
    ) -> None:
        self.model, self.tokens, self.layers = model, tokens, list(layers)
        self.device = next(model.parameters()).device
        self.precision = pick_precision("auto", self.device)
        self.dtype = torch.float32 if exact or self.precision == "fp32" else torch.bfloat16
        positions = tokens.shape[1] - 2
        size = len(tokens) * len(self.layers) * positions * model.size.width * 2
        self.stored: Hidden | None = None
        self.bytes = size if size <= limit else 0
        """memory that the stored states take"""
        if self.bytes:
            shape = (len(tokens), positions, model.size.width)
            stored = {str(i): torch.empty(shape, dtype=torch.bfloat16) for i in self.layers}
            for start in range(0, len(tokens), batch):
                rows = slice(start, start + batch)
                for name, hidden in self._compute(tokens[rows]).items():
                    stored[name][rows] = hidden
                advance(len(tokens[rows]))
            self.stored = stored

    def __call__(self, rows: Int[Tensor, " b"]) -> dict[str, Float[Tensor, "b t c"]]:
        """Hidden states of the clips at `rows` (on the CPU), on the model's device."""
        if self.stored is None:
            return self._compute(self.tokens[rows])
        return {name: x[rows].to(self.device, self.dtype) for name, x in self.stored.items()}

    @torch.no_grad()
    def _compute(self, tokens: Tensor) -> dict[str, Tensor]:
        inputs = tokens[:, :-1].to(self.device)
        with autocast(self.device, self.precision):
            hidden = self.model.hidden_states(inputs, self.layers)
        # The start token's state is the same for all clips.
        return {str(layer): hidden[layer][:, 1:].to(self.dtype) for layer in self.layers}
