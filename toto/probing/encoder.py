"""Whatever gives hidden states to read: trained models, and other encoders beside them."""

from collections.abc import Sequence
from functools import cached_property
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from toto.models.llama import Llama
from toto.models.saved import weights_fingerprint

Inputs = Int[Tensor, "b positions"] | UInt8[Tensor, "b frames 3 height width"]
"""Tokens of clips from the start token to the last code, for a trained model; frames for others."""


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
        self, inputs: Inputs, layers: Sequence[int]
    ) -> dict[int, Float[Tensor, "b t c"]]:
        """A state for each place of its grid, by layer; no block above the highest asked is run.

        What stands for no place, such as a class token, is left out. Resizing and normalising
        frames is the encoder's own business.
        """
        ...


class TokenEncoder:
    """A trained model, which reads tokens."""

    def __init__(self, model: Llama) -> None:
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
        self, inputs: Int[Tensor, "b positions"], layers: Sequence[int]
    ) -> dict[int, Float[Tensor, "b t c"]]:
        """The states of the codes: that of the start token is the same for all clips."""
        hidden = self.model.hidden_states(inputs, layers)
        return {layer: states[:, 1:] for layer, states in hidden.items()}
