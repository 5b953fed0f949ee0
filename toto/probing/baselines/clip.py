"""CLIP (Radford et al. 2021): the vision model alone."""

from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from toto.probing.baselines.base import OPENAI, Beside, ImageBaseline, Pixels


class CLIP(ImageBaseline):
    """Layer 0 is what its first norm gives, as in `transformers`."""

    models: ClassVar = {"clip": "CLIPModel", "clip_vision_model": "CLIPVisionModel"}
    usual = OPENAI

    def __init__(self, model: Any, pixels: Pixels) -> None:
        super().__init__(getattr(model, "vision_model", model), pixels)

    @property
    def blocks(self) -> nn.ModuleList:
        return self.model.encoder.layers

    def embed(self, pixels: Float[Tensor, "n 3 s s"]) -> tuple[Float[Tensor, "n t c"], Beside]:
        states = self.model.pre_layrnorm(self.model.embeddings(pixels))
        return states, {"attention_mask": None}
