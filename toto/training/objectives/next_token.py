"""Next-token prediction over sequences of visual tokens (Toto, section 3)."""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from toto.models.cost import Flops, training_flops
from toto.models.llama import Llama
from toto.models.saved import save_model
from toto.tokens.loader import Sequences
from toto.tokens.vocabulary import OFFSET, PAD, cut, inputs_and_targets
from toto.training.adopt import details_of
from toto.training.config import Pretrain
from toto.training.initial import first_values
from toto.training.objectives.base import Batch, Metrics, Objective, Phase
from toto.training.parallel import ALONE, World, fill, is_sharded, total, whole


class NextToken(Objective):
    """Trains a LLaMA on sequences; validates on the held-out ones.

    The model has no values until `initialise`, or a checkpoint, gives them.
    """

    unit = "tokens"

    def __init__(self, config: Pretrain, train: Sequences, validation: Sequences) -> None:
        self.config, self.train, self.held_out = config, train, validation
        with torch.device("meta"):
            self.model = Llama(config.model, train.vocabulary.size)
        self.modules = nn.ModuleDict({"model": self.model})
        self.phases = (
            Phase("model", self.model, config.optimizer, self.loss, self.model.rate_factor),
        )
        self._losses = token_losses
        self.parts = {
            "source_loss": train.names,
            "frame_loss": tuple(f"{frame:02}" for frame in range(1, config.frames + 1)),
        }

    def initialise(self) -> None:
        """Draw the weights one after the other, each whole; or read them from `init_from`."""
        torch.manual_seed(self.config.loop.seed)
        with first_values(self.model, self.config.init_from) as value_of:
            for name, parameter in self.model.named_parameters():
                fill(parameter, value_of(name, parameter.shape))

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
        sources = torch.from_numpy(self.train.source_numbers(first + mine.start, len(mine)))
        lengths = self.train.lengths(first, count)
        # What a step's sums are divided by, so that each token counts alike in all micro-batches.
        positions = count * (sequences.shape[1] - 2)
        frames = self.frames(step)
        if frames < self.config.frames:
            frame = self.train.vocabulary.frame
            sequences, origins = cut(sequences, frames * frame)
            sources = sources[origins]
            lengths = np.minimum(lengths, self.config.frames // frames * frames)
            positions = int((-(-lengths // frames)).sum()) * frames * frame
        codes = int(lengths.sum()) * self.train.vocabulary.frame
        pieces = len(mine) // self.config.micro_batch
        return [
            (*piece, positions, codes)
            for piece in zip(
                sequences.tensor_split(pieces), sources.tensor_split(pieces), strict=True
            )
        ]

    def size(self, batch: Batch) -> int:
        return batch[0][:, 2:].numel()

    def loss(
        self, batch: tuple[Int[Tensor, "b t"], Int[Tensor, " b"], int, int], step: int
    ) -> tuple[Tensor, Metrics]:
        """A micro-batch's share of the step's loss; all that is logged is over codes alone."""
        sequences, sources, positions, codes = batch
        losses, targets = self._losses(self.model, sequences)
        parts = self._parts(losses.detach(), targets, sources, len(self.train.names))
        return losses.sum() / positions, {"loss": parts["source_loss"][0].sum() / codes} | parts

    def flops(self, step: int) -> Flops:
        positions = self.frames(step) * self.train.vocabulary.frame
        return training_flops(self.config.model, positions, self.model.vocabulary)

    def schedules(self, step: int) -> dict[str, float]:
        return {"frames": float(self.frames(step))}

    def compile(self) -> None:
        """The model and its loss as one; of a model that is divided, each block by itself."""
        if is_sharded(self.model):
            for block in self.model.model.layers:
                block.compile()
            return
        compiled = torch.compile(token_losses, fullgraph=True)

        def losses(model: Llama, sequences: Tensor) -> tuple[Tensor, Tensor]:
            # Lengths are few, numbers of pieces many.
            torch._dynamo.mark_static(sequences, 1)
            return compiled(model, sequences)

        self._losses = losses

    def validate(self, world: World = ALONE) -> dict[str, float]:
        """Loss over the codes of the validation sequences, whatever the curriculum.

        All processes run as many forward passes; sequences that come up again count once.
        """
        count = min(self.config.validation_sequences, self.held_out.clips)
        batch = min(self.config.micro_batch, count)
        device, known = next(self.model.parameters()).device, len(self.held_out.names)
        sums: dict[str, Tensor] = {}
        for start in range(0, count, batch * world.size):
            first = min(start + world.rank * batch, count - batch)
            new = torch.arange(first, first + batch) >= start + world.rank * batch
            tokens = self.held_out.batch(first, batch)
            losses, targets = token_losses(self.model, tokens.to(device))
            sources = torch.from_numpy(self.held_out.source_numbers(first, batch))
            targets = targets.where(new.to(device)[:, None], PAD)
            for name, part in self._parts(losses, targets, sources.to(device), known).items():
                sums[name] = sums.get(name, 0) + part.double().cpu()
        return self._validation({name: total(world, part) for name, part in sums.items()})

    def save(self, run: Path, world: World = ALONE) -> None:
        weights = {}
        for name, value in self.model.state_dict().items():
            every = whole(value)  # by all processes, and kept by one
            if world.is_first:
                weights[name] = every.cpu()
        if not world.is_first:
            return
        with torch.device("meta"):
            model = Llama(self.config.model, self.model.vocabulary)
        model.load_state_dict(weights, assign=True)
        dataset = self.train.datasets[0]
        details = details_of(dataset, self.config.frames)
        save_model(model, details, dataset.tokenizer_folder, run / "model")

    def _parts(
        self,
        losses: Float[Tensor, "b n"],
        targets: Int[Tensor, "b n"],
        sources: Int[Tensor, " b"],
        known: int,
    ) -> Metrics:
        """Sum of the losses of codes, and how many they are, by source and by frame of the clip."""
        of_codes = targets >= OFFSET
        both = torch.stack((losses.float() * of_codes, of_codes.float()))  # (2, b, n)
        by_frame = both.unflatten(2, (-1, self.train.vocabulary.frame)).sum((1, 3))
        one_hot = F.one_hot(sources, known)
        missing = len(self.parts["frame_loss"]) - by_frame.shape[1]
        return {
            # No matrix product: autocast would round it.
            "source_loss": (both.sum(2)[:, :, None] * one_hot).sum(1),
            "frame_loss": F.pad(by_frame, (0, missing)),
        }

    def _validation(self, sums: Metrics) -> dict[str, float]:
        (losses, counts), (of_sources, source_counts) = sums["frame_loss"], sums["source_loss"]
        values = {"validation_loss": float(losses.sum() / counts.sum())}
        if counts[1:].any():
            later = losses[1:].sum() / counts[1:].sum()
            values["validation_loss_later_frames"] = float(later)
        for name, loss, codes in zip(
            self.held_out.names, of_sources.tolist(), source_counts.tolist(), strict=True
        ):
            if codes and len(self.held_out.names) > 1:
                values[f"validation_loss/{name}"] = loss / codes
        return values


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
