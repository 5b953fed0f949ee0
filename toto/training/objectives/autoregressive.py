"""What is next in a sequence, whatever it is made of: batches, losses by part, validation."""

from abc import abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn
from torch.nn import functional as F

from toto.models.cost import Flops, training_flops
from toto.models.llama import Backbone, Llama
from toto.models.patches import PatchLlama
from toto.models.saved import save_model
from toto.tokens.loader import Sequences
from toto.tokens.vocabulary import cut
from toto.training.adopt import details_of
from toto.training.config import Pretrain
from toto.training.initial import first_values
from toto.training.objectives.base import Metrics, Objective, Phase
from toto.training.parallel import fill, is_sharded, whole
from toto.training.world import ALONE, World, total
from toto.weights import unfilled

Losses = Callable[..., Tensor]
"""(model, sequences, targets) to the loss of each prediction `(b, n)`. Targets are sequences too,
None where they are the very sequences that are read."""


class Piece(NamedTuple):
    """A micro-batch: sequences, whole or cut out of a step's by the curriculum."""

    sequences: Shaped[Tensor, "b t ..."]
    targets: Shaped[Tensor, "b t ..."] | None
    filled: Int[Tensor, " b"]
    """codes, or patches, that each holds"""
    sources: Int[Tensor, " b"]
    """the number of the source that each is of"""
    positions: int
    """in all sequences of the step: what its losses are divided by"""
    codes: int
    """in all sequences of the step: what the logged losses are divided by"""


class Autoregressive(Objective):
    """Trains LLaMA's blocks on sequences; validates on the held-out ones.

    The model has no values until `initialise`, or a checkpoint, gives them.
    """

    unit = "tokens"  # patches count as such, so that runs of both have the same curves
    losses: Losses
    """those of what the model predicts"""
    predicts_end = True
    """whether the end of a short sequence, which is no code, is predicted too"""

    def __init__(self, config: Pretrain, train: Sequences, validation: Sequences) -> None:
        self.config, self.train, self.held_out = config, train, validation
        with unfilled():
            self.model = self.build()
        self.modules = nn.ModuleDict({"model": self.model})
        self.phases = (
            Phase(
                "model",
                self.model,
                config.optimizer,
                self.loss,
                self.model.rate_factor,
                muon=config.muon,
            ),
        )
        self._losses = self.losses
        self.parts = {
            "source_loss": train.names,
            "frame_loss": tuple(f"{frame:02}" for frame in range(1, config.frames + 1)),
        }

    @abstractmethod
    def build(self) -> Llama | PatchLlama:
        """The model, of whatever values."""

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

    def batches(self, step: int, world: World = ALONE) -> list[Piece]:
        count, frame = self.config.batch, self.train.layout.frame
        mine, first = world.share(count), step * count
        sequences, targets = _read(self.train, first + mine.start, len(mine))
        sources = torch.from_numpy(self.train.source_numbers(first + mine.start, len(mine)))
        lengths = self.train.lengths(first, count)
        filled = torch.from_numpy(lengths[mine.start : mine.stop]) * frame
        # What a step's sums are divided by, so that each token counts alike in all micro-batches.
        positions = count * (sequences.shape[1] - 2)
        frames = self.frames(step)
        if frames < self.config.frames:
            if targets is not None:
                targets, _, _ = cut(targets, filled, frames * frame)
            sequences, origins, filled = cut(sequences, filled, frames * frame)
            sources = sources[origins]
            lengths = np.minimum(lengths, self.config.frames // frames * frames)
            positions = int((-(-lengths // frames)).sum()) * frames * frame
        codes = int(lengths.sum()) * frame
        pieces = len(mine) // self.config.micro_batch
        columns = [
            (None,) * pieces if column is None else column.tensor_split(pieces)
            for column in (sequences, targets, filled, sources)
        ]
        parts = zip(*columns, strict=True)
        return [Piece._make((*part, positions, codes)) for part in parts]

    def size(self, batch: Piece) -> int:
        count, length = batch.sequences.shape[:2]
        return count * (length - 2)

    def loss(self, batch: Piece, step: int) -> tuple[Tensor, Metrics]:
        """A micro-batch's share of the step's loss; all that is logged is over codes alone."""
        losses = self._losses(self.model, batch.sequences, batch.targets)
        of_codes = _of_codes(losses, batch.filled)
        parts = self._parts(losses.detach(), of_codes, batch.sources, len(self.train.names))
        loss = parts["source_loss"][0].sum() / batch.codes
        counted = losses if self.predicts_end else losses * of_codes
        return counted.sum() / batch.positions, {"loss": loss} | parts

    def flops(self, step: int) -> Flops:
        positions = self.frames(step) * self.train.layout.frame
        return training_flops(self.config.model, positions, self.model.ends)

    def schedules(self, step: int) -> dict[str, float]:
        return {"frames": float(self.frames(step))}

    def compile(self) -> None:
        """The model and its loss as one; of a model that is divided, each block by itself."""
        if is_sharded(self.model):
            for block in self.model.model.layers:
                block.compile()
            return
        compiled = torch.compile(self.losses, fullgraph=True)

        def losses(model: Backbone, sequences: Tensor, targets: Tensor | None) -> Tensor:
            # Lengths are few, numbers of pieces many.
            for tensor in (sequences, targets):
                if tensor is not None:
                    torch._dynamo.mark_static(tensor, 1)
            return compiled(model, sequences, targets)

        self._losses = losses

    def validate(self, world: World = ALONE) -> dict[str, float]:
        """Loss over the codes of the validation sequences, whatever the curriculum.

        All processes run as many forward passes; sequences that come up again count once.
        """
        count = min(self.config.validation_sequences, self.held_out.clips)
        batch = min(self.config.micro_batch, count)
        device, known = next(self.model.parameters()).device, len(self.held_out.names)
        frame = self.held_out.layout.frame
        sums: dict[str, Tensor] = {}
        for start in range(0, count, batch * world.size):
            first = min(start + world.rank * batch, count - batch)
            new = torch.arange(first, first + batch) >= start + world.rank * batch
            read = _read(self.held_out, first, batch)
            losses = self.losses(self.model, *(x if x is None else x.to(device) for x in read))
            filled = torch.from_numpy(self.held_out.lengths(first, batch)) * frame
            of_codes = _of_codes(losses, (filled * new).to(device))
            sources = torch.from_numpy(self.held_out.source_numbers(first, batch))
            for name, part in self._parts(losses, of_codes, sources.to(device), known).items():
                sums[name] = sums.get(name, 0) + part.cpu().double()
        return self._validation({name: total(world, part) for name, part in sums.items()})

    def save(self, run: Path, world: World = ALONE) -> None:
        weights = {}
        for name, value in self.model.state_dict().items():
            every = whole(value)  # by all processes, and kept by one
            if world.is_first:
                weights[name] = every.cpu()
        if not world.is_first:
            return
        with unfilled():
            model = self.build()
        model.load_state_dict(weights, assign=True)
        save_model(model, self.details, self.train.datasets[0].tokenizer_folder, run / "model")

    @property
    def details(self) -> dict[str, Any]:
        """What is saved with the model."""
        datasets, targets = self.train.datasets, self.train.targets
        target = targets[0] if targets else None
        kinds = [entry.kind for entry in self.train.manifest.entries]
        return details_of(datasets[0], self.config.frames, target, kinds)

    def _parts(
        self,
        losses: Float[Tensor, "b n"],
        of_codes: Bool[Tensor, "b n"],
        sources: Int[Tensor, " b"],
        known: int,
    ) -> Metrics:
        """Sum of the losses of codes, and how many they are, by source and by frame of the clip."""
        both = torch.stack((losses.float() * of_codes, of_codes.float()))  # (2, b, n)
        by_frame = both.unflatten(2, (-1, self.train.layout.frame)).sum((1, 3))
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


def _read(
    sequences: Sequences, first: int, count: int
) -> tuple[Shaped[Tensor, "b t ..."], Shaped[Tensor, "b t ..."] | None]:
    """What is read, and what is predicted where that is something else."""
    targets = sequences.target_batch(first, count) if sequences.targets else None
    return sequences.batch(first, count), targets


def _of_codes(losses: Float[Tensor, "b n"], filled: Int[Tensor, " b"]) -> Bool[Tensor, "b n"]:
    """Which losses are of codes, or patches: neither of the end nor of padding."""
    return torch.arange(losses.shape[1], device=losses.device) < filled[:, None]
