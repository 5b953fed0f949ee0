"""Next-token prediction over sequences of visual tokens (Toto, section 3)."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from toto.config import to_dict
from toto.models.llama import Llama
from toto.models.saved import save_model
from toto.tokens.loader import Sequences
from toto.tokens.vocabulary import OFFSET, PAD, cut, inputs_and_targets
from toto.training.config import Pretrain
from toto.training.objectives.base import Batch, Metrics, Phase
from toto.training.parallel import ALONE, World


class NextToken:
    """Trains a LLaMA on sequences; validates on the held-out ones."""

    unit = "tokens"

    def __init__(self, config: Pretrain, train: Sequences, validation: Sequences) -> None:
        self.config, self.train, self.held_out = config, train, validation
        torch.manual_seed(config.loop.seed)
        self.model = Llama(config.model, train.vocabulary.size)
        self.modules = nn.ModuleDict({"model": self.model})
        self.phases: tuple[Phase, ...] = (
            Phase("model", self.modules, config.optimizer, self.loss),
        )

    def frames(self, step: int) -> int:
        """Frames of the sequences of a step, by the curriculum."""
        for until, frames in self.config.curriculum:
            if step < until * self.config.loop.steps:
                return frames
        return self.config.frames

    def batches(self, step: int, world: World = ALONE) -> list[Batch]:
        count = self.config.batch
        mine, first = world.share(count), step * count
        sequences = self.train.batch(first + mine.start, len(mine))
        lengths = self.train.lengths(first, count)
        # What a step's sums are divided by, so that each token counts alike in all micro-batches.
        positions = count * (sequences.shape[1] - 2)
        frames = self.frames(step)
        if frames < self.config.frames:
            frame = self.train.vocabulary.frame
            sequences = cut(sequences, frames * frame)
            lengths = np.minimum(lengths, self.config.frames // frames * frames)
            positions = int((-(-lengths // frames)).sum()) * frames * frame
        codes = int(lengths.sum()) * self.train.vocabulary.frame
        pieces = len(mine) // self.config.micro_batch
        return [(piece, positions, codes) for piece in sequences.tensor_split(pieces)]

    def size(self, batch: Batch) -> int:
        return batch[0][:, 2:].numel()

    def loss(self, batch: tuple[Int[Tensor, "b t"], int, int], step: int) -> tuple[Tensor, Metrics]:
        """A micro-batch's share of the step's loss; the log's "loss" is over codes alone."""
        sequences, positions, codes = batch
        losses, targets = token_losses(self.model, sequences)
        of_codes = (losses.detach() * (targets >= OFFSET)).sum()
        return losses.sum() / positions, {"loss": of_codes / codes}

    def schedules(self, step: int) -> dict[str, float]:
        return {"frames": float(self.frames(step))}

    def after_step(self, step: int) -> None:
        pass

    def compile(self) -> None:
        self.model.compile(dynamic=False)

    def validate(self) -> dict[str, float]:
        """Loss over the codes of the validation sequences, whatever the curriculum."""
        count = min(self.config.validation_sequences, self.held_out.clips)
        by_position = position_losses(self.model, self.held_out, count, self.config.micro_batch)
        frame = self.train.vocabulary.frame
        values = {"validation_loss": float(by_position.nanmean())}
        if by_position.shape[1] > frame:
            values["validation_loss_later_frames"] = float(by_position[:, frame:].nanmean())
        return values

    def save(self, run: Path) -> None:
        dataset = self.train.datasets[0]
        details = {
            "vocabulary": self.train.vocabulary.to_dict(),
            "frames": self.config.frames,
            # Stored crops are a matter of training alone.
            "view": to_dict(replace(dataset.view, crops=0, seed=0)),
            "tokenizer": dataset.info["tokenizer"],
        }
        save_model(self.model, details, dataset.tokenizer_folder, run / "model")


def token_losses(
    model: Llama, sequences: Int[Tensor, "b t"]
) -> tuple[Float[Tensor, "b n"], Int[Tensor, "b n"]]:
    """Cross-entropy in nats of each target, 0 where it is padding; and the targets."""
    inputs, targets = inputs_and_targets(sequences)
    logits = model(inputs)
    losses = F.cross_entropy(
        logits.flatten(0, 1).float(), targets.flatten(), ignore_index=PAD, reduction="none"
    )
    return losses.view(targets.shape), targets


@torch.no_grad()
def position_losses(
    model: Llama, sequences: Sequences, count: int, batch: int
) -> Float[Tensor, "sequences positions"]:
    """Loss of each code of the first `count` sequences; NaN where there is none."""
    device = next(model.parameters()).device
    rows = []
    for start in range(0, count, batch):
        tokens = sequences.batch(start, min(batch, count - start)).to(device)
        losses, targets = token_losses(model, tokens)
        rows.append(losses.masked_fill(targets < OFFSET, float("nan")).float().cpu())
    return torch.cat(rows)
