"""Full fine-tuning: classes of images and videos, the snitch's cell (Toto, Tables 12 and 13)."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from toto.api import Toto
from toto.config import to_dict
from toto.errors import UserError
from toto.models.llama import Llama
from toto.probing.clips import Clips, Items, probe_splits
from toto.probing.finetune.config import FineTune
from toto.probing.finetune.objective import Examples, FineTuning
from toto.probing.trunk import trainable_copy
from toto.progress import console
from toto.tasks.answers import answered
from toto.tasks.cater import CELLS, PermanenceResult
from toto.tasks.paper import FINETUNED, PERMANENCE
from toto.tasks.question import check_same_reading, unread_items
from toto.tasks.results import FineTuneResult
from toto.tokens.store import TokenDataset
from toto.tokens.vocabulary import Kind
from toto.training.device import autocast, pick_precision
from toto.training.loop import train
from toto.training.runs import shares_of
from toto.training.world import World


@dataclass(frozen=True)
class Task:
    """What a model is fine-tuned to tell."""

    name: str
    kind: Kind
    paper: list[str]
    """what the paper reports of it"""
    result: type[FineTuneResult] = FineTuneResult
    classes: list[str] | None = None
    """by default those of the training items"""


TASKS = {
    task.name: task
    for task in (
        Task("images", "image", FINETUNED["image"]),
        Task("actions", "video", FINETUNED["video"]),
        Task("permanence", "video", PERMANENCE, PermanenceResult, CELLS),
    )
}


def finetune(
    loaded: Toto,
    dataset: TokenDataset,
    task: Task,
    frames: int,
    out: Path,
    config: FineTune,
    world: World,
    test: TokenDataset | None = None,
) -> FineTuneResult:
    """Fine-tune a copy of a model on the training clips of `frames` frames and read the test clips
    once.

    `out` is a run folder; the fine-tuned model lies in it as `saved.py` says. All processes of the
    world call this.

    Raises:
        UserError: labels are missing, there are too few clips, or `out` was begun with another
            model, other data or other settings.
    """
    model = loaded.model
    if not isinstance(model, Llama):
        raise UserError(f"{loaded.folder} reads patches: models that read tokens are fine-tuned")
    check_same_reading(dataset, test or dataset)
    shares = shares_of(config.batch, config.micro_batch, "clips", world)
    question = {
        "model": loaded.encoder.fingerprint,
        "data": dataset.fingerprint,
        "test": test and test.fingerprint,
        "task": task.name,
        "frames": frames,
        "finetuning": to_dict(config),
    }

    def answer() -> FineTuneResult:
        *items, found = probe_splits(dataset, config.held_out, frames, task.kind, test)
        classes = task.classes or found
        parts = training, watched, tested = _examples(items, classes, config)
        trunk = trainable_copy(model, config.rope_base)
        objective = FineTuning(
            config, trunk, classes, training, watched, dataset, frames, task.kind
        )
        if world.is_first:
            console.print(shares)
        loop = config.loop(len(training.labels), str(loaded.device))
        train(objective, loop, out, "fine-tune", world)
        return task.result.of(
            _read(objective, tested, loaded.device, world).numpy(),
            [part.labels.numpy() for part in parts],
            classes,
            views=tested.views,
            unread=unread_items(dataset, test),
            attention=config.attention,
            paper=task.paper,
        )

    return answered(task.result, out, question, answer, world)


def _examples(items: list[Items], classes: list[str], config: FineTune) -> list[Examples]:
    """What is trained on, watched and tested on."""
    training, watched, test = items
    views = test.views(config.test_clips)
    reads = (
        lambda rows, epoch: training[rows].drawn(config.seed, epoch, random_start=True),
        lambda rows, _: watched[rows].middle(),
        lambda rows, view: test[rows].view(view, config.test_clips),
    )
    return [
        Examples(partial(_tokens, read), part.labels(classes), count)
        for read, part, count in zip(reads, items, (1, 1, views), strict=True)
    ]


def _tokens(
    clips: Callable[[Int[np.ndarray, " b"], int], Clips], rows: Int[np.ndarray, " b"], turn: int
) -> Int[Tensor, "b t"]:
    return clips(rows, turn).inputs()


def _read(
    objective: FineTuning, test: Examples, device: torch.device, world: World
) -> Int[Tensor, "clips best"]:
    objective.modules.eval()
    precision = pick_precision(objective.config.precision, device)
    with torch.no_grad(), autocast(device, precision):
        return objective.guesses(test, world)
