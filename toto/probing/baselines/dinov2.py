"""DINOv2 (Oquab et al. 2023), without and with registers (Darcet et al. 2023)."""

from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from toto.probing.baselines.base import IMAGENET, Beside, ImageBaseline


class DINOv2(ImageBaseline):
    """Reads any size that its processor names: its positions are interpolated."""

    models: ClassVar = {
        "dinov2": "Dinov2Model",
        "dinov2_with_registers": "Dinov2WithRegistersModel",
    }
    usual = IMAGENET
    own_size = None
    reads_any_size = True

    @property
    def special(self) -> int:
        return 1 + getattr(self.model.config, "num_register_tokens", 0)

    @property
    def blocks(self) -> nn.ModuleList:
        return self.model.encoder.layer

    def embed(self, pixels: Float[Tensor, "n 3 s s"]) -> tuple[Float[Tensor, "n t c"], Beside]:
        return self.model.embeddings(pixels), {}
