"""Action recognition by frozen probes (Toto, section 4.2)."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from toto.config import begin, from_dict, read_json, to_dict, write_json
from toto.errors import UserError
from toto.files import only_writer
from toto.media.video import read_clip
from toto.media.view import View
from toto.models.llama import Llama
from toto.models.saved import weights_fingerprint
from toto.probing.clips import Clips, probe_splits
from toto.probing.config import ProbeTraining
from toto.probing.features import FrozenFeatures
from toto.probing.pooling import AttentionPool
from toto.probing.probes import Labelled, Probes
from toto.progress import progress
from toto.tokens.store import TokenDataset
from toto.training.loop import train

# Features up to this size are computed once and kept in memory.
_LIMIT = 5 * 2**29


@dataclass(frozen=True)
class ActionResult:
    """Accuracy of the probes on the test clips, layer and learning rate chosen on others."""

    classes: list[str]
    clips: list[int]
    """clips to train on, to choose by, and to test on"""
    held_out_accuracy: list[float]
    """by layer, on clips of the training part, at each layer's best learning rate"""
    test_accuracy: list[float]
    """by layer, on the test clips, at the learning rate chosen on the held-out ones"""
    best_layer: int
    """chosen on the held-out clips"""
    accuracy: float
    """test accuracy of the best layer"""
    chance: float
    """test accuracy of always guessing the most frequent class of training"""
    pixels: float
    """test accuracy of the same attention probe on pixels, average-pooled to a colour a code"""
    pixels_linear: float
    """test accuracy of a linear classifier that knows the place of each of these colours"""

    def table(self) -> str:
        """The result in words, beside what the paper reports on Kinetics-400 (Toto, Table 8)."""
        rows = [f"{len(self.classes)} classes, {self.clips[2]} test clips"]
        for layer, accuracy in enumerate(self.test_accuracy):
            mark = "  <- chosen on held-out clips of train" if layer == self.best_layer else ""
            rows.append(f"  layer {layer:2d}  {accuracy:6.1%}{mark}")
        rows.append(f"  pixels    {self.pixels:6.1%}  by the same probe")
        rows.append(f"            {self.pixels_linear:6.1%}  by a linear classifier of all places")
        rows.append(f"  chance    {self.chance:6.1%}")
        rows.append("  the paper, Kinetics-400: base 59.3%, large 65.3%, 1b 74.4%")
        return "\n".join(rows)


def probe_actions(
    model: Llama, dataset: TokenDataset, frames: int, out: Path, config: ProbeTraining
) -> ActionResult:
    """Train attention probes on every layer of `model` and read them on the test clips.

    Raises:
        UserError: labels are missing, there are too few clips, or `out` was begun with another
            model, other data or other settings.
    """
    question = {
        "model": weights_fingerprint(model),
        "data": dataset.fingerprint,
        "frames": frames,
        "training": to_dict(config),
    }
    with only_writer(out):
        begin(out / "config.json", question)
        if (out / "result.json").exists():
            return from_dict(ActionResult, read_json(out / "result.json", "a result"), str(out))
        *parts, classes = probe_splits(dataset, config.held_out, frames)
        layers = list(range(model.size.layers + 1))
        kept = 0
        labelled = []
        with progress("features", sum(len(part) for part in parts), "clips") as advance:
            for part in parts:
                features = FrozenFeatures(
                    model, part.tokens, layers, limit=_LIMIT - kept, advance=advance
                )
                kept += features.bytes
                labelled.append(Labelled(features, part.labels(classes)))
        heads, width = config.heads or model.size.heads, model.size.width
        if width % heads:
            raise UserError(f"{heads} probe heads do not divide the model's width {width}")
        test, held_out = _run(
            labelled,
            [str(i) for i in layers],
            lambda _: AttentionPool(width, heads, len(classes)),
            out / "probes",
            config,
            "probe layers",
        )
        pixels = [_pixels(part, classes, dataset, frames) for part in parts]
        rows, cols = dataset.info["grid"]
        size = frames * rows * cols * 3
        readers: dict[str, Callable[[], nn.Module]] = {
            "attention": lambda: AttentionPool(3, 1, len(classes)),
            "linear": lambda: _LinearProbe(size, len(classes)),
        }
        pixel_test, _ = _run(
            pixels,
            list(readers),
            lambda name: readers[name](),
            out / "pixels",
            config,
            "probe pixels",
        )
        result = _result(test, held_out, pixel_test, parts, classes)
        write_json(out / "result.json", result)
        return result


def _run(
    parts: list[Labelled],
    names: list[str],
    build: Callable[[str], nn.Module],
    run: Path,
    config: ProbeTraining,
    what: str,
) -> tuple[dict[str, float], dict[str, float]]:
    """Accuracy on the test and on the held-out clips, by name, at the best learning rate there."""
    training, held_out, test = parts
    probes = Probes(config, training, held_out, build, names)
    run.mkdir(parents=True, exist_ok=True)
    train(probes, config.loop(len(training.labels)), run, what)
    probes.modules.eval()
    with torch.no_grad():
        probes.validate()
        guesses = test.predictions(probes.predict, config.batch)
    best = {
        name: max((f"{group}/{name}" for group in probes.modules), key=probes.accuracy.__getitem__)
        for name in names
    }
    accuracy = {
        name: float((guesses[probe] == test.labels).float().mean()) for name, probe in best.items()
    }
    return accuracy, {name: probes.accuracy[probe] for name, probe in best.items()}


def _result(
    test: dict[str, float],
    held_out: dict[str, float],
    pixels: dict[str, float],
    parts: list[Clips],
    classes: list[str],
) -> ActionResult:
    chosen = [held_out[str(i)] for i in range(len(held_out))]
    best = max(range(len(chosen)), key=chosen.__getitem__)
    most_frequent = torch.bincount(parts[0].labels(classes)).argmax()
    return ActionResult(
        classes=classes,
        clips=[len(part) for part in parts],
        held_out_accuracy=chosen,
        test_accuracy=[test[str(i)] for i in range(len(test))],
        best_layer=best,
        accuracy=test[str(best)],
        chance=float((parts[2].labels(classes) == most_frequent).float().mean()),
        pixels=pixels["attention"],
        pixels_linear=pixels["linear"],
    )


class _LinearProbe(nn.Module):
    """Batch norm without affine and a linear classifier on all values at once."""

    def __init__(self, size: int, classes: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(size, affine=False)
        self.classifier = nn.Linear(size, classes)

    def forward(self, x: Float[Tensor, "b t c"]) -> Float[Tensor, "b classes"]:
        return self.classifier(self.norm(x.flatten(1)))


def _pixels(clips: Clips, classes: list[str], dataset: TokenDataset, frames: int) -> Labelled:
    """The clips' frames, average-pooled to one colour for each code."""
    view = from_dict(View, dataset.info["settings"]["view"], f"{dataset.folder}/dataset.json")
    rows, cols = dataset.info["grid"]
    pooled = []
    with progress("pixels", len(clips), "clips") as advance:
        for item, first in zip(clips.items, clips.firsts, strict=True):
            pixels = torch.from_numpy(read_clip(item.location, first, frames, view)).float() / 255
            pixels = F.adaptive_avg_pool2d(pixels, (rows, cols)).movedim(1, -1).flatten(0, 2)
            missing = frames * rows * cols - len(pixels)
            pooled.append(
                torch.cat((pixels, pixels[-rows * cols :].repeat(missing // (rows * cols), 1)))
            )
            advance()
    stacked = torch.stack(pooled)
    names = ("attention", "linear")
    return Labelled(lambda rows: dict.fromkeys(names, stacked[rows]), clips.labels(classes))
