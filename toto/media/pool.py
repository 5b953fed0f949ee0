"""Decoding in worker processes: files in, frames out, in the order of the files.

A worker that hangs, crashes or takes too much memory costs the file that it was reading.
"""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from multiprocessing import connection, resource_tracker
from types import TracebackType
from typing import Literal

import numpy as np
import psutil
from jaxtyping import UInt8

from toto.errors import MediaError, UserError
from toto.media.file import MediaInfo
from toto.media.sources import Item
from toto.media.video import open_media
from toto.media.view import View

# How far the workers may run ahead of what is taken, per worker: in items, and in chunks (3 MiB
# at 128 pixels). Items are small images, or videos that fill the chunks.
_ITEMS_AHEAD = 8
_CHUNKS_AHEAD = 4


@dataclass(frozen=True)
class Chunk:
    """The next kept frames of an item, at most 64."""

    frames: UInt8[np.ndarray, "frames 3 size size"]


@dataclass(frozen=True)
class End:
    """An item was read to its end: what it says of itself, and how many frames were kept."""

    info: MediaInfo
    frames: int


@dataclass(frozen=True)
class Failure:
    """An item could not be read: its chunks until now are of no use.

    Attributes:
        reason: in one line.
        retry: whether another try may end differently: it was time, memory or a kill, not bytes.
    """

    reason: str
    retry: bool


Result = Chunk | End | Failure


class DecodePool:
    """Workers that decode items; a context manager.

    Args:
        view: which frames to keep, and their size.
        workers: processes. 0 decodes in this process, without protection against hangs, crashes
            and memory.
        seconds: a worker is killed that has decoded nothing for so long.
        memory: bytes of address space that a worker may take, beyond what it starts with (Linux).

    Raises:
        UserError: a negative number of workers.
    """

    def __init__(
        self, view: View, workers: int, seconds: float | int = 120, memory: int = 4 * 2**30
    ) -> None:
        if workers < 0:
            raise UserError(f"workers {workers}: must be 0 or more")
        self._view = view
        self._count = workers
        self._seconds = seconds
        self._memory = memory
        self._workers: list[_Worker] = []

    def __enter__(self) -> "DecodePool":
        self._start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for worker in self._workers:
            worker.stop()
        self._workers.clear()

    def stream(self, items: Iterable[Item]) -> Iterator[tuple[int, Result]]:
        """Yield, item after item, the item's number with its chunks and its end or failure.

        The order and the contents do not depend on the number of workers. One stream at a time.

        Raises:
            OSError: the machine failed, not a file.
            RuntimeError: a worker met a bug, or could not start.
        """
        if not self._count:
            for number, item in enumerate(items):
                for result in _decode(item.path, self._view, self._memory):
                    yield number, result
            return
        self._start()
        try:
            yield from self._stream(enumerate(items))
        finally:  # if the stream is given up, nothing of it may turn up in the next
            for worker in [worker for worker in self._workers if worker.task is not None]:
                self._drop(worker)

    def _stream(self, tasks: Iterator[tuple[int, Item]]) -> Iterator[tuple[int, Result]]:
        waiting: dict[int, deque[Result]] = {}  # of the items begun, in order
        while self._assign(tasks, waiting):
            head = next(iter(waiting))
            results = waiting[head]
            while not results:
                self._receive(waiting, head)
            while results:
                result = results.popleft()
                if not isinstance(result, Chunk):
                    del waiting[head]
                yield head, result

    def _assign(self, tasks: Iterator[tuple[int, Item]], waiting: dict[int, deque[Result]]) -> bool:
        """Give the idle workers something to do; False when all is done."""
        self._start()
        for worker in self._workers:
            if worker.task is None and len(waiting) < _ITEMS_AHEAD * self._count:
                number, item = next(tasks, (-1, None))
                if item is None:
                    break
                waiting[number] = deque()
                worker.give(number, item.path)
        return bool(waiting)

    def _receive(self, waiting: dict[int, deque[Result]], head: int) -> None:
        """Wait for results, or for the end of somebody's time."""
        chunks = sum(len(results) for results in waiting.values())
        full = chunks >= _CHUNKS_AHEAD * self._count
        busy = [worker for worker in self._workers if worker.task is not None]
        # The head's results leave at once; the others wait in their pipes when it gets too much.
        heard = {w.connection: w for w in busy if w.task == head or not full}
        patience = min(w.since for w in busy) + self._seconds - time.monotonic()
        for ready in connection.wait(list(heard), timeout=min(max(0.0, patience), 60.0)):
            worker = heard[ready]  # type: ignore[index]
            assert worker.task is not None
            results = waiting[worker.task]
            result = worker.receive()
            if isinstance(result, Exception):
                raise result
            if result is None:
                continue
            results.append(result)
            if isinstance(result, Failure) and (result.retry or not worker.process.is_alive()):
                self._drop(worker)
        for worker in busy:
            if worker.task is not None and worker.hangs(self._seconds):
                waiting[worker.task].append(
                    Failure(f"time limit: nothing decoded for {self._seconds:g} s", retry=True)
                )
                self._drop(worker)

    def _start(self) -> None:
        while len(self._workers) < self._count:
            self._workers.append(_Worker(self._view, self._memory))

    def _drop(self, worker: "_Worker") -> None:
        if worker in self._workers:
            self._workers.remove(worker)
        worker.stop()


class _Worker:
    """The parent's end of one worker process."""

    def __init__(self, view: View, memory: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe(duplex=True)
        self.process = context.Process(
            target=_work, args=(theirs, view, memory), name="toto-decode", daemon=True
        )
        # Ctrl-C reaches all processes of a terminal, and one that is just starting would print a
        # traceback. The mask is inherited; the tracker, started on the way, would reset it.
        resource_tracker.ensure_running()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self.process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()
        self.task: int | None = None
        self.since = float("inf")  # no limit until it has started

    def give(self, number: int, path: str) -> None:
        self.task = number
        if self.since < float("inf"):
            self.since = time.monotonic()
        # If it died while idle, receiving will tell.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.connection.send(path)

    def receive(self) -> Result | Exception | None:
        """The next result; what killed the worker if there is none; None if it just started."""
        try:
            result: Result | Exception | Literal["started"] = self.connection.recv()
        except (EOFError, ConnectionResetError):
            return self._death()
        self.since = time.monotonic()
        if result == "started":
            return None
        if not isinstance(result, Chunk):
            self.task = None
        return result

    def hangs(self, seconds: float | int) -> bool:
        """Whether it has been silent for too long, and not only unheard."""
        return time.monotonic() > self.since + seconds and not self.connection.poll()

    def stop(self) -> None:
        self.task = None
        self.connection.close()
        self.process.kill()
        self.process.join(1.0)  # one that the kernel holds, on a lost mount, must not hold us

    def _death(self) -> Failure | Exception:
        self.process.join(5.0)
        code = self.process.exitcode or 0
        if self.since == float("inf"):
            return RuntimeError(f"a decode worker could not start (exit code {code})")
        self.task = None
        if code == -signal.SIGKILL:  # no decoder does that to itself
            return Failure("the decoder was killed (signal 9), perhaps for memory", retry=True)
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        return Failure(f"the decoder crashed ({how})", retry=False)


def _decode(path: str, view: View, memory: int) -> Iterator[Result]:
    try:
        frames = 0
        with open_media(path) as media:
            for chunk in media.chunks(view):
                frames += len(chunk)
                yield Chunk(chunk)
            info = media.info
        yield End(info, frames)
    except MediaError as error:
        yield Failure(str(error), retry=False)
    except MemoryError:
        yield Failure(f"memory limit: more than {memory / 2**30:.1f} GiB", retry=True)


def _work(pipe: connection.Connection, view: View, memory: int) -> None:
    """Decode the files whose paths come through the pipe until it closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _limit_memory(memory)
    try:
        pipe.send("started")
        while True:
            for result in _decode_or_explain(pipe.recv(), view, memory):
                pipe.send(result)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass  # the parent has gone, or has no more use for this worker


def _decode_or_explain(path: str, view: View, memory: int) -> Iterator[Result | Exception]:
    try:
        yield from _decode(path, view, memory)
    except OSError as error:
        yield error
    except Exception:
        yield RuntimeError(f"a bug met while decoding {path!r}:\n{traceback.format_exc()}")


def _end_with_parent() -> None:
    """A worker stuck in a file would outlive a parent that is killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)


def _limit_memory(memory: int) -> None:
    if sys.platform == "linux":
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        soft = psutil.Process().memory_info().vms + memory
        if hard != resource.RLIM_INFINITY:
            soft = min(soft, hard)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
