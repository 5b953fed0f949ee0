"""MAE (He et al. 2021): the encoder alone, and all of the picture."""

from dataclasses import replace
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from toto.probing.baselines.base import IMAGENET, Beside, ImageBaseline, Pixels


class MAE(ImageBaseline):
    """Nothing is masked."""

    models: ClassVar = {"vit_mae": "ViTMAEModel"}
    usual = replace(IMAGENET, resample="bilinear")

    def __init__(self, model: Any, pixels: Pixels) -> None:
        super().__init__(model, pixels)
        # After the fingerprint: what was masked in training says nothing of the states.
        model.config.mask_ratio = 0.0

    @property
    def blocks(self) -> nn.ModuleList:
        return self.model.layers

    def embed(self, pixels: Float[Tensor, "n 3 s s"]) -> tuple[Float[Tensor, "n t c"], Beside]:
        # Patches are shuffled even so, in the order of this noise.
        places = self.model.embeddings.patch_embeddings.num_patches
        noise = torch.arange(places, device=pixels.device).expand(len(pixels), -1)
        return self.model.embeddings(pixels, noise)[0], {}
