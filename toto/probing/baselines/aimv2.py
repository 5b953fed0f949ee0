"""AIMv2 (Fini et al. 2024): the vision model alone."""

from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from toto.probing.baselines.base import OPENAI, Beside, ImageBaseline, Pixels


class AIMv2(ImageBaseline):
    """Has no class token."""

    models: ClassVar = {"aimv2_vision_model": "Aimv2VisionModel", "aimv2": "Aimv2Model"}
    usual = OPENAI

    def __init__(self, model: Any, pixels: Pixels) -> None:
        super().__init__(getattr(model, "vision_model", model), pixels)

    @property
    def special(self) -> int:
        return 0

    @property
    def blocks(self) -> nn.ModuleList:
        return self.model.encoder.layers

    def embed(self, pixels: Float[Tensor, "n 3 s s"]) -> tuple[Float[Tensor, "n t c"], Beside]:
        return self.model.embeddings(pixels), {}
