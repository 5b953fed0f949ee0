"""Recognition by frozen probes (Toto, sections 4.1 and 4.2): what all its tasks share."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from toto.config import begin, from_dict, read_json, to_dict, write_json
from toto.errors import UserError
from toto.files import only_writer
from toto.media.video import read_clip
from toto.models.llama import Backbone
from toto.models.saved import weights_fingerprint
from toto.probing.clips import Clips, probe_splits
from toto.probing.config import ProbeTraining
from toto.probing.features import FrozenFeatures
from toto.probing.neighbours import Neighbours, Passing
from toto.probing.pooling import AttentionBank, Bank, LinearBank, build_bank
from toto.probing.probes import Features, Labelled, Probes
from toto.progress import progress
from toto.tasks.paper import PAPER
from toto.tasks.results import Curve, ProbeResult, confusion_matrix, intervals, mean_per_class
from toto.tokens.store import TokenDataset
from toto.tokens.vocabulary import Kind
from toto.training.loop import train

# Features up to this size are computed once and kept in memory.
_LIMIT = 5 * 2**29

Guesses = dict[str, Tensor]


def recognise(
    model: Backbone,
    dataset: TokenDataset,
    kind: Kind,
    frames: int,
    out: Path,
    config: ProbeTraining,
) -> ProbeResult:
    """Train probes on every layer of `model` and read the chosen ones on the test clips, once.

    Raises:
        UserError: labels are missing, there are too few clips, or `out` was begun with another
            model, other data or other settings.
    """
    heads, width = config.heads or model.size.heads, model.size.width
    if width % heads:
        raise UserError(f"{heads} probe heads do not divide the model's width {width}")
    question = {
        "model": weights_fingerprint(model),
        "data": dataset.fingerprint,
        "kind": kind,
        "frames": frames,
        "training": to_dict(config),
    }
    with only_writer(out):
        begin(out / "config.json", question)
        if (out / "result.json").exists():
            return from_dict(ProbeResult, read_json(out / "result.json", "a result"), str(out))
        *parts, classes = probe_splits(dataset, config.held_out, frames, kind)
        labels = [part.labels(classes) for part in parts]
        features = _features(model, parts)
        passing = Passing(features[0], len(parts[0]), config.seed)
        layers = model.size.layers + 1
        banks: dict[str, Callable[[], Bank]] = {
            f"{probe}/{layer}": partial(
                build_bank, probe, width, heads, len(classes), len(config.grid)
            )
            for probe in config.probes
            for layer in range(layers)
        }
        reads: list[Features] = [passing, *features[1:]]
        labelled = [Labelled(read, own) for read, own in zip(reads, labels, strict=True)]
        probes = _train(labelled, banks, out / "probes", config, model, "probe layers")
        means, kept = passing.means(config.batch)
        knn = Neighbours(means, labels[0][kept], len(classes))
        held_out = _accuracies(labelled[1], labelled[1].predictions(knn, config.batch))
        chosen = probes.chosen()
        held_out |= {name: a[chosen[name]] for name, a in probes.accuracy.items()}
        guesses = _read(probes, labelled[2], knn)
        pixels = _pixel_accuracies(parts, labels, len(classes), dataset, frames, out, config, model)
        curves = {
            probe: _curve(probe, layers, held_out, guesses, labelled[2], probes)
            for probe in (*config.probes, "knn")
        }
        result = _result(curves, guesses, pixels, labels, classes, PAPER[kind])
        write_json(out / "result.json", result)
        return result


def _features(model: Backbone, parts: list[Clips]) -> list[FrozenFeatures]:
    layers = range(model.size.layers + 1)
    features: list[FrozenFeatures] = []
    with progress("features", sum(len(part) for part in parts), "clips") as advance:
        for part in parts:
            left = _LIMIT - sum(x.bytes for x in features)
            features.append(
                FrozenFeatures(model, part.tokens, layers, limit=left, advance=advance, exact=False)
            )
    return features


def _train(
    parts: list[Labelled],
    banks: dict[str, Callable[[], Bank]],
    run: Path,
    config: ProbeTraining,
    model: Backbone,
    what: str,
) -> Probes:
    """Probes, trained and read on the held-out clips."""
    training, held_out, _ = parts
    probes = Probes(config, training, held_out, banks)
    device = str(next(model.parameters()).device)
    train(probes, config.loop(len(training.labels), device), run, what)
    probes.modules.eval()
    if not probes.accuracy:  # a run that was finished before
        with torch.no_grad():
            probes.validate()
    return probes


@torch.no_grad()
def _read(
    probes: Probes,
    test: Labelled,
    beside: Callable[[dict[str, Tensor]], dict[str, Tensor]] = lambda features: {},
) -> Guesses:
    """What the chosen probe of each bank, and what is asked beside them, takes the clips for."""
    chosen = probes.chosen()
    return test.predictions(
        lambda features: probes.predict(features, chosen) | beside(features), probes.config.batch
    )


def _accuracies(part: Labelled, guesses: Guesses) -> dict[str, float]:
    return {name: part.accuracy(guess)[0] for name, guess in guesses.items()}


def _curve(
    probe: str,
    layers: int,
    held_out: dict[str, float],
    guesses: Guesses,
    test: Labelled,
    probes: Probes,
) -> Curve:
    names = [f"{probe}/{layer}" for layer in range(layers)]
    chosen = probes.chosen()
    points = [probes.config.grid[chosen[name]] for name in names if name in chosen]
    accuracy = _accuracies(test, guesses)
    return Curve(
        held_out_accuracy=[held_out[name] for name in names],
        test_accuracy=[accuracy[name] for name in names],
        test_top5=_top5(names, guesses, test.labels),
        learning_rates=[rate for rate, _ in points],
        weight_decays=[decay for _, decay in points],
    )


def _top5(names: list[str], guesses: Guesses, labels: Tensor) -> list[float] | None:
    if any(guesses[name].shape[-1] < 5 for name in names):
        return None
    among = ((guesses[name][0] == labels[:, None]).any(-1) for name in names)
    return [float(right.double().mean()) for right in among]


def _result(
    curves: dict[str, Curve],
    guesses: Guesses,
    pixels: dict[str, float],
    labels: list[Tensor],
    classes: list[str],
    paper: list[str],
) -> ProbeResult:
    knn = curves.pop("knn")
    probe = max(curves, key=lambda name: max(curves[name].held_out_accuracy))
    best = curves[probe]
    layer = int(np.argmax(best.held_out_accuracy))
    test = labels[2]
    taken_for = guesses[f"{probe}/{layer}"][0, :, 0]
    confusion = confusion_matrix(test.numpy(), taken_for.numpy(), len(classes))
    interval, per_class_interval = intervals(confusion)
    return ProbeResult(
        classes=classes,
        clips=[len(part) for part in labels],
        probe=probe,
        best_layer=layer,
        held_out_accuracy=best.held_out_accuracy,
        test_accuracy=best.test_accuracy,
        accuracy=best.test_accuracy[layer],
        interval=interval,
        top5=best.test_top5[layer] if best.test_top5 else None,
        mean_per_class=mean_per_class(confusion),
        mean_per_class_interval=per_class_interval,
        confusion=confusion.tolist(),
        curves=curves,
        knn=knn,
        chance=float((test == torch.bincount(labels[0]).argmax()).double().mean()),
        pixels=pixels["attention/pixels"],
        pixels_linear=pixels["linear/pixels"],
        paper=paper,
    )


def _pixel_accuracies(
    parts: list[Clips],
    labels: list[Tensor],
    classes: int,
    dataset: TokenDataset,
    frames: int,
    out: Path,
    config: ProbeTraining,
    model: Backbone,
) -> dict[str, float]:
    """Test accuracy of probes on pixels, by bank."""
    device = next(model.parameters()).device
    labelled = [
        Labelled(partial(_pixel_features, _pixels(part, dataset, frames), device), own)
        for part, own in zip(parts, labels, strict=True)
    ]
    points = len(config.grid)
    size = frames * dataset.layout.frame * 3
    banks: dict[str, Callable[[], Bank]] = {
        "attention/pixels": lambda: AttentionBank(3, 1, classes, points),
        "linear/pixels": lambda: LinearBank(lambda x: x.flatten(1), size, classes, points),
    }
    probes = _train(labelled, banks, out / "pixels", config, model, "probe pixels")
    return _accuracies(labelled[2], _read(probes, labelled[2]))


def _pixel_features(pixels: Tensor, device: torch.device, rows: Tensor) -> dict[str, Tensor]:
    return {"pixels": pixels[rows].to(device)}


def _pixels(clips: Clips, dataset: TokenDataset, frames: int) -> Tensor:
    """The clips' frames, average-pooled to one colour for each code: `(clips, positions, 3)`."""
    rows, cols = dataset.info["grid"]
    pooled = []
    with progress("pixels", len(clips), "clips") as advance:
        for item, first in zip(clips.items, clips.firsts, strict=True):
            pixels = torch.from_numpy(read_clip(item.location, first, frames, dataset.view)) / 255
            pixels = F.adaptive_avg_pool2d(pixels, (rows, cols)).movedim(1, -1).flatten(0, 2)
            missing = frames * rows * cols - len(pixels)
            pooled.append(
                torch.cat((pixels, pixels[-rows * cols :].repeat(missing // (rows * cols), 1)))
            )
            advance()
    return torch.stack(pooled)
