"""Latents to codes and back: the nearest of vectors that are learned, or rounded scalars.

Each quantiser's module stands where CompVis' `quantize` does, under its parameters' names.
"""

from math import prod

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

# Distances that are held at a time: 64 MB.
_DISTANCES = 2**24


class VectorQuantizer(nn.Module):
    """Each latent becomes the nearest vector of a codebook (van den Oord et al. 2017)."""

    def __init__(self, codebook_size: int, width: int, unit_codes: bool) -> None:
        super().__init__()
        self.width, self.unit_codes = width, unit_codes
        self.embedding = nn.Embedding(codebook_size, width)
        nn.init.uniform_(self.embedding.weight, -1 / codebook_size, 1 / codebook_size)

    def forward(
        self, latents: Float[Tensor, "n width rows cols"]
    ) -> tuple[Float[Tensor, "n width rows cols"], Tensor, Tensor]:
        """What the decoder reads, its gradient handed to the latents as it is, and two losses.

        The losses are the squared distances that draw the latents to their codes (commitment), and
        the codes to the latents that they stand for.
        """
        latents = self._scaled(latents.float(), 1)
        vectors = self.vectors(self.codes(latents))
        commitment = F.mse_loss(latents, vectors.detach())
        following = F.mse_loss(vectors, latents.detach())
        return latents + (vectors - latents).detach(), commitment, following

    def codes(self, latents: Float[Tensor, "n width rows cols"]) -> Int[Tensor, "n rows cols"]:
        """The code nearest to each latent."""
        n, width, rows, cols = latents.shape
        points = self._scaled(latents.float(), 1).movedim(1, -1).reshape(-1, width)
        return nearest(points, self._scaled(self.embedding.weight, 1)).view(n, rows, cols)

    def vectors(self, codes: Int[Tensor, "n rows cols"]) -> Float[Tensor, "n width rows cols"]:
        """The codes' vectors."""
        return F.embedding(codes, self._scaled(self.embedding.weight, 1)).movedim(-1, 1)

    @torch.no_grad()
    def revive(self, latents: Float[Tensor, "n width rows cols"]) -> None:
        """Put codes that none of these latents has to where latents are far from theirs.

        Where they go is drawn in proportion to the squared distance.
        """
        codes = self.codes(latents)
        unused = torch.bincount(codes.flatten(), minlength=len(self.embedding.weight)) == 0
        count = int(unused.sum())
        if count:
            scaled = self._scaled(latents.float(), 1)
            away = (scaled - self.vectors(codes)).square().sum(1).flatten()
            drawn = torch.multinomial(away + 1e-12, count, replacement=count > len(away))
            self.embedding.weight[unused] = scaled.movedim(1, -1).flatten(0, 2)[drawn]

    def _scaled(self, vectors: Tensor, dim: int) -> Tensor:
        return F.normalize(vectors, dim=dim) if self.unit_codes else vectors


class ScalarQuantizer(nn.Module):
    """Each channel of a latent is bounded and rounded (FSQ; Mentzer et al. 2023, section 3.1).

    There is no codebook to learn, hence none that can fall out of use.
    """

    levels: Tensor
    places: Tensor

    def __init__(self, levels: tuple[int, ...]) -> None:
        super().__init__()
        self.width = len(levels)
        places = [prod(levels[:i]) for i in range(len(levels))]
        for name, values in (("levels", levels), ("places", places)):
            # No weights, hence there even where a module is made without any.
            column = torch.tensor(values, device="cpu").view(-1, 1, 1)
            self.register_buffer(name, column, persistent=False)

    def forward(
        self, latents: Float[Tensor, "n width rows cols"]
    ) -> tuple[Float[Tensor, "n width rows cols"], Tensor, Tensor]:
        """What the decoder reads, the rounding left out of its gradient; no losses are needed."""
        bounded = self._bounded(latents.float())
        none = bounded.new_zeros(())
        return self._scaled(bounded + (bounded.round() - bounded).detach()), none, none

    def codes(self, latents: Float[Tensor, "n width rows cols"]) -> Int[Tensor, "n rows cols"]:
        """The code of each latent, its first channel the least significant digit."""
        digits = self._bounded(latents.float()).round().long() + self.levels // 2
        return (digits * self.places).sum(1)

    def vectors(self, codes: Int[Tensor, "n rows cols"]) -> Float[Tensor, "n width rows cols"]:
        """The rounded latents that the codes stand for."""
        digits = codes.unsqueeze(1) // self.places % self.levels
        return self._scaled((digits - self.levels // 2).float())

    def _bounded(self, latents: Tensor) -> Tensor:
        """To the interval that rounds to as many integers as there are levels."""
        # A little wider than the integers, so that the outermost are reached.
        half = (self.levels - 1) * (1 + 1e-3) / 2
        # An even number of levels has no middle: zero comes to lie on one.
        offset = (self.levels % 2 == 0) * 0.5
        return half * torch.tanh(latents + torch.atanh(offset / half)) - offset

    def _scaled(self, digits: Tensor) -> Tensor:
        return digits / (self.levels // 2)


@torch.no_grad()
def nearest(
    points: Float[Tensor, "n width"], vectors: Float[Tensor, "codes width"]
) -> Int[Tensor, " n"]:
    """The index of the vector nearest to each point, in fp32 and in bounded memory."""
    with torch.autocast(points.device.type, enabled=False):
        points, vectors = points.float(), vectors.float()
        # The square of a point is the same for all vectors.
        half_squares = vectors.square().sum(1) / 2
        chunks = points.split(max(_DISTANCES // len(vectors), 1))
        return torch.cat(
            [torch.addmm(half_squares, chunk, vectors.T, alpha=-1).argmin(1) for chunk in chunks]
        )
