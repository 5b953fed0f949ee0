"""A trunk with a pooled head, as it is fine-tuned: full attention and drop path are put in here."""

import re
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from toto.models.llama import Attention, Llama
from toto.probing.finetune.config import AttentionKind, HeadPool
from toto.probing.pooling import AttentionProbe, attend

# facebookresearch/mae: main_finetune.py
_HEAD_STD = 2e-5


class Head(nn.Module):
    """The mean over the positions or AIM's attention pool, and a linear classifier."""

    def __init__(self, pool: HeadPool, width: int, heads: int, classes: int) -> None:
        super().__init__()
        self.pool = pool
        if pool == "attention":
            self.read: nn.Module = AttentionProbe(width, heads, classes)
            weight = self.read.classifier.weight
        else:
            self.read = nn.Linear(width, classes)
            weight = self.read.weight
            nn.init.zeros_(self.read.bias)
        nn.init.trunc_normal_(weight, std=_HEAD_STD)

    def forward(self, hidden: Float[Tensor, "b t c"]) -> Float[Tensor, "b classes"]:
        if self.pool == "attention":
            return attend(hidden, [self.read])[0]
        return self.read(hidden.mean(1, dtype=torch.float32))


@dataclass
class DropPath:
    """Leaves attentions and MLPs of a trunk's blocks out, for clips chosen by its caller.

    (Stochastic depth, Huang et al. 2016; timm: layers/drop.py.)
    """

    kept: Float[Tensor, "b blocks 2"] | None = None
    """what the outputs of attention and MLP are multiplied by in the next pass; None is by 1"""

    def hold(self, trunk: Llama) -> None:
        """Have the blocks' outputs multiplied from now on."""
        for i, block in enumerate(trunk.model.layers):
            for j, branch in enumerate(("self_attn", "mlp")):

                def scale(
                    module: nn.Module, inputs: object, output: Tensor, at: tuple[int, int] = (i, j)
                ) -> Tensor:
                    if self.kept is None:
                        return output
                    return output * self.kept[:, at[0], at[1], None, None].to(output.dtype)

                block.get_submodule(branch).register_forward_hook(scale)


class Classifier(nn.Module):
    """Classes of clips by the last layer of `trunk`, which it changes, after its norm.

    The start token is read but not pooled.
    """

    def __init__(
        self,
        trunk: Llama,
        attention: AttentionKind,
        pool: HeadPool,
        classes: int,
        drops: bool = False,
    ) -> None:
        super().__init__()
        for module in trunk.modules():
            if isinstance(module, Attention):
                module.causal = attention == "causal"
        self.trunk, self.attention = trunk, attention
        self.head = Head(pool, trunk.size.width, trunk.size.heads, classes)
        self.drop_path = DropPath()
        if drops:
            self.drop_path.hold(trunk)

    def forward(
        self,
        tokens: Int[Tensor, "b t"],
        others: Int[Tensor, "b t"] | None = None,
        share: Float[Tensor, " b"] | None = None,
        kept: Float[Tensor, "b blocks 2"] | None = None,
    ) -> Float[Tensor, "b classes"]:
        """Logits of clips from the start token to the last code.

        Where `others` are given, the embeddings are `share` of the own ones and the rest of theirs;
        `kept` is drop path's, see there.
        """
        embed = self.trunk.model.embed_tokens
        x_btc = embed(tokens)
        if others is not None and share is not None:
            share = share[:, None, None].to(x_btc.dtype)
            x_btc = share * x_btc + (1 - share) * embed(others)
        self.drop_path.kept = kept
        last = self.trunk.size.layers
        states = self.trunk.run_blocks(x_btc, (last,))[last]
        return self.head(self.trunk.normed(states)[:, 1:])


def layer_factor(name: str, blocks: int, decay: float) -> float:
    """Learning rate of a parameter of a trunk, or of a `Classifier`, as a factor of the highest.

    The embedding is layer 0, block `i` layer `i`, and all above them layer `blocks + 1`, whose
    factor is 1 (facebookresearch/mae: util/lr_decay.py).
    """
    if "embed_tokens" in name:
        return decay ** (blocks + 1)
    block = re.search(r"\.layers\.(\d+)\.", f".{name}")
    return decay ** (blocks - int(block[1])) if block else 1.0
