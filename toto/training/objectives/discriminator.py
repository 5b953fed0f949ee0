"""The adversary of a VQGAN: PatchGAN (Isola et al. 2017; taming/modules/discriminator/model.py)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


class PatchDiscriminator(nn.Module):
    """Pixels `(n, 3, height, width)` to a score of each patch, high where it looks real.

    `layers` convolutions halve the resolution; two more of stride 1 follow. Norms are over the
    micro-batch, always: nothing but the weights remains of a step.
    """

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        widths = [width * min(2**i, 8) for i in range(layers + 1)]
        parts: list[nn.Module] = [nn.Conv2d(3, width, 4, 2, 1), nn.LeakyReLU(0.2)]
        for i in range(1, layers + 1):
            stride = 2 if i < layers else 1
            parts.append(nn.Conv2d(widths[i - 1], widths[i], 4, stride, 1, bias=False))
            parts.append(nn.BatchNorm2d(widths[i], track_running_stats=False))
            parts.append(nn.LeakyReLU(0.2))
        self.main = nn.Sequential(*parts, nn.Conv2d(widths[-1], 1, 4, 1, 1))
        for part in self.main:
            if isinstance(part, nn.Conv2d):
                nn.init.normal_(part.weight, 0.0, 0.02)
            elif isinstance(part, nn.BatchNorm2d):
                nn.init.normal_(part.weight, 1.0, 0.02)

    def forward(
        self, pixels: Float[Tensor, "n 3 height width"]
    ) -> Float[Tensor, "n 1 patch_rows patch_cols"]:
        return self.main(pixels)


def hinge(real: Float[Tensor, "..."], made: Float[Tensor, "..."]) -> Float[Tensor, ""]:
    """Half of how far scores are on the wrong side of 1 for real, and of -1 for made patches."""
    return (F.relu(1 - real).mean() + F.relu(1 + made).mean()) / 2


def adaptive_weight(
    reconstruction: Float[Tensor, ""], adversarial: Float[Tensor, ""], last_layer: Tensor
) -> Float[Tensor, ""]:
    """What makes two losses pull equally at the last layer (Esser et al. 2021, equation 7)."""
    norms = [
        torch.autograd.grad(loss, last_layer, retain_graph=True)[0].norm()
        for loss in (reconstruction, adversarial)
    ]
    return (norms[0] / (norms[1] + 1e-4)).clamp(max=1e4)
