"""Clips that are decoded and tokenized as training asks for them, for data sets without codes."""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from jaxtyping import Int, UInt8

from toto.errors import UserError
from toto.media.pool import Chunk, DecodePool, Failure, Task
from toto.media.view import Limits, Place, View
from toto.progress import console
from toto.tokenizers.base import Tokenizer, codes_of, load_tokenizer
from toto.tokens.mixture import Located, Manifest, Source, key_of, places_of
from toto.tokens.reading import Codes
from toto.tokens.store import TokenDataset

# So many clips in a row that cannot be read are no accident.
_PATIENCE = 100
_SEARCH = 4096  # clips looked at together for one that is long enough
_BATCH = 32  # frames in each pass through the tokenizer


@dataclass(frozen=True)
class Wanted:
    """One clip of a sequence: the `rank`-th that its source gives in an epoch."""

    source: int
    epoch: int
    rank: int
    at: int
    """where its frames go"""
    frames: int
    """how many: its own, and as many of another that takes its place"""
    tries: int = 0
    """how many before it could not be read"""
    is_second: bool = False
    """whether it ran into a limit, or its decoder was killed, and this is its second chance"""


class OnlineReader:
    """Decodes and tokenizes clips of scanned data sets.

    Training clips are cut out at a random place of each epoch, others in the middle. A clip that
    can no longer be read gives its place to the next of the epoch's order that is as long, or to
    the beginning of a longer one: the lengths of sequences stay those of the index. So that no
    passing trouble changes the data, one whose decoder was killed is tried a second time.

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
        self._pools: dict[tuple[View, Limits], DecodePool] = {}
        self._told: set[str] = set()
        self._reading = threading.Lock()
        self._is_closed = False

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        return load_tokenizer(self._datasets[0].tokenizer_folder, self._device)

    def close(self) -> None:
        """End the decoders. What another thread is reading breaks off at its next frames."""
        self._is_closed = True
        with self._reading:
            for pool in self._pools.values():
                pool.close()

    def read(self, wanted: Sequence[Wanted], out: Codes) -> None:
        """Write the codes of clips to `out`, each at its place.

        Raises:
            UserError: too many clips cannot be read.
            RuntimeError: the reader is closed.
        """
        waiting = dict(enumerate(wanted))
        with self._reading:
            while waiting:
                clips = self._clips(waiting)
                for how in sorted({clip.how for clip in clips.values()}, key=repr):
                    self._decode(how, [c for c in clips.values() if c.how == how], out)
                lost = {i: clip for i, clip in clips.items() if clip.reason}
                waiting = {i: self._next(waiting[i], clip) for i, clip in lost.items()}

    def _decode(
        self,
        how: tuple[View, Limits],
        clips: Sequence["_Clip"],
        out: Codes,
    ) -> None:
        encoder = _Encoder(self._tokenizer, self._device, out)
        for place, part in self._pool(how).stream(clip.task for clip in clips):
            if self._is_closed:
                raise RuntimeError("closed while clips were being read")
            clip = clips[place]
            if isinstance(part, Chunk):
                encoder.add(part.frames[:, 0], clip.at + clip.got)
                clip.got += len(part.frames)
            elif isinstance(part, Failure):
                clip.reason, clip.may_pass = part.reason, part.retry
            elif clip.got < (clip.task.frames or 0):
                clip.reason = f"{clip.got} frames of {clip.task.frames} from {clip.task.first} on"
        encoder.finish()

    def _pool(self, how: tuple[View, Limits]) -> DecodePool:
        if self._is_closed:
            raise RuntimeError("closed")
        view, limits = how
        return self._pools.setdefault(how, DecodePool(view, self._workers, limits))

    def _clips(self, wanted: Mapping[int, Wanted]) -> dict[int, "_Clip"]:
        """What is to be decoded, in the order asked for; rows are looked up together."""
        clips: dict[int, _Clip] = {}
        for number in {want.source for want in wanted.values()}:
            mine = {i: want for i, want in wanted.items() if want.source == number}
            epochs = np.array([want.epoch for want in mine.values()])
            ranks = np.array([want.rank for want in mine.values()])
            where = self._locate(number, epochs, ranks)
            dataset = self._datasets[number]
            rows = dataset.items(where.rows)
            for (i, want), row, first in zip(
                mine.items(), rows, where.firsts.tolist(), strict=True
            ):
                place = self._place(dataset.view, want.epoch, row.key)
                task = Task(row.location, (place,), first, want.frames)
                clips[i] = _Clip(row.key, (dataset.view, dataset.info.limits), task, want.at)
        return {i: clips[i] for i in wanted}

    def _locate(
        self, source: int, epochs: Int[np.ndarray, " n"], ranks: Int[np.ndarray, " n"]
    ) -> Located:
        places = places_of(self._manifest, source, epochs, ranks)
        return self._sources[source].locate(epochs, places, self._manifest.seed)

    def _place(self, view: View, epoch: int, key: str) -> Place:
        if view.whole or self._manifest.split != "train":
            return view.undrawn
        return Place(key_of(self._manifest.seed, "place", epoch, key) / 2**64)

    def _next(self, want: Wanted, lost: "_Clip") -> Wanted:
        entry = self._manifest.entries[want.source]
        if lost.may_pass and not want.is_second:
            return replace(want, is_second=True)
        if want.tries == _PATIENCE:
            last = f"{lost.key}: {lost.reason}"
            raise UserError(f"{entry.path}: {_PATIENCE} clips in a row cannot be read: {last}")
        if lost.key not in self._told:
            self._told.add(lost.key)
            console.print(f"not read: {lost.key}: {lost.reason}; another clip takes its place")
        rank = self._next_rank(want, entry.clips)
        return replace(want, rank=rank, tries=want.tries + 1, is_second=False)

    def _next_rank(self, want: Wanted, clips: int) -> int:
        """The next clip that has the frames; after all others, it is this one again."""
        for start in range(1, clips + 1, _SEARCH):
            ranks = (want.rank + np.arange(start, min(start + _SEARCH, clips + 1))) % clips
            where = self._locate(want.source, np.full(len(ranks), want.epoch), ranks)
            if len(found := np.flatnonzero(where.frames >= want.frames)):
                return int(ranks[found[0]])
        raise AssertionError("no clip is as long as itself")


@dataclass
class _Clip:
    key: str
    how: tuple[View, Limits]
    task: Task
    at: int
    got: int = 0
    """frames that were read"""
    reason: str = ""
    """why it could not be read"""
    may_pass: bool = False
    """whether another try may end differently"""


class _Encoder:
    """Frames in any order to codes at their places, in passes of a fixed size."""

    def __init__(self, tokenizer: Tokenizer, device: str, out: Codes) -> None:
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
        self._out[places] = codes_of(self._tokenizer, full, self._device)[: len(frames)]
