"""Where in a trunk which knowledge lies: of the code just read, of the next one, and of the class.

All three are read alike, by least squares to one-hot targets: of codes from each position's state,
of classes from a clip's mean state. That needs sums over the training items alone, of all layers in
one pass, and nothing is chosen. What is said is how often the largest output is right on test items
that the sums have not seen.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from toto.api import Toto
from toto.errors import UserError, at_least
from toto.probing.clips import Items, probe_splits
from toto.probing.encoder import Encoder
from toto.probing.features import FrozenFeatures
from toto.progress import progress
from toto.studies.representation_plot import draw_layers
from toto.tasks.answers import answered
from toto.tokens.store import TokenDataset
from toto.tokens.vocabulary import Kind

_BATCH = 16

# Of the mean square of a state's channels, added to each: singular sums are solved, too.
_RIDGE = 1e-4


class LeastSquares:
    """A linear map of states to one-hot targets, from sums over any number of states."""

    def __init__(self, width: int, targets: int) -> None:
        self._squares = torch.zeros(width + 1, width + 1, dtype=torch.float64)
        self._products = torch.zeros(width + 1, targets, dtype=torch.float64)
        self._right = self._tested = 0

    def add(self, states: Float[Tensor, "n c"], targets: Int[Tensor, " n"]) -> None:
        """Take more states into the sums."""
        rows = _with_one(states)
        self._squares += rows.T @ rows
        self._products.index_add_(1, targets.cpu(), rows.T)

    def solve(self) -> None:
        """End the sums."""
        ridge = self._squares.diagonal().mean() * _RIDGE
        eye = torch.eye(len(self._squares), dtype=torch.float64)
        self._map = torch.linalg.solve(self._squares + ridge * eye, self._products)

    def test(self, states: Float[Tensor, "n c"], targets: Int[Tensor, " n"]) -> None:
        """Count how many targets get the largest output."""
        guesses = (_with_one(states) @ self._map).argmax(1)
        self._right += int((guesses == targets.cpu()).sum())
        self._tested += len(targets)

    @property
    def accuracy(self) -> float:
        """Of all that was tested."""
        return self._right / self._tested


def _with_one(states: Float[Tensor, "n c"]) -> Float[Tensor, "n d"]:
    return torch.nn.functional.pad(states.double().cpu(), (0, 1), value=1.0)


@dataclass(frozen=True)
class LayerResult:
    """Test accuracies by layer."""

    items: list[int]
    """that sums are of, and that were tested"""
    read: list[float]
    """of the code that a position has just read"""
    next: list[float]
    """of the one after it"""
    label: list[float]
    """of the clip's class"""

    def text(self) -> str:
        """A line for each layer."""
        lines = [
            f"{self.items[0]} items to learn from, {self.items[1]} to test on",
            f"  {'':10}{'code read':<12}{'next code':<12}class",
        ]
        for layer, row in enumerate(zip(self.read, self.next, self.label, strict=True)):
            cells = "".join(f"{accuracy:<12.1%}" for accuracy in row)
            lines.append(f"  layer {layer:<4}{cells}".rstrip())
        return "\n".join(lines)


def study_layers(
    loaded: Toto, dataset: TokenDataset, out: Path, items: int = 5000, seed: int = 0
) -> LayerResult:
    """Read codes and classes from every layer; result.json and layers.svg in `out`.

    Args:
        loaded: a model of tokens.
        dataset: labelled items as codes of its tokenizer, with a part to test on.
        out: folder to write to; a result that is there is read.
        items: the most that are learned from, and the most that are tested on.
        seed: which ones, where there are more.

    Raises:
        UserError: the model reads patches or other codes, labels are missing, or `out` was begun
            otherwise.
    """
    at_least(1, items=items)
    if dataset.info.tokenizer != loaded.tokenizer.fingerprint or dataset.is_pixels:
        raise UserError(f"{dataset.folder} does not hold codes of the tokenizer of {loaded.folder}")
    kind: Kind = "video" if "video" in dataset.encoded("kind")[0] else "image"
    kept, _, tested, classes = probe_splits(
        dataset, 0.0, loaded.frames if kind == "video" else 1, kind
    )
    encoder = loaded.encoder
    asked = {"model": encoder.fingerprint, "data": dataset.fingerprint}

    def answer() -> LayerResult:
        result = _measure(encoder, _some(kept, items, seed), _some(tested, items, seed), classes)
        curves = {"code read": result.read, "next code": result.next, "class": result.label}
        draw_layers({name: [curve] for name, curve in curves.items()}, out / "layers.svg")
        return result

    return answered(LayerResult, out, asked | {"items": items, "seed": seed}, answer)


def _some(items: Items, most: int, seed: int) -> Items:
    order = np.random.default_rng(seed).permutation(len(items))
    return items[np.sort(order[:most])]


def _measure(encoder: Encoder, train: Items, test: Items, classes: list[str]) -> LayerResult:
    features = FrozenFeatures(encoder, range(encoder.layers + 1))
    codes = train.dataset.vocabulary.codebook_size
    targets = {"read": codes, "next": codes, "label": len(classes)}
    maps = {
        (str(layer), what): LeastSquares(encoder.width, count)
        for what, count in targets.items()
        for layer in features.layers
    }
    with progress("layers", len(train) + len(test), "clips") as advance:
        for key, states, wanted in _readings(features, train, classes, advance):
            maps[key].add(states, wanted)
        for own in maps.values():
            own.solve()
        for key, states, wanted in _readings(features, test, classes, advance):
            maps[key].test(states, wanted)
    accuracies = {
        what: [maps[str(layer), what].accuracy for layer in features.layers] for what in targets
    }
    return LayerResult(items=[len(train), len(test)], **accuracies)


def _readings(
    features: FrozenFeatures, items: Items, classes: list[str], advance: Callable[[int], None]
) -> Iterator[tuple[tuple[str, str], Tensor, Tensor]]:
    """Layer and what is asked of it, states and targets, a batch of items after the other."""
    labels = items.labels(classes)
    for some in torch.arange(len(items)).split(_BATCH):
        clips = items[some].middle()
        codes = torch.from_numpy(clips.stored().astype(np.int64)).flatten(1)
        for layer, states in features(clips).items():
            yield (layer, "read"), states.flatten(0, 1), codes.flatten()
            yield (layer, "next"), states[:, :-1].flatten(0, 1), codes[:, 1:].flatten()
            yield (layer, "label"), states.mean(1), labels[some]
        advance(len(some))
