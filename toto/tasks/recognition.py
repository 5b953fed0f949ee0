"""Recognition by frozen probes (Toto, sections 4.1 and 4.2): what all its tasks share."""

import gc
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from toto.errors import MediaError, UserError
from toto.files import file_atomically
from toto.models.llama import Llama
from toto.models.saved import save_model
from toto.probing.clips import Items, probe_splits
from toto.probing.config import ProbeTraining
from toto.probing.encoder import Encoder, TrainedEncoder
from toto.probing.features import FrozenFeatures
from toto.probing.neighbours import Neighbours, Passing
from toto.probing.pooling import AttentionBank, Bank, LinearBank, build_bank
from toto.probing.probes import Features, Labelled, Probes
from toto.probing.trunk import next_token_phase, trainable_copy
from toto.processes import give_back_memory
from toto.progress import console, progress
from toto.tasks.answers import answered
from toto.tasks.paper import PAPER
from toto.tasks.pixels import pixels_of
from toto.tasks.question import Question, unread_items
from toto.tasks.results import Curve, ProbeResult
from toto.training.adopt import details_of
from toto.training.device import pick_precision
from toto.training.loop import train
from toto.training.objectives.base import Phase
from toto.training.world import ALONE, World, all_of

Guesses = dict[str, Tensor]
Build = dict[str, Callable[[], Bank]]


def recognise(question: Question, out: Path, world: World = ALONE) -> ProbeResult:
    """Train probes on every layer of the encoder and read the chosen ones on the test items, once.

    All processes of the world call this; the first one writes.

    Raises:
        UserError: labels are missing, there are too few items, or `out` was begun with another
            encoder, other data or other settings.
    """
    return answered(
        ProbeResult,
        out,
        question.settings(),
        lambda: _Recognition(question, out, world).result(),
        world,
    )


class _Recognition:
    """One question on its way to its answer."""

    def __init__(self, question: Question, out: Path, world: World) -> None:
        self.question, self.out, self.world = question, out, world
        self.config = question.config
        self.encoder, self.trunk = _reader(question)
        *parts, self.classes = probe_splits(
            question.dataset,
            self.config.held_out,
            question.frames,
            question.kind,
            question.test,
            question.left_out,
        )
        self.parts: list[Items] = parts
        self.labels = [part.labels(self.classes) for part in parts]
        layers = range(self.encoder.layers + 1)
        self.features = [FrozenFeatures(self.encoder, layers, exact=False) for _ in parts]
        self.views = parts[2].views(self.config.test_clips)
        batch = min(self.config.batch, len(parts[0]))
        if batch < world.size:
            raise UserError(f"{world.size} processes cannot share a batch of {batch} clips")

    def result(self) -> ProbeResult:
        """Train, choose and read."""
        layers = self.encoder.layers + 1
        labelled, passing = self._labelled()
        probes = self._train(
            labelled, self._banks(layers), "probes", "probe layers", self._beside()
        )
        if self.trunk is not None and self.world.is_first:
            asked = self.question
            details = details_of(asked.dataset, asked.frames, kinds=[asked.kind])
            save_model(self.trunk, details, asked.dataset.tokenizer_folder, self.out / "model")
        means, kept = passing.means(self.config.batch, self.world)
        knn = Neighbours(means, self.labels[0][kept], len(self.classes))
        held_out = _accuracies(
            labelled[1], labelled[1].predictions(knn, self.config.batch, self.world)
        )
        chosen = probes.chosen()
        held_out |= {name: a[chosen[name]] for name, a in probes.accuracy.items()}
        guesses = self._read(probes, labelled[2], "test", knn)
        for features in self.features:
            features.forget()  # a study asks many questions
        curves = {
            probe: _curve(probe, layers, held_out, guesses, labelled[2], probes, len(self.classes))
            for probe in (*self.config.probes, "knn")
        }
        pixels = self._pixel_accuracies() if self.question.pixels else {}
        return self._result(curves, guesses, pixels)

    def _labelled(self) -> tuple[list[Labelled], Passing]:
        """What is trained on, chosen by and tested on; and the means of the training items."""
        gc.collect()  # a question before has left probes and pixels in cycles
        training, held_out, test = self.features
        items, by, tested = self.parts
        if self.trunk is None:
            self._keep(training, held_out)
        passing = Passing(partial(_middle, training, items), len(items), self.config.seed)
        # States of a trunk that is still trained are of no use later.
        is_single = items.crops == 1 and not self.config.random_start and self.trunk is None
        seen: Features = passing if is_single else partial(_drawn, training, items, self.config)
        views = partial(_view, test, tested, self.config.test_clips)
        labelled = [
            Labelled(seen, self.labels[0]),
            Labelled(partial(_middle, held_out, by), self.labels[1]),
            Labelled(views, self.labels[2], self.views),
        ]
        return labelled, passing

    def _keep(self, training: FrozenFeatures, held_out: FrozenFeatures) -> None:
        """Compute what is read again and again once, if it fits."""
        items, by, _ = self.parts
        clips = [(held_out, by.middle())]
        if not self.config.random_start and items.crops <= self.config.epochs:
            clips.insert(0, (training, items.every_crop()))
        count, left = sum(len(some) for _, some in clips), _room(self.world)
        with progress("features", count, "clips", shown=self.world.is_first) as advance:
            for features, some in clips:
                features.keep(some, limit=left, world=self.world, advance=advance)
                left -= features.bytes

    def _beside(self) -> Phase | None:
        """The training of the trunk, if it goes on."""
        if self.trunk is None:
            return None
        items, config = self.parts[0], self.config
        return next_token_phase(
            self.trunk,
            lambda rows, epoch: items[rows].drawn(config.seed, epoch, config.random_start),
            config,
            config.loop(len(items)).steps,
            pick_precision("auto", self.encoder.device),
        )

    def _banks(self, layers: int) -> Build:
        sizes = self.encoder.width, self.question.heads, len(self.classes), len(self.config.grid)
        return {
            f"{probe}/{layer}": partial(build_bank, probe, *sizes, self.world)
            for probe in self.config.probes
            for layer in range(layers)
        }

    def _train(
        self,
        parts: list[Labelled],
        banks: Build,
        folder: str,
        what: str,
        beside: Phase | None = None,
    ) -> Probes:
        """Probes, trained and read on the held-out items."""
        training, held_out, _ = parts
        probes = Probes(self.config, training, held_out, banks, beside)
        loop = self.config.loop(len(training.labels), str(self.encoder.device))
        train(probes, loop, self.out / folder, what, self.world)
        probes.modules.eval()
        if not probes.accuracy:  # a run that was finished before
            with torch.no_grad():
                probes.validate(self.world)
        return probes

    @torch.no_grad()
    def _read(
        self,
        probes: Probes,
        test: Labelled,
        what: str,
        beside: Callable[[dict[str, Tensor]], dict[str, Tensor]] = lambda features: {},
    ) -> Guesses:
        """What each bank's chosen probe, and what is asked beside them, takes the items for."""
        chosen = probes.chosen()

        def predict(features: dict[str, Tensor]) -> dict[str, Tensor]:
            return probes.predict(features, chosen) | beside(features)

        count, batch = len(self.world.part(len(test.labels))), self.config.batch
        with progress(what, count, "items", shown=self.world.is_first) as advance:
            return test.predictions(predict, batch, self.world, advance)

    def _pixel_accuracies(self) -> dict[str, float]:
        """Test accuracy of probes on pixels, by kind."""
        device, points = self.encoder.device, len(self.config.grid)
        count = sum(map(len, self.parts))
        try:
            with progress("pixels", count, "clips", shown=self.world.is_first) as advance:
                pixels = [pixels_of(part.middle(), self.world, advance) for part in self.parts]
        except MediaError as error:
            if self.world.is_first:
                console.print(f"pixels are not probed: {error}")
            return {}
        labelled = [
            Labelled(partial(_pixels, some, device), own)
            for some, own in zip(pixels, self.labels, strict=True)
        ]
        size, classes, world = pixels[0][0].numel(), len(self.classes), self.world
        banks: Build = {
            "attention/pixels": lambda: AttentionBank(3, 1, classes, points, world),
            "linear/pixels": lambda: LinearBank(
                lambda x: x.flatten(1), size, classes, points, world
            ),
        }
        probes = self._train(labelled, banks, "pixels", "probe pixels")
        accuracies = _accuracies(labelled[2], self._read(probes, labelled[2], "test pixels"))
        return {name.split("/")[0]: accuracy for name, accuracy in accuracies.items()}

    def _result(
        self, curves: dict[str, Curve], guesses: Guesses, pixels: dict[str, float]
    ) -> ProbeResult:
        knn = curves.pop("knn")
        probe = max(curves, key=lambda name: max(curves[name].held_out_accuracy))
        best = curves[probe]
        layer = int(np.argmax(best.held_out_accuracy))
        best_guesses = guesses[f"{probe}/{layer}"][0]
        if self.world.is_first:
            self._write_guesses(best_guesses[:, 0])
        return ProbeResult.of(
            best_guesses.numpy(),
            [labels.numpy() for labels in self.labels],
            self.classes,
            views=self.views,
            unread=unread_items(self.question.dataset, self.question.test),
            probe=probe,
            best_layer=layer,
            held_out_accuracy=best.held_out_accuracy,
            test_accuracy=best.test_accuracy,
            curves=curves,
            knn=knn,
            pixels=pixels,
            paper=PAPER[self.question.kind],
        )

    def _write_guesses(self, taken_for: Tensor) -> None:
        """What the chosen probe takes each test item for, beside its label."""
        items = self.parts[2].middle().items
        table = {
            "key": [item.key for item in items],
            "path": [item.path for item in items],
            "label": [item.label for item in items],
            "guess": [self.classes[i] for i in taken_for.tolist()],
        }
        with file_atomically(self.out / "test.parquet") as file:
            pq.write_table(pa.table(table), file)


def _reader(question: Question) -> tuple[Encoder, Llama | None]:
    """What is read, and if that is trained further the copy that is."""
    encoder, config = question.encoder, question.config
    if not config.changes_trunk:
        return encoder, None
    assert isinstance(encoder, TrainedEncoder) and isinstance(encoder.model, Llama)
    trunk = trainable_copy(encoder.model, config.rope_base)
    if config.trunk_update == "none":
        return TrainedEncoder(trunk.eval().requires_grad_(False)), None
    return TrainedEncoder(trunk), trunk


def _room(world: World) -> int:
    """Bytes for states that each process computes once and keeps, the same for all.

    Together, those of a machine take a quarter of the memory that is free.
    """
    give_back_memory()
    return min(all_of(world, psutil.virtual_memory().available)) // (4 * world.on_node)


def _middle(features: FrozenFeatures, items: Items, rows: Tensor, turn: int) -> dict[str, Tensor]:
    return features(items[rows].middle())


def _drawn(
    features: FrozenFeatures, items: Items, config: ProbeTraining, rows: Tensor, epoch: int
) -> dict[str, Tensor]:
    return features(items[rows].drawn(config.seed, epoch, config.random_start))


def _view(
    features: FrozenFeatures, items: Items, clips: int, rows: Tensor, view: int
) -> dict[str, Tensor]:
    return features(items[rows].view(view, clips))


def _pixels(pixels: Tensor, device: torch.device, rows: Tensor, turn: int) -> dict[str, Tensor]:
    return {"pixels": pixels[rows].to(device)}


def _accuracies(part: Labelled, guesses: Guesses) -> dict[str, float]:
    return {name: part.accuracy(guess)[0] for name, guess in guesses.items()}


def _curve(
    probe: str,
    layers: int,
    held_out: dict[str, float],
    guesses: Guesses,
    test: Labelled,
    probes: Probes,
    classes: int,
) -> Curve:
    names = [f"{probe}/{layer}" for layer in range(layers)]
    chosen = probes.chosen()
    points = [probes.config.grid[chosen[name]] for name in names if name in chosen]
    accuracy = _accuracies(test, guesses)
    return Curve(
        held_out_accuracy=[held_out[name] for name in names],
        test_accuracy=[accuracy[name] for name in names],
        test_top5=_top5(names, guesses, test.labels) if classes > 5 else None,
        learning_rates=[rate for rate, _ in points],
        weight_decays=[decay for _, decay in points],
    )


def _top5(names: list[str], guesses: Guesses, labels: Tensor) -> list[float]:
    among = ((guesses[name][0] == labels[:, None]).any(-1) for name in names)
    return [float(right.double().mean()) for right in among]
