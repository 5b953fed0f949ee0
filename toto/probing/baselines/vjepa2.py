"""V-JEPA 2 (Assran et al. 2025): the encoder alone."""

from dataclasses import replace
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from toto.probing.baselines.base import IMAGENET, Beside, Pixels, VideoBaseline, lengthen


class VJEPA2(VideoBaseline):
    """Reads clips of any length: its blocks turn queries and keys by time, row and column."""

    models: ClassVar = {"vjepa2": "VJEPA2Model"}
    usual = replace(IMAGENET, resample="bilinear")
    own_size = "crop_size"

    def __init__(self, model: Any, pixels: Pixels) -> None:
        super().__init__(model.encoder, pixels)
        self.frames = model.config.frames_per_clip

    @property
    def blocks(self) -> nn.ModuleList:
        return self.model.layer

    def embed(
        self, pixels: Float[Tensor, "b frames 3 s s"]
    ) -> tuple[Float[Tensor, "b t c"], Beside]:
        return self.model.embeddings(pixels), {}

    def _pass(self, block: nn.Module, states: Tensor, beside: Beside) -> Tensor:
        # The attention's weights stand beside the states.
        return block(states, **beside)[0]

    def _arrange(self, pixels: Float[Tensor, "b given 3 s s"]) -> Float[Tensor, "b frames 3 s s"]:
        tubelet, given = self.model.config.tubelet_size, pixels.shape[1]
        return lengthen(pixels, -(-given // tubelet) * tubelet)
