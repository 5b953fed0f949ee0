"""Recognition by full fine-tuning (Toto, Table 13): images, and actions of videos."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from toto.api import Toto
from toto.config import begin, from_dict, read_json, to_dict, write_json
from toto.errors import UserError
from toto.models.llama import Llama
from toto.probing.clips import Clips, Items, probe_splits
from toto.probing.finetune.config import FineTune
from toto.probing.finetune.objective import Examples, FineTuning
from toto.probing.trunk import trainable_copy
from toto.progress import console
from toto.tasks.paper import FINETUNED
from toto.tasks.question import check_same_reading, unread_items
from toto.tasks.results import confusion_matrix, heading, intervals, mean_per_class, span
from toto.tokens.store import TokenDataset
from toto.tokens.vocabulary import Kind
from toto.training.device import autocast, pick_precision
from toto.training.loop import train
from toto.training.parallel import World, in_turn, one_writer, wait
from toto.training.runs import shares_of


@dataclass(frozen=True)
class FineTuneResult:
    """Accuracy of a fine-tuned model on the test clips, which are read once, at the end."""

    classes: list[str]
    clips: list[int]
    """items to train on, to watch, and to test on"""
    views: int
    """clips and crops of each test item, over which probabilities are averaged"""
    unread: dict[str, list[str]]
    """by split the items that could not be read, and why"""
    attention: str
    accuracy: float
    interval: tuple[float, float]
    """95 % bootstrap interval of it, over the test clips"""
    top5: float | None
    """how often the class is among its five likeliest; None where there are no more classes"""
    mean_per_class: float
    """mean over the classes of the accuracy on their clips"""
    mean_per_class_interval: tuple[float, float]
    confusion: list[list[int]]
    """test clips by class, and by what they are taken for"""
    chance: float
    """test accuracy of always guessing the most frequent class of training"""
    paper: list[str]
    """what the paper reports of the same task, on other data"""

    def table(self) -> str:
        """The result in words, beside what the paper reports."""
        rows = [
            heading(self.classes, self.clips[2], self.views, self.unread),
            f"  {self.attention:<8}  {self.accuracy:6.1%}  {span(self.interval)} (95%, bootstrap)",
        ]
        if self.top5 is not None:
            rows.append(f"  top-5     {self.top5:6.1%}")
        spread = span(self.mean_per_class_interval)
        rows.append(f"  classes   {self.mean_per_class:6.1%}  {spread}, mean over the classes")
        rows.append(f"  chance    {self.chance:6.1%}")
        rows.append("  the paper, on its own data:")
        return "\n".join([*rows, *(f"    {row}" for row in self.paper)])


def finetune(
    loaded: Toto,
    dataset: TokenDataset,
    kind: Kind,
    out: Path,
    config: FineTune,
    world: World,
    test: TokenDataset | None = None,
) -> FineTuneResult:
    """Fine-tune a copy of a model on the training clips and read the test clips once.

    `out` is a run folder; the fine-tuned model lies in it as `saved.py` says. All processes of the
    world call this.

    Raises:
        UserError: labels are missing, there are too few clips, or `out` was begun with another
            model, other data or other settings.
    """
    if not isinstance(loaded.model, Llama):
        raise UserError(f"{loaded.folder} reads patches: models that read tokens are fine-tuned")
    check_same_reading(dataset, test or dataset)
    frames = 1 if kind == "image" else loaded.frames
    shares = shares_of(config.batch, config.micro_batch, "clips", world)
    question = {
        "model": loaded.encoder.fingerprint,
        "data": dataset.fingerprint,
        "test": test and test.fingerprint,
        "kind": kind,
        "frames": frames,
        "finetuning": to_dict(config),
    }
    with one_writer(out, world):
        in_turn(world, lambda: begin(out / "config.json", question))
        if (out / "result.json").exists():
            return from_dict(FineTuneResult, read_json(out / "result.json", "a result"), str(out))
        *items, classes = probe_splits(dataset, config.held_out, frames, kind, test)
        parts = training, watched, tested = _examples(items, classes, config)
        trunk = trainable_copy(loaded.model, config.rope_base)
        objective = FineTuning(config, trunk, classes, training, watched, dataset, frames)
        if world.is_first:
            console.print(shares)
        loop = config.loop(len(training.labels), str(loaded.device))
        train(objective, loop, out, "fine-tune", world)
        guesses = _read(objective, tested, loaded.device, world)
        result = _result(guesses, parts, classes, config, kind, unread_items(dataset, test))
        if world.is_first:
            write_json(out / "result.json", result)
        wait(world)
        return result


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


def _result(
    guesses: Int[Tensor, "clips best"],
    parts: list[Examples],
    classes: list[str],
    config: FineTune,
    kind: Kind,
    unread: dict[str, list[str]],
) -> FineTuneResult:
    training, _, test = (part.labels for part in parts)
    right = guesses == test[:, None]
    confusion = confusion_matrix(test.numpy(), guesses[:, 0].numpy(), len(classes))
    interval, per_class_interval = intervals(confusion)
    return FineTuneResult(
        classes=classes,
        clips=[len(part.labels) for part in parts],
        views=parts[2].views,
        unread=unread,
        attention=config.attention,
        accuracy=float(right[:, 0].double().mean()),
        interval=interval,
        top5=float(right.any(1).double().mean()) if len(classes) > 5 else None,
        mean_per_class=mean_per_class(confusion),
        mean_per_class_interval=per_class_interval,
        confusion=np.asarray(confusion).tolist(),
        chance=float((test == torch.bincount(training).argmax()).double().mean()),
        paper=FINETUNED[kind],
    )
