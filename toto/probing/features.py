"""Hidden states of a frozen encoder: any layers, in one pass."""

from collections.abc import Callable, Sequence
from math import prod

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from toto.errors import UserError
from toto.probing.clips import Clips
from toto.probing.encoder import Encoder, TrainedEncoder
from toto.training.device import autocast, pick_precision
from toto.training.world import ALONE, World, total

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
    chosen = [*dict.fromkeys(chosen)]
    return chosen if all(0 <= i <= count for i in chosen) else _none(layers, count)


def _none(layers: str, count: int) -> list[int]:
    raise UserError(f"layers {layers!r}: this model has layers 0 to {count}")


class FrozenFeatures:
    """Hidden states of clips at the places of their grid, by layer name.

    They are computed when they are asked for; those of clips that are kept are computed once. They
    are given in fp32, or where that need not be `exact`, in the precision that the encoder computes
    in.
    """

    def __init__(self, encoder: Encoder, layers: Sequence[int], exact: bool = True) -> None:
        self.encoder, self.layers, self.device = encoder, list(layers), encoder.device
        self.precision = pick_precision("auto", self.device)
        self.dtype = torch.float32 if exact or self.precision == "fp32" else torch.bfloat16
        self.bytes = 0
        """memory that the kept states take"""
        self._rows = np.empty(0, np.int64)
        self._kept: Hidden = {}

    def keep(
        self,
        clips: Clips,
        batch: int = 16,
        limit: int = 0,
        world: World = ALONE,
        advance: Callable[[int], None] = lambda done: None,
    ) -> None:
        """Compute the states of clips now and keep them, if they fit into `limit` bytes.

        There is one clip of each row; rows are in order. Processes of a world share the work, and
        keep all.
        """
        shape = self._shape(clips)
        size = len(clips) * len(self.layers) * prod(shape) * self.dtype.itemsize
        if size > limit:
            return
        kept = {str(i): torch.zeros(len(clips), *shape, dtype=self.dtype) for i in self.layers}
        mine = world.part(len(clips))
        for some in mine.split(batch):
            for name, hidden in self._compute(clips[some]).items():
                kept[name][some] = hidden.cpu()
            advance(len(some))
        for states in kept.values():
            total(world, states.view(torch.uint8))  # others' are zero
        self.bytes, self._rows, self._kept = size, clips.rows, kept

    def forget(self) -> None:
        """Give back what is kept."""
        self.bytes, self._kept = 0, {}

    def __call__(self, clips: Clips) -> dict[str, Float[Tensor, "b t c"]]:
        """Hidden states of clips, on the encoder's device."""
        if not self._kept:
            return self._compute(clips)
        places = torch.from_numpy(np.searchsorted(self._rows, clips.rows))
        return {name: x[places].to(self.device) for name, x in self._kept.items()}

    def _shape(self, clips: Clips) -> torch.Size:
        """Of one clip's states."""
        return next(iter(self._compute(clips[:1]).values())).shape[1:]

    @torch.no_grad()
    def _compute(self, clips: Clips) -> dict[str, Tensor]:
        inputs = (
            clips.inputs()
            if isinstance(self.encoder, TrainedEncoder)
            else torch.from_numpy(clips.stored())
        ).to(self.device)
        with autocast(self.device, self.precision):
            hidden = self.encoder.hidden_states(inputs, self.layers)
        return {str(layer): hidden[layer].to(self.dtype) for layer in self.layers}
