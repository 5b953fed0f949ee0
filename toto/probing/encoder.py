"""Whatever gives hidden states to read: trained models, and other encoders beside them."""

from collections.abc import Sequence
from functools import cached_property
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Shaped, UInt8
from torch import Tensor

from toto.models.llama import Backbone
from toto.weights import weights_fingerprint

Sequences = Shaped[Tensor, "b positions ..."]
"""Tokens of clips, from the start to the last code, or patches: what a trained model reads."""

Frames = UInt8[Tensor, "b frames 3 height width"]
"""What every other encoder reads."""


@runtime_checkable
class Encoder(Protocol):
    """A frozen model, layer by layer: 0 is the embedding's output, `i` the output of block `i`."""

    @property
    def layers(self) -> int:
        """Blocks."""
        ...

    @property
    def width(self) -> int:
        """Channels of a state."""
        ...

    @property
    def heads(self) -> int:
        """Heads of its attention."""
        ...

    @property
    def fingerprint(self) -> str:
        """16 hex digits of all that its states depend on, beside the inputs."""
        ...

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        ...

    def hidden_states(
        self, inputs: Sequences | Frames, layers: Sequence[int]
    ) -> dict[int, Float[Tensor, "b t c"]]:
        """A state for each place of its grid, by layer; no block above the highest asked is run.

        What stands for no place, such as a class token, is left out. Resizing and normalising
        frames is the encoder's own business.
        """
        ...


class TrainedEncoder:
    """A trained model, which reads sequences."""

    def __init__(self, model: Backbone) -> None:
        self.model = model
        self.layers, self.width, self.heads = model.size.layers, model.size.width, model.size.heads

    @cached_property
    def fingerprint(self) -> str:
        """Of the weights."""
        return weights_fingerprint(self.model)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    def hidden_states(
        self, inputs: Sequences, layers: Sequence[int]
    ) -> dict[int, Float[Tensor, "b t c"]]:
        """The states of codes or patches: that of the start is the same for all clips."""
        hidden = self.model.hidden_states(inputs, layers)
        return {layer: states[:, 1:] for layer, states in hidden.items()}
