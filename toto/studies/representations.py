"""What pre-training has taught a trunk: the same probe on it and on what it is to surpass.

The other contestants are the same trunk with random weights, the codes that it reads, one channel
for each code of the tokenizer, and the pixels of each code's place. Layers, rates and decays are
chosen on held-out training items, for each contestant and seed; the test items are read once.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from jaxtyping import Bool, Float, Int, UInt8, UInt16
from torch import Tensor
from torch.nn import functional as F

from toto.api import Toto
from toto.config import differences, to_dict
from toto.errors import UserError
from toto.models.llama import Llama
from toto.models.sizes import LlamaSize
from toto.probing.encoder import Encoder, TrainedEncoder
from toto.studies.config import RepresentationStudy
from toto.studies.representation_plot import draw_layers
from toto.tasks.answers import answered
from toto.tasks.question import Question
from toto.tasks.recognition import recognise
from toto.tasks.results import RESAMPLES, ProbeResult, quantiles
from toto.tokens.patches import PatchGrid
from toto.tokens.store import TokenDataset
from toto.tokens.vocabulary import Kind, Vocabulary

TRUNK = "pre-trained"


class CodeEncoder:
    """Codes as they are, a channel for each: what a probe can learn of them without a trunk."""

    layers, heads = 0, 1

    def __init__(self, vocabulary: Vocabulary, device: torch.device) -> None:
        self.width, self.device = vocabulary.codebook_size, device
        self.fingerprint = f"codes {self.width}"

    def hidden_states(
        self, inputs: UInt16[Tensor, "b frames rows cols"], layers: Sequence[int]
    ) -> dict[int, Float[Tensor, "b t c"]]:
        """One-hot codes in raster order, frame after frame."""
        return {0: F.one_hot(inputs.long().flatten(1), self.width).float()}


class PixelEncoder:
    """The pixels of each patch as a vector, from 0 to 1."""

    layers, heads = 0, 1

    def __init__(self, layout: PatchGrid, device: torch.device) -> None:
        self.layout, self.width, self.device = layout, layout.values, device
        self.fingerprint = f"pixels {layout.patch}"

    def hidden_states(
        self, inputs: UInt8[Tensor, "b frames 3 height width"], layers: Sequence[int]
    ) -> dict[int, Float[Tensor, "b t c"]]:
        """Patches in raster order, frame after frame."""
        return {0: self.layout.patches(inputs).float() / 255}


@dataclass(frozen=True)
class Standing:
    """How one contestant did."""

    name: str
    curves: list[list[float]]
    """test accuracy by seed and layer, each at the settings chosen on held-out training items"""
    chosen: list[list[int]]
    """by seed, the layer that was chosen in each fold"""
    accuracies: list[float]
    """test accuracy of the chosen layers, by seed"""
    accuracy: float
    """their mean"""
    interval: tuple[float, float]
    """95 % bootstrap interval of it, over test items, or over files where these are the folds"""
    lead: float
    """accuracy of the pre-trained trunk over it"""
    lead_interval: tuple[float, float]
    """of that, over the same resamples"""


@dataclass(frozen=True)
class RepresentationResult:
    """All contestants, the pre-trained trunk first."""

    items: int
    """tested on"""
    classes: int
    units: int
    """what is drawn with replacement: test items, or files"""
    standings: list[Standing]

    def text(self) -> str:
        """A line for each contestant."""
        what = "items" if self.units == self.items else f"items of {self.units} files"
        lines = [f"{self.classes} classes, {self.items} test {what}; 95% by bootstrap"]
        lines.append(f"  {'':12}  accuracy                seeds               trunk's lead")
        for own in self.standings:
            seeds = " ".join(f"{accuracy:.1%}" for accuracy in own.accuracies)
            lead = "" if own.name == TRUNK else f"{own.lead:+.1%}  {_span(own.lead_interval)}"
            text = f"  {own.name:<12}  {own.accuracy:6.1%}  {_span(own.interval):<14}  {seeds:<18}"
            lines.append(f"{text}  {lead}".rstrip())
        return "\n".join(lines)


def _span(interval: tuple[float, float]) -> str:
    low, high = (100 * end for end in interval)
    return f"{low:.1f} to {high:.1f}"


def study_representations(
    loaded: Toto, dataset: TokenDataset, pixels: TokenDataset, out: Path, study: RepresentationStudy
) -> RepresentationResult:
    """Probe all contestants in `out`: result.json, layers.svg. Begun there, it goes on.

    Args:
        loaded: the pre-trained model.
        dataset: labelled items as codes of its tokenizer.
        pixels: the same items as pixels.
        out: folder to write to.
        study: how they are compared.

    Raises:
        UserError: labels are missing, there are too few items, the two data sets differ, or `out`
            was begun otherwise.
    """
    model, layout = _comparable(loaded, dataset, pixels)
    heads = study.probes.heads or model.size.heads
    _check_heads(heads, model, dataset.vocabulary, layout)
    config = replace(study.probes, heads=heads)
    if config.changes_trunk:
        raise UserError(
            "trunk_update and rope_base change a trunk: this study compares it as it is"
        )
    kind: Kind = "video" if "video" in dataset.encoded("kind")[0] else "image"
    frames = loaded.frames if kind == "video" else 1
    folds = sorted(set(dataset.column("path").tolist())) if study.by_file else [None]
    if study.by_file and len(folds) < 3:
        raise UserError(f"{dataset.folder} is of {len(folds)} files: by file needs three")
    asked = {
        "model": loaded.encoder.fingerprint,
        "codes": dataset.fingerprint,
        "pixels": pixels.fingerprint,
        "study": to_dict(study),
    }

    def answer() -> RepresentationResult:
        readings: dict[str, list[_Reading]] = {}
        for name, seed, encoder in _contestants(model, dataset.vocabulary, layout, study):
            read = pixels if isinstance(encoder, PixelEncoder) else dataset
            own, parts = replace(config, seed=seed), []
            for number, fold in enumerate(folds):
                question = Question(encoder, read, kind, frames, own, left_out=fold, pixels=False)
                place = out / name / f"seed-{seed}" / f"fold-{number}"
                parts.append((recognise(question, place), place / "test.parquet"))
            readings.setdefault(name, []).append(_Reading.of(parts))
        result = _compare(readings, by_file=study.by_file)
        draw_layers({own.name: own.curves for own in result.standings}, out / "layers.svg")
        return result

    return answered(RepresentationResult, out, asked, answer)


def _comparable(
    loaded: Toto, dataset: TokenDataset, pixels: TokenDataset
) -> tuple[Llama, PatchGrid]:
    """The model, if it is one of tokens, and the patches of its codes' places."""
    layout, its = pixels.layout, dataset.info.tokenizer
    if its != loaded.tokenizer.fingerprint or not isinstance(layout, PatchGrid):
        raise UserError(
            f"{dataset.folder} must hold codes of the tokenizer of {loaded.folder}, "
            f"{pixels.folder} pixels"
        )
    if not isinstance(loaded.model, Llama):
        raise UserError(f"{loaded.folder} reads patches: this study is of models of tokens")
    if different := differences(pixels.reading, dataset.reading):
        raise UserError(f"{pixels.folder} has {'; '.join(different)} of {dataset.folder}")
    return loaded.model, layout


def _check_heads(heads: int, model: Llama, codes: Vocabulary, pixels: PatchGrid) -> None:
    """All contestants have probes of as many heads."""
    widths = {TRUNK: model.size.width, "codes": codes.codebook_size, "pixels": pixels.values}
    for name, width in widths.items():
        if width % heads:
            raise UserError(
                f"{heads} probe heads do not divide the {width} channels of {name}: choose heads "
                f"that divide {', '.join(map(str, widths.values()))}"
            )


def _contestants(
    model: Llama, vocabulary: Vocabulary, layout: PatchGrid, study: RepresentationStudy
) -> Iterator[tuple[str, int, Encoder]]:
    trunk = TrainedEncoder(model)
    for seed in range(study.seeds):
        yield TRUNK, seed, trunk
        random = _random(model.size, model.vocabulary, seed).to(trunk.device)
        yield "random", seed, TrainedEncoder(random)
        yield "codes", seed, CodeEncoder(vocabulary, trunk.device)
        yield "pixels", seed, PixelEncoder(layout, trunk.device)


def _random(size: LlamaSize, rows: int, seed: int) -> Llama:
    torch.manual_seed(seed)
    return Llama(size, rows).eval().requires_grad_(False)


@dataclass(frozen=True)
class _Reading:
    """What one contestant's probes of one seed take the test items of all folds for."""

    curve: list[float]
    chosen: list[int]
    keys: list[str]
    paths: list[str]
    right: Bool[np.ndarray, " items"]
    classes: int

    @classmethod
    def of(cls, folds: Sequence[tuple[ProbeResult, Path]]) -> "_Reading":
        """Folds count by their items."""
        tables = [pq.read_table(path) for _, path in folds]
        counts = [len(table) for table in tables]
        columns = {
            name: [value for table in tables for value in table.column(name).to_pylist()]
            for name in ("key", "path", "label", "guess")
        }
        curves = [result.test_accuracy for result, _ in folds]
        return cls(
            curve=np.average(curves, axis=0, weights=counts).tolist(),
            chosen=[result.best_layer for result, _ in folds],
            keys=columns["key"],
            paths=columns["path"],
            right=np.array(columns["label"]) == np.array(columns["guess"]),
            classes=len({name for result, _ in folds for name in result.classes}),
        )


def _compare(readings: dict[str, list[_Reading]], by_file: bool) -> RepresentationResult:
    first = readings[TRUNK][0]
    for own in (reading for several in readings.values() for reading in several):
        if own.keys != first.keys:
            raise UserError("the data sets of codes and of pixels hold other items")
    units = (
        np.unique(first.paths, return_inverse=True)[1] if by_file else np.arange(len(first.keys))
    )
    right = {
        name: np.mean([reading.right for reading in several], axis=0)
        for name, several in readings.items()
    }
    drawn = {name: _resampled(values, units) for name, values in right.items()}
    standings = [
        Standing(
            name=name,
            curves=[reading.curve for reading in several],
            chosen=[reading.chosen for reading in several],
            accuracies=[float(reading.right.mean()) for reading in several],
            accuracy=float(right[name].mean()),
            interval=quantiles(drawn[name]),
            lead=float(right[TRUNK].mean() - right[name].mean()),
            lead_interval=quantiles(drawn[TRUNK] - drawn[name]),
        )
        for name, several in readings.items()
    ]
    return RepresentationResult(len(first.keys), first.classes, int(units.max()) + 1, standings)


def _resampled(
    values: Float[np.ndarray, " items"], units: Int[np.ndarray, " items"]
) -> Float[np.ndarray, " resamples"]:
    """Means of the values over as many units, drawn with replacement; always the same draws."""
    random = np.random.default_rng(0)
    sums, counts = np.bincount(units, values), np.bincount(units)
    weights = random.multinomial(len(counts), np.full(len(counts), 1 / len(counts)), RESAMPLES)
    return (weights @ sums) / (weights @ counts)
