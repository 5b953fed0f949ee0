"""DINOv3 (Siméoni et al. 2025), its vision transformers."""

from dataclasses import replace
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from toto.probing.baselines.base import IMAGENET, Beside, ImageBaseline


class DINOv3(ImageBaseline):
    """Its blocks turn queries and keys by the places' coordinates."""

    models: ClassVar = {"dinov3_vit": "DINOv3ViTModel"}
    usual = replace(IMAGENET, resample="bilinear")
    reads_any_size = True

    @property
    def special(self) -> int:
        return 1 + self.model.config.num_register_tokens

    @property
    def blocks(self) -> nn.ModuleList:
        return self.model.model.layer

    def embed(self, pixels: Float[Tensor, "n 3 s s"]) -> tuple[Float[Tensor, "n t c"], Beside]:
        turns = self.model.rope_embeddings(pixels)
        return self.model.embeddings(pixels), {"position_embeddings": turns}
