"""VideoMAE (Tong et al. 2022): the encoder alone, and all of the clip."""

from dataclasses import replace
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from toto.errors import UserError
from toto.probing.baselines.base import IMAGENET, Beside, Pixels, VideoBaseline, lengthen


class VideoMAE(VideoBaseline):
    """Reads clips of one length."""

    models: ClassVar = {"videomae": "VideoMAEModel"}
    usual = replace(IMAGENET, resample="bilinear")

    def __init__(self, model: Any, pixels: Pixels) -> None:
        super().__init__(model, pixels)
        self.frames = model.config.num_frames

    @property
    def blocks(self) -> nn.ModuleList:
        return self.model.encoder.layer

    def embed(
        self, pixels: Float[Tensor, "b frames 3 s s"]
    ) -> tuple[Float[Tensor, "b t c"], Beside]:
        return self.model.embeddings(pixels, None), {}

    def _arrange(self, pixels: Float[Tensor, "b given 3 s s"]) -> Float[Tensor, "b frames 3 s s"]:
        if pixels.shape[1] > self.frames:
            raise UserError(f"{pixels.shape[1]} frames: this VideoMAE reads {self.frames} at most")
        return lengthen(pixels, self.frames)
