"""Clips that are decoded and tokenized as training asks for them, for data sets without codes."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Int, UInt8, UInt16

from toto.errors import UserError
from toto.media.pool import Chunk, DecodePool, Failure, Task
from toto.media.view import CENTRE, View
from toto.progress import console
from toto.tokenizers.base import Tokenizer, load_tokenizer
from toto.tokens.mixture import Manifest, Source, key_of, places_of
from toto.tokens.store import TokenDataset

# So many clips in a row that cannot be read are no accident.
_PATIENCE = 100
_BATCH = 32  # frames in each pass through the tokenizer


@dataclass(frozen=True)
class Wanted:
    """One clip of a sequence: the `rank`-th that its source gives in an epoch."""

    source: int
    epoch: int
    rank: int
    at: int
    """where its frames go"""
    tries: int = 0


class OnlineReader:
    """Decodes and tokenizes clips of scanned data sets.

    Training clips are cut out at a random place of each epoch, others in the middle. A clip that
    can no longer be read gives its place to the one that comes next in the epoch's order.

    Args:
        manifest: of the run.
        datasets: those of its entries.
        sources: the clips of its entries.
        device: where frames are tokenized.
        workers: processes that decode.
    """

    def __init__(
        self,
        manifest: Manifest,
        datasets: Sequence[TokenDataset],
        sources: Sequence[Source],
        device: str,
        workers: int,
    ) -> None:
        self._manifest, self._datasets, self._sources = manifest, datasets, sources
        self._device, self._workers = device, workers
        self._tokenizer = load_tokenizer(datasets[0].tokenizer_folder, device)
        self._pools: dict[View, DecodePool] = {}
        self._told: set[str] = set()

    def read(
        self, wanted: Sequence[Wanted], out: UInt16[np.ndarray, "frames rows cols"]
    ) -> Int[np.ndarray, " wanted"]:
        """Write the codes of clips to `out`, each at its place; returns how many frames each has.

        Raises:
            UserError: too many clips cannot be read.
        """
        lengths = np.zeros(len(wanted), np.int64)
        waiting = dict(enumerate(wanted))
        while waiting:
            clips = {i: self._clip(want) for i, want in waiting.items()}
            for view in sorted({clip.view for clip in clips.values()}, key=repr):
                chosen = [i for i, clip in clips.items() if clip.view == view]
                self._decode(view, [clips[i] for i in chosen], chosen, out, lengths)
            waiting = {i: self._next(waiting[i], clip) for i, clip in clips.items() if clip.reason}
        return lengths

    def _decode(
        self,
        view: View,
        clips: Sequence["_Clip"],
        numbers: Sequence[int],
        out: UInt16[np.ndarray, "frames rows cols"],
        lengths: Int[np.ndarray, " wanted"],
    ) -> None:
        encoder = _Encoder(self._tokenizer, self._device, out)
        got = 0
        for place, part in self._pool(view).stream(clip.task for clip in clips):
            clip = clips[place]
            if isinstance(part, Chunk):
                encoder.add(part.frames[:, 0], clip.at + got)
                got += len(part.frames)
                continue
            lengths[numbers[place]] = got
            if isinstance(part, Failure):
                clip.reason = part.reason
            elif got < (clip.task.frames or 0):
                clip.reason = f"{got} frames of {clip.task.frames} from {clip.task.first} on"
            got = 0
        encoder.finish()

    def _pool(self, view: View) -> DecodePool:
        return self._pools.setdefault(view, DecodePool(view, self._workers))

    def _clip(self, want: Wanted) -> "_Clip":
        source, dataset = self._sources[want.source], self._datasets[want.source]
        epochs, seed = np.array([want.epoch]), self._manifest.seed
        places = places_of(self._manifest, want.source, epochs, np.array([want.rank]))
        where = source.locate(epochs, places, seed)
        row = dataset.item(int(where.rows[0]))
        middle = CENTRE
        if self._manifest.split == "train":
            middle = key_of(seed, "place", want.epoch, row.key) / 2**64
        task = Task(row.location, (middle,), int(where.firsts[0]), int(where.frames[0]))
        return _Clip(row.key, dataset.view, task, want.at)

    def _next(self, want: Wanted, lost: "_Clip") -> Wanted:
        entry = self._manifest.entries[want.source]
        if want.tries == _PATIENCE:
            last = f"{lost.key}: {lost.reason}"
            raise UserError(f"{entry.path}: {_PATIENCE} clips in a row cannot be read: {last}")
        if lost.key not in self._told:
            self._told.add(lost.key)
            console.print(f"not read: {lost.key}: {lost.reason}; another clip takes its place")
        return replace(want, rank=(want.rank + 1) % entry.clips, tries=want.tries + 1)


@dataclass
class _Clip:
    key: str
    view: View
    task: Task
    at: int
    reason: str = ""
    """why it could not be read"""


class _Encoder:
    """Frames in any order to codes at their places, in passes of a fixed size."""

    def __init__(
        self, tokenizer: Tokenizer, device: str, out: UInt16[np.ndarray, "frames rows cols"]
    ) -> None:
        self._tokenizer, self._device, self._out = tokenizer, device, out
        self._frames: list[np.ndarray] = []
        self._places: list[int] = []

    def add(self, frames: UInt8[np.ndarray, "n 3 size size"], at: int) -> None:
        self._frames.extend(frames)
        self._places.extend(range(at, at + len(frames)))
        while len(self._frames) >= _BATCH:
            self._encode()

    def finish(self) -> None:
        if self._frames:
            self._encode()

    def _encode(self) -> None:
        frames, self._frames = self._frames[:_BATCH], self._frames[_BATCH:]
        places, self._places = self._places[:_BATCH], self._places[_BATCH:]
        full = np.zeros((_BATCH, *frames[0].shape), np.uint8)
        full[: len(frames)] = frames
        codes = self._tokenizer.encode(torch.from_numpy(full).to(self._device))
        self._out[places] = codes[: len(frames)].cpu().numpy().astype(np.uint16)
