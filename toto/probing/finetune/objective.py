"""Full fine-tuning by labels, trained by the training loop."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from toto.models.llama import Llama
from toto.probing.finetune.config import FineTune
from toto.probing.finetune.mixing import cut_and_paste, draw_mix, mixed_targets
from toto.probing.finetune.network import Classifier, layer_factor
from toto.probing.finetune.saved import save_classifier
from toto.tokens.mixture import key_of, permute
from toto.tokens.store import TokenDataset
from toto.tokens.vocabulary import Kind
from toto.training.adopt import details_of
from toto.training.objectives.base import Batch, Metrics, Objective, Phase
from toto.training.parallel import whole
from toto.training.world import ALONE, World, total

_BEST = 5


@dataclass(frozen=True)
class Examples:
    """Items as a trunk reads them, and their classes."""

    read: Callable[[Int[np.ndarray, " b"], int], Int[Tensor, "b t"]]
    """tokens of clips of items, from the start to the last code, in the view of a turn: an epoch of
    training, or one of a test's"""
    labels: Int[Tensor, " items"]
    views: int = 1
    """of each item, over which a test averages probabilities"""


class FineTuning(Objective):
    """Trains all of `trunk` but its next-token head, and a pooled head.

    What is drawn for a clip follows from the seed, the step and its place in the step, so that any
    number of processes takes the same course.
    """

    unit = "clips"

    def __init__(
        self,
        config: FineTune,
        trunk: Llama,
        classes: list[str],
        train: Examples,
        watched: Examples,
        dataset: TokenDataset,
        frames: int,
        kind: Kind,
    ) -> None:
        self.config, self.classes, self.dataset = config, classes, dataset
        self.frames, self.kind = frames, kind
        self.train, self.watched = train, watched
        if not trunk.size.tied_head:
            trunk.lm_head.requires_grad_(False)
        torch.manual_seed(key_of(config.seed, "head"))
        self.model = Classifier(
            trunk, config.attention, config.pool, len(classes), drops=config.drop_path > 0
        )
        self.modules = nn.ModuleDict({"model": self.model})
        self.phases = (
            Phase(
                "model",
                self.model,
                config.optimizer(len(train.labels)),
                self.loss,
                lambda name: layer_factor(name, trunk.size.layers, config.layer_decay),
                decays_alike=False,
            ),
        )

    def batches(self, step: int, world: World = ALONE) -> list[Batch]:
        config, count = self.config, self.config.batch
        random = np.random.default_rng(key_of(config.seed, "step", step))
        grid = self.dataset.vocabulary.rows, self.dataset.vocabulary.cols
        mix = draw_mix(random, count, grid, config.mixup, config.cutmix)
        kept = self._kept(random, count)
        rows, epochs = self._clips(step)
        mine = np.array(world.share(count))
        partners = count - 1 - mine
        tokens = self._read(rows[mine], epochs[mine])
        others = self._read(rows[partners], epochs[partners])
        targets = mixed_targets(
            self.train.labels[rows[mine]],
            self.train.labels[rows[partners]],
            torch.from_numpy(mix.label[mine]).float(),
            len(self.classes),
            config.label_smoothing,
        )
        every = (
            cut_and_paste(tokens, others, mix.boxes[mine]),
            others,
            torch.from_numpy(mix.embedding[mine]).float(),
            None if kept is None else kept[mine],
            targets,
        )
        return [
            tuple(None if x is None else x[start : start + config.micro_batch] for x in every)
            for start in range(0, len(mine), config.micro_batch)
        ]

    def size(self, batch: Batch) -> int:
        return len(batch[0])

    def loss(
        self,
        batch: tuple[Tensor, Tensor, Tensor, Tensor | None, Float[Tensor, "b classes"]],
        step: int,
    ) -> tuple[Tensor, Metrics]:
        """A micro-batch's share of the step's loss: cross-entropy to the mixed, smoothed labels."""
        *inputs, targets = batch
        logits = self.model(*inputs).float()
        loss = F.cross_entropy(logits, targets, reduction="sum") / self.config.batch
        return loss, {"loss": loss.detach()}

    def validate(self, world: World = ALONE) -> dict[str, float]:
        guesses = self.guesses(self.watched, world)
        right = guesses[:, 0] == self.watched.labels
        return {"held_out_accuracy": float(right.double().mean())}

    def guesses(self, part: Examples, world: World = ALONE) -> Int[Tensor, "clips best"]:
        """The likeliest classes of the clips, up to five, best first; called by all processes.

        All of them run as many forward passes, the last of them of clips that came before.
        """
        count, batch = len(part.labels), self.config.micro_batch
        device = next(self.model.parameters()).device
        found = torch.zeros(count, min(_BEST, len(self.classes)), dtype=torch.long)
        for start in range(world.rank * batch, count + world.rank * batch, batch * world.size):
            new = torch.arange(start, start + batch) < count
            rows = np.minimum(np.arange(start, start + batch), count - 1)
            views = (part.read(rows, view).to(device) for view in range(part.views))
            likely = torch.stack([self.model(view).double().softmax(1) for view in views]).sum(0)
            best = likely.topk(found.shape[1]).indices.cpu()
            found[rows[new.numpy()]] = best[new]
        return total(world, found)

    def save(self, run: Path, world: World = ALONE) -> None:
        weights = {}
        for name, value in self.model.state_dict().items():
            every = whole(value)  # by all processes, and kept by one
            if world.is_first:
                weights[name] = every.contiguous().cpu()
        if world.is_first:
            details = details_of(self.dataset, self.frames, kinds=[self.kind])
            tokenizer = self.dataset.tokenizer_folder
            save_classifier(self.model, weights, self.classes, details, tokenizer, run)

    def compile(self) -> None:
        for block in self.model.trunk.model.layers:
            block.compile()

    def _clips(self, step: int) -> tuple[Int[np.ndarray, " b"], Int[np.ndarray, " b"]]:
        """Which clips a step sees, and in which epoch; in each epoch every clip once."""
        clips, count = len(self.train.labels), self.config.batch
        epochs, ranks = np.divmod(np.arange(step * count, (step + 1) * count), clips)
        rows = np.empty_like(ranks)
        for epoch in np.unique(epochs):
            now = epochs == epoch
            rows[now] = permute(ranks[now], clips, key_of(self.config.seed, "finetune", epoch))
        return rows, epochs

    def _read(
        self, rows: Int[np.ndarray, " b"], epochs: Int[np.ndarray, " b"]
    ) -> Int[Tensor, "b t"]:
        """Tokens of items, each in its epoch."""
        order, parts = [], []
        for epoch in np.unique(epochs).tolist():
            now = np.flatnonzero(epochs == epoch)
            order.append(now)
            parts.append(self.train.read(rows[now], epoch))
        return torch.cat(parts)[np.argsort(np.concatenate(order))]

    def _kept(self, random: np.random.Generator, count: int) -> Float[Tensor, "b blocks 2"] | None:
        """Drop path's factors: 0, or what keeps the expectation (timm: the rate grows linearly)."""
        if not self.config.drop_path:
            return None
        rates = np.linspace(0, self.config.drop_path, self.model.trunk.size.layers)[:, None]
        stays = random.random((count, len(rates), 2)) >= rates
        return torch.from_numpy(stays / (1 - rates)).float()
