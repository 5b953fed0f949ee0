"""LLaMA's blocks over patches of pixels: what comes in is continuous, and what comes out may be.

Sequences are those of `toto.tokens.patches`: uint8 `(b, t, values)`, the start's values its kind.
"""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from toto.errors import UserError
from toto.models.llama import Backbone, Block, Cache
from toto.models.sizes import LlamaSize

# Of ImageNet's pixels, red, green and blue, from 0 to 1.
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

_EPSILON = 1e-6  # MAE's, added to a patch's variance

_STARTS = 4  # rows for the ids of starts, of which two are used


def normalise(patches: UInt8[Tensor, "*b values"]) -> Float[Tensor, "*b values"]:
    """Pixels by ImageNet's mean and deviation."""
    pixels = patches.unflatten(-1, (-1, 3)).float() / 255
    return ((pixels - pixels.new_tensor(_MEAN)) / pixels.new_tensor(_STD)).flatten(-2)


def moments(
    normalised: Float[Tensor, "*b values"],
) -> tuple[Float[Tensor, "*b 1"], Float[Tensor, "*b 1"]]:
    """Mean and deviation of each patch, the variance unbiased, as MAE takes them."""
    variance, mean = torch.var_mean(normalised, -1, keepdim=True)
    return mean, (variance + _EPSILON).sqrt()


def norm_pix(patches: UInt8[Tensor, "*b values"]) -> Float[Tensor, "*b values"]:
    """The targets of regression: each patch by its own mean and deviation (MAE's norm_pix_loss).

    Source: facebookresearch/mae, models_mae.py.
    """
    normalised = normalise(patches)
    mean, deviation = moments(normalised)
    return (normalised - mean) / deviation


def to_pixels(
    predicted: Float[Tensor, "*b values"], like: UInt8[Tensor, "*b values"]
) -> UInt8[Tensor, "*b values"]:
    """Predicted targets as pixels, with the mean and deviation of the patches `like`.

    What `norm_pix` takes away is not predicted and has to come from somewhere.
    """
    mean, deviation = moments(normalise(like))
    normalised = (predicted.float() * deviation + mean).unflatten(-1, (-1, 3))
    pixels = normalised * normalised.new_tensor(_STD) + normalised.new_tensor(_MEAN)
    return (255 * pixels).round().clamp(0, 255).to(torch.uint8).flatten(-2)


class PatchTrunk(nn.Module):
    """Embeddings of patches and starts, blocks and final norm."""

    def __init__(self, size: LlamaSize, values: int) -> None:
        super().__init__()
        self.embed_patches = nn.Linear(values, size.width)
        self.embed_start = nn.Embedding(_STARTS, size.width)
        self.layers = nn.ModuleList(Block(size) for _ in range(size.layers))
        self.norm = nn.RMSNorm(size.width, eps=size.norm_eps)


class PatchLlama(Backbone):
    """Predicts of the next patch the patch itself, as `norm_pix` gives it, or logits of its token.

    Args:
        size: shape of the blocks.
        patch: side of a patch in pixels.
        vocabulary: rows of the head, where tokens are predicted; None: patches are.

    Raises:
        UserError: `size` asks for muP or a tied head.
    """

    def __init__(self, size: LlamaSize, patch: int, vocabulary: int | None = None) -> None:
        if size.mup_base is not None or size.tied_head:
            raise UserError("mup_base and tied_head are for models of tokens, not of patches")
        super().__init__(size)
        self.patch, self.vocabulary = patch, vocabulary
        self.model = PatchTrunk(size, self.values)
        self.head = nn.Linear(size.width, self.values if vocabulary is None else vocabulary)
        self.ends = self.values + self.head.out_features
        self.init_weights()

    @property
    def values(self) -> int:
        """Values of a patch: three of each pixel."""
        return 3 * self.patch**2

    def fill(self, name: str, weight: Tensor) -> None:
        if name.endswith("bias"):
            nn.init.zeros_(weight)
        else:
            super().fill(name, weight)

    def embed(self, inputs: UInt8[Tensor, "b t values"], first: bool) -> Float[Tensor, "b t c"]:
        if not first:
            return self.model.embed_patches(normalise(inputs))
        start = self.model.embed_start(inputs[:, :1, 0].long())
        patches = self.model.embed_patches(normalise(inputs[:, 1:]))
        return torch.cat((start, patches.to(start.dtype)), dim=1)

    def forward(
        self, patches: UInt8[Tensor, "b t values"], cache: Cache | None = None
    ) -> Float[Tensor, "b t outputs"]:
        """What is predicted of the next patch at each position; `cache` is as in `Llama`."""
        last = self.size.layers
        x_btc = self._run(patches, (last,), cache)[last]
        return self.head(self.normed(x_btc))
