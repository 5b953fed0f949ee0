"""Next-token prediction over sequences of visual tokens (Toto, section 3)."""

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor
from torch.nn import functional as F

from toto.models.llama import Backbone, Llama
from toto.tokens.loader import Sequences
from toto.tokens.vocabulary import OFFSET, PAD, inputs_and_targets
from toto.training.objectives.autoregressive import Autoregressive


def token_losses(
    model: Backbone,
    sequences: Shaped[Tensor, "b t ..."],
    targets: Int[Tensor, "b t"] | None = None,
) -> Float[Tensor, "b n"]:
    """Cross-entropy in nats of each next token of `targets`, by default those that are read."""
    inputs, _ = inputs_and_targets(sequences)
    _, tokens = inputs_and_targets(sequences if targets is None else targets)
    logits = model(inputs)
    losses = F.cross_entropy(
        logits.flatten(0, 1).float(), tokens.flatten(), ignore_index=PAD, reduction="none"
    )
    return losses.view(tokens.shape)


class NextToken(Autoregressive):
    """Trains a LLaMA on sequences of tokens."""

    unit = "tokens"
    losses = staticmethod(token_losses)

    def build(self) -> Llama:
        return Llama(self.config.model, self.train.vocabulary.size)


@torch.no_grad()
def position_losses(
    model: Backbone, sequences: Sequences, count: int, batch: int
) -> Float[Tensor, "sequences positions"]:
    """Loss of each code of the first `count` sequences; NaN where there is none."""
    device = next(model.parameters()).device
    rows = []
    for start in range(0, count, batch):
        tokens = sequences.batch(start, min(batch, count - start)).to(device)
        is_none = tokens[:, 1:-1] < OFFSET
        losses = token_losses(model, tokens).masked_fill(is_none, float("nan"))
        rows.append(losses.float().cpu())
    return torch.cat(rows)
