"""A trunk that goes on training while probes read it (Toto, as two of its reviews describe it)."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace

from jaxtyping import Int
from torch import Tensor

from toto.models.llama import Llama
from toto.probing.clips import Clips
from toto.probing.config import ProbeTraining
from toto.probing.finetune.network import layer_factor
from toto.training.config import AdamW, Precision
from toto.training.device import autocast
from toto.training.objectives.base import Metrics, Phase
from toto.training.objectives.next_token import token_losses


def trainable_copy(model: Llama, rope_base: float | None = None) -> Llama:
    """A copy whose weights can be trained; with another base of the rotary embedding if asked."""
    trunk = deepcopy(model).train().requires_grad_(True)
    if rope_base is not None:
        trunk.size = replace(trunk.size, rope_base=rope_base)
        trunk.rotary.base = rope_base
    return trunk


def next_token_phase(
    trunk: Llama,
    clips: Callable[[Int[Tensor, " b"], int], Clips],
    config: ProbeTraining,
    steps: int,
    precision: Precision,
) -> Phase:
    """Next-token training of `trunk` as a phase beside probes, on the clips that they see.

    Args:
        trunk: what is trained; the probes read it without gradient
        clips: clips of items in an epoch
        config: how the probes are trained, and it
        steps: of the run
        precision: in which it computes
    """

    def loss(batch: tuple[Int[Tensor, " b"], int, int], step: int) -> tuple[Tensor, Metrics]:
        rows, epoch, count = batch
        sequences = clips(rows.cpu(), epoch).sequences().to(rows.device)
        with autocast(rows.device, precision):
            losses = token_losses(trunk, sequences)
        share = losses.sum() / (count * losses.shape[1])
        return share, {"trunk_loss": share.detach()}

    return Phase(
        "trunk",
        trunk,
        AdamW(
            learning_rate=config.trunk_learning_rate,
            warmup_steps=max(steps // 20, 1),
            final_fraction=0.0,
        ),
        loss,
        lambda name: layer_factor(name, trunk.size.layers, config.trunk_layer_decay),
        decays_alike=False,
    )
