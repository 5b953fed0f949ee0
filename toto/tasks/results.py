"""What recognition tells of a model: accuracy with intervals, as JSON and as a table."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float, Int

Scored = TypeVar("Scored", bound="Scores")

# Resamples of the test clips, and the part of them that an interval leaves out on each side.
RESAMPLES, _TAIL = 2000, 0.025


@dataclass(frozen=True)
class Curve:
    """One kind of probe over the layers, at what was chosen for each on the held-out clips."""

    held_out_accuracy: list[float]
    test_accuracy: list[float]
    test_top5: list[float] | None
    """None where there are not more than five classes"""
    learning_rates: list[float]
    weight_decays: list[float]


@dataclass(frozen=True, kw_only=True)
class Scores:
    """How often test items are taken for what they are; they are read once, at the end."""

    classes: list[str]
    clips: list[int]
    """items to train on, to choose by, and to test on"""
    views: int
    """clips and crops of each test item, over which probabilities are averaged"""
    unread: dict[str, list[str]]
    """by split the items that could not be read, and why"""
    accuracy: float
    interval: tuple[float, float]
    """95 % bootstrap interval of it, over the test items"""
    top5: float | None
    """how often the class is among its five likeliest; None where there are no more classes"""
    mean_per_class: float
    """mean over the classes of the accuracy on their items"""
    mean_per_class_interval: tuple[float, float]
    confusion: list[list[int]]
    """test items by class, and by what they are taken for"""
    chance: float
    """test accuracy of always guessing the most frequent class of training"""
    paper: list[str]
    """what the paper reports of the same task, on other data"""

    @classmethod
    def of(
        cls: type[Scored],
        guesses: Int[np.ndarray, "items best"],
        labels: list[Int[np.ndarray, " _"]],
        classes: list[str],
        **rest: Any,
    ) -> Scored:
        """Of the likeliest classes of each test item, best first.

        `labels` are of what is trained on, chosen by and tested on; `rest` the other fields.
        """
        training, _, test = labels
        right = guesses == test[:, None]
        confusion = confusion_matrix(test, guesses[:, 0], len(classes))
        interval, per_class_interval = intervals(confusion)
        return cls(
            classes=classes,
            clips=[len(part) for part in labels],
            accuracy=float(right[:, 0].mean()),
            interval=interval,
            top5=float(right.any(1).mean()) if len(classes) > 5 else None,
            mean_per_class=mean_per_class(confusion),
            mean_per_class_interval=per_class_interval,
            confusion=confusion.tolist(),
            chance=float((test == np.bincount(training).argmax()).mean()),
            **rest,
        )

    def in_words(self, what: str, above: Sequence[str] = (), below: Sequence[str] = ()) -> str:
        """The scores of `what` between other rows, and what the paper reports."""
        several = f" in {self.views} views each" if self.views > 1 else ""
        rows = [f"{len(self.classes)} classes, {self.clips[2]} test items{several}"]
        for split, lost in self.unread.items():
            rows.append(f"  {len(lost)} of {split} could not be read: {'; '.join(lost[:3])}"[:200])
        rows += above
        rows.append(f"  {what:<8}  {self.accuracy:6.1%}  {span(self.interval)} (95%, bootstrap)")
        if self.top5 is not None:
            rows.append(f"  top-5     {self.top5:6.1%}")
        spread = span(self.mean_per_class_interval)
        rows.append(f"  classes   {self.mean_per_class:6.1%}  {spread}, mean over the classes")
        rows += below
        rows.append(f"  chance    {self.chance:6.1%}")
        rows.append("  the paper, on its own data:")
        return "\n".join([*rows, *(f"    {row}" for row in self.paper)])


@dataclass(frozen=True, kw_only=True)
class ProbeResult(Scores):
    """Scores of the best layer's probe; all that is chosen is chosen on held-out items."""

    probe: str
    """the kind of probe that is best on the held-out clips"""
    best_layer: int
    """its best layer there"""
    held_out_accuracy: list[float]
    """of that kind by layer, on clips of the training part, at each layer's best settings"""
    test_accuracy: list[float]
    """of that kind by layer, on the test clips, at the settings chosen on the held-out ones"""
    curves: dict[str, Curve]
    """by kind of probe"""
    knn: Curve
    """the 20 nearest training clips by the mean of their states"""
    pixels: dict[str, float]
    """test accuracy on pixels, average-pooled to a colour a code: of the same "attention" probe,
    and of a "linear" classifier that knows every place; empty where they were not asked"""

    def table(self) -> str:
        """The result in words, by layer."""
        rest = {name: curve for name, curve in self.curves.items() if name != self.probe}
        columns = {self.probe: self.curves[self.probe], **rest, "knn": self.knn}
        above = [f"  {'':10}" + "".join(f"{name:<11}" for name in columns).rstrip()]
        for layer in range(len(self.test_accuracy)):
            values = (f"{curve.test_accuracy[layer]:6.1%}" for curve in columns.values())
            mark = "<- chosen on held-out clips of train" if layer == self.best_layer else ""
            above.append(
                f"  layer {layer:2d}  {''.join(f'{x:<11}' for x in values)}{mark}".rstrip()
            )
        below = []
        if self.pixels:
            below = [
                f"  pixels    {self.pixels['attention']:6.1%}  by attention pooling",
                f"            {self.pixels['linear']:6.1%}  by a linear classifier of all places",
            ]
        return self.in_words("chosen", above, below)


@dataclass(frozen=True, kw_only=True)
class FineTuneResult(Scores):
    """Scores of a fine-tuned model."""

    attention: str
    """which positions saw which, as `FineTune` says"""

    def table(self) -> str:
        """The result in words."""
        return self.in_words(self.attention)


def confusion_matrix(
    labels: Int[np.ndarray, " clips"], guesses: Int[np.ndarray, " clips"], classes: int
) -> Int[np.ndarray, "classes classes"]:
    """How many clips of each class (row) are taken for each class (column)."""
    counts = np.bincount(labels * classes + guesses, minlength=classes * classes)
    return counts.reshape(classes, classes)


def mean_per_class(confusion: Int[np.ndarray, "classes classes"]) -> float:
    """Mean accuracy of the classes that occur."""
    totals = confusion.sum(1)
    return float((confusion.diagonal()[totals > 0] / totals[totals > 0]).mean())


def intervals(
    confusion: Int[np.ndarray, "classes classes"], seed: int = 0
) -> tuple[tuple[float, float], tuple[float, float]]:
    """95 % bootstrap intervals over the clips: of the accuracy, and of its mean over the classes.

    A resample counts how often each class is taken for itself and for another: the counts of as
    many draws with replacement are multinomial.
    """
    right = confusion.diagonal()
    cells = np.stack((right, confusion.sum(1) - right))
    clips = int(cells.sum())
    random = np.random.default_rng(seed)
    drawn = random.multinomial(clips, cells.ravel() / clips, RESAMPLES).reshape(RESAMPLES, 2, -1)
    right, totals = drawn[:, 0], drawn.sum(1)
    with np.errstate(invalid="ignore"):  # a class of few clips can miss a resample
        per_class = np.nanmean(right / totals, axis=1)
    return quantiles(right.sum(1) / clips), quantiles(per_class)


def quantiles(values: Float[np.ndarray, " resamples"]) -> tuple[float, float]:
    """The middle 95 % of what resamples say."""
    low, high = np.quantile(values, (_TAIL, 1 - _TAIL))
    return float(low), float(high)


def span(interval: tuple[float, float]) -> str:
    """An interval of parts of a whole, in percent."""
    return f"{100 * interval[0]:.1f}-{interval[1]:.1%}"
