"""The main job in small: from videos to a trained model, its features, its futures and a report."""

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

from toto import __version__
from toto.api import Toto
from toto.config import begin, from_dict, read_json, to_dict, write_json
from toto.errors import UserError
from toto.files import only_writer
from toto.generation.continuation import continue_codes
from toto.generation.sampling import Sampling
from toto.media.item import Item
from toto.media.sources import read_sources
from toto.media.video import read_clip
from toto.media.view import View
from toto.models.llama import Llama
from toto.probing.clips import probe_splits
from toto.processes import processor_name
from toto.progress import console, progress
from toto.recipes.demo import Demo
from toto.studies.report.page import write_report
from toto.studies.report.records import (
    Continuation,
    Data,
    Losses,
    Report,
    Stage,
    TokenizerQuality,
)
from toto.studies.yardsticks import measure
from toto.tasks.question import Question
from toto.tasks.recognition import recognise
from toto.tasks.results import ProbeResult
from toto.tokenizers.quality import psnr, usage
from toto.tokens.config import Ingest
from toto.tokens.ingest import ingest, report_failures
from toto.tokens.loader import Sequences, freeze, select
from toto.tokens.mixture import Manifest
from toto.tokens.rows import ItemRow
from toto.tokens.store import TokenDataset
from toto.training.device import pick_device, pick_devices
from toto.training.metrics import read_metrics
from toto.training.objectives.next_token import position_losses
from toto.training.runs import pretrain, train_tokenizer, versions
from toto.world.layouts import write_actions

# Frames of the pictures in the report.
_SHOWN = 10


def run_demo(settings: Demo, videos: Path | None, out: Path) -> Path:
    """Run every stage that is not done yet in `out`, and write `out/report.html`.

    Raises:
        UserError: `out` was made with other settings, or `videos` cannot be used.
    """
    with only_writer(out):
        stages = _Stages(out, {"settings": to_dict(settings), "videos": str(videos)})
        sources = [str(videos)]
        if videos is None:
            sources = [str(out / "world" / f"{split}.csv") for split in ("train", "val", "test")]
            stages.run("world", "videos", lambda: _make_world(settings, out / "world"))
        train_source = sources[:1]
        stages.run("tokenizer", "frames", lambda: _train_tokenizer(settings, train_source, out))
        items = read_sources(sources, out)
        stages.run("tokenize", "tokens", lambda: _tokenize(settings, items, out))
        stages.run("pretrain", "tokens", lambda: _pretrain(settings, out))
        dataset = TokenDataset(out / "tokens")
        probed = _can_probe(settings, dataset)
        if probed:
            stages.run("probe", "clips", lambda: _probe(settings, dataset, out))
        if settings.futures:
            stages.run("generate", "tokens", lambda: _generate(settings, dataset, out))
        return _write_report(settings, stages, dataset, probed, out)


class _Stages:
    """The stages that are done, each recorded in `stages/NAME.json` when it ends."""

    def __init__(self, out: Path, settings: dict[str, Any]) -> None:
        self.folder = out / "stages"
        self.records: list[Stage] = []
        self.folder.mkdir(parents=True, exist_ok=True)
        begin(out / "config.json", settings)

    def run(self, name: str, unit: str, stage: Callable[[], int]) -> None:
        """Run a stage, which returns how many `unit` it handled, unless it is done."""
        path = self.folder / f"{name}.json"
        if path.exists():
            record = from_dict(Stage, read_json(path, "a stage"), str(path))
            self.records.append(replace(record, reused=True))
            return
        start = time.monotonic()
        with _Memory() as memory:
            items = stage()
        record = Stage(name, time.monotonic() - start, items, unit, memory.peak)
        write_json(path, record)
        self.records.append(record)


class _Memory:
    """The most memory that this process and its children held together, sampled."""

    def __init__(self) -> None:
        self.peak = 0
        self.done = threading.Event()
        self.thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> "_Memory":
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.done.set()
        self.thread.join()

    def _sample(self) -> None:
        process = psutil.Process()
        while True:
            total = process.memory_info().rss
            for child in process.children(recursive=True):
                try:
                    total += child.memory_info().rss
                except psutil.Error:
                    continue  # it has just ended
            self.peak = max(self.peak, total)
            if self.done.wait(0.2):
                return


def _view(settings: Demo) -> View:
    return View(settings.tokenizer.stride, settings.tokenizer.size)


def _make_world(settings: Demo, out: Path) -> int:
    frames = (settings.pretrain.frames - 1) * settings.tokenizer.stride + 1
    size = settings.tokenizer.size
    write_actions(
        out, settings.count, settings.seed, size=size, frames=frames, workers=settings.workers
    )
    return settings.count


def _train_tokenizer(settings: Demo, sources: list[str], out: Path) -> int:
    config = replace(settings.tokenizer, source=tuple(sources))
    train_tokenizer(config, out / "tokenizer", settings.workers)
    return config.loop.steps * config.batch


def _tokenize(settings: Demo, items: list[Item], out: Path) -> int:
    dataset = ingest(
        items,
        out / "tokenizer" / "tokenizer",
        out / "tokens",
        Ingest(_view(settings)),
        "toto demo",
        settings.workers,
        pick_devices("auto"),
    )
    report_failures(dataset)
    return dataset.info.frames * dataset.vocabulary.frame


def _pretrain(settings: Demo, out: Path) -> int:
    config = replace(settings.pretrain, data=(out / "tokens",))
    clips = Sequences(
        freeze(
            [TokenDataset(out / "tokens")],
            config.weights,
            config.frames,
            config.loop.seed,
            "train",
            config.validation_fraction,
        )
    ).clips
    steps = min(config.loop.steps, max(settings.passes * clips // config.batch, 1))
    pretrain(replace(config, loop=replace(config.loop, steps=steps)), out / "pretrain")
    rows = [row for row in read_metrics(out / "pretrain") if "tokens" in row]
    return int(rows[-1]["tokens"])


def _can_probe(settings: Demo, dataset: TokenDataset) -> bool:
    try:
        probe_splits(dataset, settings.probe.held_out, settings.pretrain.frames)
    except UserError as error:
        console.print(f"no probing: {error}")
        return False
    return True


def _probe(settings: Demo, dataset: TokenDataset, out: Path) -> int:
    loaded = Toto.load(out / "pretrain")
    question = Question(loaded.encoder, dataset, "video", loaded.frames, settings.probe)
    return sum(recognise(question, out / "probe").clips)


def _held_out(settings: Demo, dataset: TokenDataset) -> list[ItemRow]:
    """Items that no training has seen, longest first where they are short."""
    rows = select(dataset, "validation", settings.pretrain.validation_fraction)
    items = dataset.items(rows)
    frames = settings.pretrain.frames
    return sorted(items, key=lambda item: -min(item.frames, frames))


def _generate(settings: Demo, dataset: TokenDataset, out: Path) -> int:
    """Futures of held-out clips, as codes in `out/futures.npy` `(clips, samples, frames, ...)`."""
    loaded = Toto.load(out / "pretrain")
    assert isinstance(loaded.model, Llama)
    items = _held_out(settings, dataset)[: settings.futures]
    prompt = min(settings.prompt, *(item.frames for item in items))
    known = torch.from_numpy(
        np.stack([dataset.codes(item, 0, prompt) for item in items]).astype("i8")
    )
    future = settings.pretrain.frames - prompt
    with progress("imagine", future, "frames") as advance:
        codes = continue_codes(
            loaded.model,
            loaded.vocabulary,
            known.repeat_interleave(settings.samples, 0).to(loaded.device),
            future,
            loaded.frames,
            Sampling(temperature=0.9, top_p=0.95),
            advance,
        )
    whole = torch.cat((known.repeat_interleave(settings.samples, 0), codes.cpu()), 1)
    np.save(out / "futures.npy", whole.unflatten(0, (len(items), -1)).numpy().astype(np.uint16))
    return codes.numel()


def _write_report(
    settings: Demo, stages: _Stages, dataset: TokenDataset, probed: bool, out: Path
) -> Path:
    loaded = Toto.load(out / "pretrain")
    whole, later, positions = _losses(settings, loaded, dataset, out)
    result = None
    if probed:
        values = read_json(out / "probe" / "result.json", "a probe's result")
        result = from_dict(ProbeResult, values, f"{out}/probe/result.json")
    rows = read_metrics(out / "pretrain")
    title = "Toto on the embedded world" if (out / "world").exists() else "Toto on your videos"
    page = Report(
        title=title,
        created=datetime.now(UTC).date().isoformat(),
        seed=settings.seed,
        config=to_dict(settings),
        versions=_machine(),
        stages=stages.records,
        data=_data(dataset),
        tokenizer=_tokenizer_quality(settings, loaded, dataset),
        metrics=rows,
        whole_clip=whole,
        later_frames=later,
        position_losses=positions,
        continuations=_continuations(settings, loaded, dataset, out),
        probe=result,
    )
    return write_report(page, out)


def _machine() -> dict[str, Any]:
    return {
        "toto": __version__,
        **versions(),
        "processor": processor_name(),
        "cores": str(psutil.cpu_count()),
        "device": str(pick_device("auto")),
        "date": datetime.now(UTC).date().isoformat(),
    }


def _data(dataset: TokenDataset) -> Data:
    return Data(
        videos=len(dataset),
        hours=dataset.hours(),
        kept_frames=int(dataset.column("frames").sum()),
        codes_per_frame=dataset.vocabulary.frame,
        failures=dataset.failures(),
    )


def _losses(
    settings: Demo, loaded: Toto, dataset: TokenDataset, out: Path
) -> tuple[Losses, Losses, np.ndarray]:
    """The model and the yardsticks over the same clips: whole, and from the second frame on."""
    config = read_json(out / "pretrain" / "config.json", "a run")["manifests"]
    train, held_out = (
        Sequences(from_dict(Manifest, config[split], str(out))) for split in ("train", "validation")
    )
    count = min(settings.pretrain.validation_sequences, held_out.clips)
    by_position = position_losses(loaded.model, held_out, count, 8).numpy()
    clips = [held_out.codes(i) for i in range(count)]
    seen = [train.codes(i) for i in range(train.clips)]
    frame, size = dataset.vocabulary.frame, dataset.vocabulary.codebook_size
    pairs = []
    for first in (0, 1):
        mean = float(np.nanmean(by_position[:, first * frame :]))
        pairs.append(Losses(mean, measure(seen, clips, size, first)))
    return pairs[0], pairs[1], np.nanmean(by_position, axis=0)


def _tokenizer_quality(settings: Demo, loaded: Toto, dataset: TokenDataset) -> TokenizerQuality:
    view = _view(settings)
    items = _held_out(settings, dataset)[:64]
    frames = torch.from_numpy(
        np.concatenate(
            [read_clip(item.location, i % item.frames, 1, view) for i, item in enumerate(items)]
        )
    )
    codes = loaded.tokenize(frames.numpy())
    made = loaded.tokenizer.decode(codes).cpu()
    plain = frames.float().mean((2, 3), keepdim=True).round().to(torch.uint8).expand_as(frames)
    used, perplexity = usage(codes, loaded.vocabulary.codebook_size)
    return TokenizerQuality(
        psnr=float(psnr(frames, made).mean()),
        mean_colour_psnr=float(psnr(frames, plain).mean()),
        codes_used=int(used),
        codebook_size=loaded.vocabulary.codebook_size,
        perplexity=perplexity,
        frames=frames[:_SHOWN].numpy(),
        reconstructions=made[:_SHOWN].numpy(),
    )


def _continuations(
    settings: Demo, loaded: Toto, dataset: TokenDataset, out: Path
) -> list[Continuation]:
    if not settings.futures:
        return []
    futures = np.load(out / "futures.npy")
    items = _held_out(settings, dataset)[: len(futures)]
    prompt = min(settings.prompt, *(item.frames for item in items))
    shown = []
    for item, samples in zip(items, futures, strict=True):
        truth = read_clip(item.location, 0, samples.shape[1], _view(settings))
        codes = torch.from_numpy(dataset.codes(item, 0, len(truth)).astype("i8"))
        decode = loaded.tokenizer.decode
        shown.append(
            Continuation(
                truth=truth,
                reconstruction=decode(codes.to(loaded.device)).cpu().numpy(),
                samples=[
                    decode(torch.from_numpy(sample.astype("i8")).to(loaded.device)).cpu().numpy()
                    for sample in samples[:, : len(truth)]
                ],
                prompt=prompt,
                caption=item.key if item.label is None else f"{item.label} ({item.key})",
            )
        )
    return shown
