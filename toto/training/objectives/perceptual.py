"""How different two images look to a network: LPIPS (Zhang et al. 2018) on VGG-16.

Its weights are a file that the user brings, under the names they have in CompVis' checkpoints
(taming/modules/losses/lpips.py): `net.slice1.0.weight` ... `lin4.model.1.weight`.
"""

from collections.abc import Iterator
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from toto.errors import UserError
from toto.tokenizers.base import refuse_misfits

# VGG-16's convolutions by their numbers among its layers, in five slices with a pool between.
_SLICES = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))
_WIDTHS = (64, 128, 256, 512, 512)
# Of pixels in [-1, 1], as the network was trained on.
_MEAN, _STD = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)


class Perceptual:
    """The distance, with frozen weights that no checkpoint of a training holds."""

    def __init__(self, path: Path) -> None:
        """Read the weights.

        Raises:
            UserError: there is no such file, or it holds something else.
        """
        try:
            weights = load_file(path)
        except (OSError, SafetensorError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"{path} cannot be read: {reason}") from error
        refuse_misfits(weights, _expected(), str(path))
        self.weights = {name: value.float() for name, value in weights.items()}

    def __call__(
        self, image: Float[Tensor, "n 3 height width"], pixels: Float[Tensor, "n 3 height width"]
    ) -> Float[Tensor, ""]:
        """Mean over the frames; both are around [-1, 1], and the gradient is `image`'s alone."""
        if self.weights["lin0.model.1.weight"].device != image.device:
            self.weights = {name: value.to(image.device) for name, value in self.weights.items()}
        with torch.no_grad():
            wanted = list(self._features(pixels))
        distance = image.new_zeros(())
        for i, (found, target) in enumerate(zip(self._features(image), wanted, strict=True)):
            lin = self.weights[f"lin{i}.model.1.weight"]
            distance = distance + F.conv2d((found - target).square(), lin).mean()
        return distance

    def _features(self, x: Tensor) -> Iterator[Tensor]:
        """What each slice gives, of length 1 at each place."""
        mean, std = (x.new_tensor(values).view(3, 1, 1) for values in (_MEAN, _STD))
        x = (x - mean) / std
        for i, convolutions in enumerate(_SLICES):
            x = F.max_pool2d(x, 2) if i else x
            for number in convolutions:
                name = f"net.slice{i + 1}.{number}"
                weight, bias = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
                x = F.relu(F.conv2d(x, weight, bias, padding=1))
            features = x.float()
            yield features / (features.norm(dim=1, keepdim=True) + 1e-10)


def _expected() -> dict[str, Tensor]:
    """Names and shapes of the weights."""
    shapes: dict[str, tuple[int, ...]] = {}
    n_in = 3
    for i, (convolutions, width) in enumerate(zip(_SLICES, _WIDTHS, strict=True)):
        for number in convolutions:
            shapes[f"net.slice{i + 1}.{number}.weight"] = (width, n_in, 3, 3)
            shapes[f"net.slice{i + 1}.{number}.bias"] = (width,)
            n_in = width
        shapes[f"lin{i}.model.1.weight"] = (1, width, 1, 1)
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
