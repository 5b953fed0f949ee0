"""Decoding in worker processes: tasks in, frames out, in the order of the tasks.

A worker that hangs, crashes or takes too much memory costs the file that it was reading.
"""

import contextlib
import errno
import multiprocessing
import signal
import sys
import time
import traceback
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from multiprocessing import connection
from pathlib import Path
from typing import Literal

import numpy as np
import psutil
from jaxtyping import UInt8

from toto.errors import MediaError, UserError
from toto.media.file import MediaInfo, short
from toto.media.item import Location, is_url
from toto.media.view import LIMITS, Limits, Place, View
from toto.processes import end_with_parent, start_shielded

# How far the workers may run ahead of what is taken, per worker: in tasks, and in chunks (of less
# than 1 MiB). Tasks are small images, or videos that fill the chunks.
_TASKS_AHEAD = 8
_CHUNKS_AHEAD = 16

# No decoder does that to itself; a scheduler that ends a job signals all of its processes.
_FROM_OUTSIDE = {signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2}


@dataclass(frozen=True)
class Task:
    """What to read: all kept frames of an item, or `frames` of them from `first` on.

    Each gives a square at each of `places`, or in the view's own.
    """

    location: Location
    places: tuple[Place, ...] = ()
    first: int = 0
    frames: int | None = None
    count_only: bool = False
    """say how many frames are kept, and give none"""


@dataclass(frozen=True)
class Chunk:
    """The next kept frames, each with a square at each of the task's places."""

    frames: UInt8[np.ndarray, "frames places 3 size size"]


@dataclass(frozen=True)
class End:
    """A task is done: what the file says of itself, its nominal rate, and how many were kept."""

    info: MediaInfo
    fps: float | None
    frames: int


@dataclass(frozen=True)
class Failure:
    """A task could not be done: its chunks until now are of no use.

    Attributes:
        reason: in one line.
        retry: whether another try may end differently: it was time, memory or a kill, not bytes.
    """

    reason: str
    retry: bool


Result = Chunk | End | Failure


class DecodePool:
    """Workers that decode; a context manager.

    Args:
        view: which frames to keep, and their size.
        workers: processes. 0 decodes in this process, without protection against hangs, crashes
            and memory.
        limits: what one task may take; a worker that takes more is killed.

    Raises:
        UserError: a negative number of workers.
    """

    def __init__(self, view: View, workers: int, limits: Limits = LIMITS) -> None:
        if workers < 0:
            raise UserError(f"workers {workers}: must be 0 or more")
        self._view = view
        self._count = workers
        self._limits = limits
        self._workers: list[_Worker] = []

    def __enter__(self) -> "DecodePool":
        self._start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the workers; another stream would start new ones."""
        for worker in self._workers:
            worker.stop()
        self._workers.clear()

    def stream(self, tasks: Iterable[Task]) -> Iterator[tuple[int, Result]]:
        """Yield, task after task, the task's number with its chunks and its end or failure.

        The order and the contents do not depend on the number of workers. One stream at a time.

        Raises:
            OSError: the machine failed, not a file.
            UserError: a file cannot be opened without a package that is missing.
            RuntimeError: a worker met a bug, or could not start.
        """
        if not self._count:
            for number, task in enumerate(tasks):
                for result in _decode(task, self._view, self._limits):
                    yield number, result
            return
        self._start()
        try:
            yield from self._stream(enumerate(tasks))
        finally:  # if the stream is given up, nothing of it may turn up in the next
            for worker in [worker for worker in self._workers if worker.task is not None]:
                self._drop(worker)

    def _stream(self, tasks: Iterator[tuple[int, Task]]) -> Iterator[tuple[int, Result]]:
        waiting: dict[int, deque[Result]] = {}  # of the tasks begun, in order
        while self._assign(tasks, waiting):
            head = next(iter(waiting))
            results = waiting[head]
            if not results:
                self._receive(waiting, head)
                continue  # whoever has nothing to do gets it now
            while results:
                result = results.popleft()
                if not isinstance(result, Chunk):
                    del waiting[head]
                yield head, result

    def _assign(self, tasks: Iterator[tuple[int, Task]], waiting: dict[int, deque[Result]]) -> bool:
        """Give the idle workers something to do; False when all is done."""
        self._start()
        for worker in self._workers:
            if worker.task is None and len(waiting) < _TASKS_AHEAD * self._count:
                number, task = next(tasks, (-1, None))
                if task is None:
                    break
                waiting[number] = deque()
                worker.give(number, task)
        return bool(waiting)

    def _receive(self, waiting: dict[int, deque[Result]], head: int) -> None:
        """Wait for results, or for the end of somebody's time."""
        chunks = sum(len(results) for results in waiting.values())
        full = chunks >= _CHUNKS_AHEAD * self._count
        busy = [worker for worker in self._workers if worker.task is not None]
        # The head's results leave at once; the others wait in their pipes when it gets too much.
        heard = {w.connection: w for w in busy if w.task == head or not full}
        patience = min(w.since for w in heard.values()) + self._limits.seconds - time.monotonic()
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
            if worker.task is not None and worker.hangs(self._limits.seconds):
                waiting[worker.task].append(
                    Failure(
                        f"time limit: nothing decoded for {self._limits.seconds:g} s", retry=True
                    )
                )
                self._drop(worker)

    def _start(self) -> None:
        # One that was killed while it had nothing to do costs no file.
        for worker in [w for w in self._workers if w.task is None and not w.process.is_alive()]:
            self._drop(worker)
        while len(self._workers) < self._count:
            self._workers.append(_Worker(self._view, self._limits))

    def _drop(self, worker: "_Worker") -> None:
        if worker in self._workers:
            self._workers.remove(worker)
        worker.stop()


class _Worker:
    """The parent's end of one worker process."""

    def __init__(self, view: View, limits: Limits) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, results = context.Pipe(duplex=False)
        tasks, self._tasks = context.Pipe(duplex=False)
        _widen(results)
        self.process = context.Process(
            target=_work, args=(tasks, results, view, limits), name="toto-decode", daemon=True
        )
        start_shielded(self.process)
        tasks.close()
        results.close()
        self.task: int | None = None
        self._location: Location | None = None
        self.since = float("inf")  # no limit until it has started

    def give(self, number: int, task: Task) -> None:
        self.task, self._location = number, task.location
        if self.since < float("inf"):
            self.since = time.monotonic()
        # If it died while idle, receiving will tell.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._tasks.send(task)

    def receive(self) -> Result | Exception | None:
        """The next result; what killed the worker if there is none; None if it just started."""
        try:
            result: Result | Exception | Literal["started"] = self.connection.recv()
        except (EOFError, OSError):  # also in the middle of a chunk
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
        self._tasks.close()
        self.process.kill()
        self.process.join(1.0)  # one that the kernel holds, on a lost mount, must not hold us

    def _death(self) -> Failure | Exception:
        self.process.join(5.0)
        code = self.process.exitcode or 0
        if self.since == float("inf"):
            how = f"a decode worker could not start (exit code {code})"
            is_bug = -code not in _FROM_OUTSIDE
            return RuntimeError(how) if is_bug else ChildProcessError(errno.ECHILD, how)
        where = self._location
        if code == -signal.SIGBUS and where and (where.part or "").startswith("row:"):
            # Tables are mapped into memory, where an error of reading has no other way to tell.
            return OSError(errno.EIO, "cannot be read any more: is its mount gone?", where.path)
        self.task = None
        if -code in _FROM_OUTSIDE:
            memory = ", perhaps for memory" if code == -signal.SIGKILL else ""
            return Failure(f"the decoder was killed (signal {-code}){memory}", retry=True)
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        return Failure(f"the decoder crashed ({how})", retry=False)


def _decode(task: Task, view: View, limits: Limits) -> Iterator[Result]:
    # PyAV and Pillow, which training on stored codes does without.
    from toto.media.video import open_media

    try:
        frames = 0
        with open_media(task.location) as media:
            if task.count_only:
                frames = media.count(view)
            else:
                for chunk in media.chunks(view, task.places, task.first, task.frames):
                    frames += len(chunk)
                    yield Chunk(chunk)
            end = End(media.info, media.fps, frames)
        if not frames and task.frames is None:
            until = "the end" if task.location.end is None else f"{task.location.end:g} s"
            raise MediaError(f"no frame from {task.location.start or 0:g} s to {until}")
        yield end
    except MediaError as error:
        _check_mount(task.location)
        yield Failure(str(error), retry=False)
    except MemoryError:
        yield Failure(f"memory limit: more than {limits.memory:.1f} GiB", retry=True)


def _check_mount(location: Location) -> None:
    """Blame the machine for a file that is gone with everything around it.

    Raises:
        OSError: nothing is left in the folder where it should be.
    """
    path = Path(location.path).absolute()
    try:
        if is_url(location.path) or path.exists():
            return
        folder = next(parent for parent in path.parents if parent.is_dir())
    except PermissionError:  # it is there, and whether it may be read is said elsewhere
        return
    if not any(folder.iterdir()):
        raise OSError(errno.ENODEV, "the folder is empty: is its mount gone?", str(folder))


def _widen(pipe: connection.Connection) -> None:
    """Let a whole chunk fit in: a worker should decode, not wait until somebody reads."""
    if sys.platform == "linux":
        import fcntl

        with contextlib.suppress(OSError):  # beyond what the system lets a user have
            fcntl.fcntl(pipe.fileno(), fcntl.F_SETPIPE_SZ, 2**20)


def _work(
    tasks: connection.Connection, results: connection.Connection, view: View, limits: Limits
) -> None:
    """Do the tasks that come through one pipe until it closes, and answer through the other."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
    _limit_memory(limits)
    try:
        results.send("started")
        while True:
            for result in _decode_or_explain(tasks.recv(), view, limits):
                results.send(result)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass  # the parent has gone, or has no more use for this worker


def _decode_or_explain(task: Task, view: View, limits: Limits) -> Iterator[Result | Exception]:
    try:
        yield from _decode(task, view, limits)
    except UserError as error:
        yield error
    except OSError as error:  # plain: those of the protocols' libraries may not survive the pipe
        where = error.filename or task.location.path
        yield OSError(error.errno or errno.EIO, short(error), where)
    except Exception:
        yield RuntimeError(
            f"a bug met while decoding {task.location.path!r}:\n{traceback.format_exc()}"
        )


def _limit_memory(limits: Limits) -> None:
    if sys.platform == "linux":
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        soft = psutil.Process().memory_info().vms + int(limits.memory * 2**30)
        if hard != resource.RLIM_INFINITY:
            soft = min(soft, hard)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
