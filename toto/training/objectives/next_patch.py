"""Patches in; the next patch out, or its code (Toto, Table 3: patch-patch and patch-dVAE)."""

from jaxtyping import Float, UInt8
from torch import Tensor

from toto.models.patches import PatchLlama, norm_pix
from toto.tokens.loader import Sequences
from toto.tokens.patches import PatchGrid
from toto.tokens.vocabulary import inputs_and_targets
from toto.training.config import Pretrain
from toto.training.objectives.autoregressive import Autoregressive, Losses
from toto.training.objectives.next_token import token_losses


def patch_losses(
    model: PatchLlama, sequences: UInt8[Tensor, "b t values"], targets: None = None
) -> Float[Tensor, "b n"]:
    """Mean squared error of each next patch, by its own mean and deviation (MAE's norm_pix_loss).

    Of padding there are losses too, which whoever adds them up leaves out.
    """
    inputs, patches = inputs_and_targets(sequences)
    return (model(inputs).float() - norm_pix(patches)).square().mean(-1)


class NextPatch(Autoregressive):
    """Trains a model of patches on pixels: regression, or where targets are joined, their codes."""

    unit = "patches"

    def __init__(self, config: Pretrain, train: Sequences, validation: Sequences) -> None:
        self.losses: Losses = token_losses if train.targets else patch_losses
        self.predicts_end = bool(train.targets)
        super().__init__(config, train, validation)

    def build(self) -> PatchLlama:
        layout = self.train.layout
        assert isinstance(layout, PatchGrid)
        rows = self.train.targets[0].vocabulary.size if self.train.targets else None
        return PatchLlama(self.config.model, layout.patch, rows)
