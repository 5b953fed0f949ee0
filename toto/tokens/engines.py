"""Who writes the shards: this process, one process for each device, or the actors of a Ray cluster.

All of them write the same bytes: a shard's depend on its items and the settings alone.
"""

import errno
import logging
import multiprocessing
import queue
import signal
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain, repeat
from typing import Any, Protocol, runtime_checkable

from toto.errors import UserError
from toto.media.item import Item
from toto.processes import end_with_parent, start_shielded
from toto.progress import console
from toto.tokens.shards import Job, Shard, absolute, write_shards

ENGINES = ("local", "ray")

# Shards in the queue, for each device: enough that none waits, few for millions of items.
_AHEAD = 4
_END = "end"  # of one process's reports
_PATIENCE = 5.0  # seconds without a report after which the processes are looked at


@runtime_checkable
class _Queue(Protocol):
    """What the queues of multiprocessing and of Ray have in common."""

    def get(self, block: bool = True, timeout: float | None = None) -> Any: ...

    def put(self, item: Any) -> None: ...

    def full(self) -> bool: ...


def run(
    job: Job, shards: Sequence[Shard], engine: str, devices: Sequence[str], workers: int
) -> Iterator[int | None]:
    """Write the shards, yielding None for each item done, and a finished shard's number.

    Args:
        job: what is written where.
        shards: those that are still to be written.
        engine: "local" or "ray".
        devices: each writes shards of its own. Ray takes the GPUs of its cluster, or its cores.
        workers: processes that decode, for each device.

    Raises:
        UserError: Ray is not installed, or a node does not see the data set's folder.
        OSError: the machine failed, or a process died.
        RuntimeError: a process met a bug.
    """
    if engine == "ray":
        return _run_ray(job, shards, workers)
    if len(devices) == 1:
        return write_shards(job, shards, devices[0], workers)
    return _run_processes(job, shards, devices, workers)


def _serve(job: Job, device: str, workers: int, todo: _Queue, done: _Queue) -> None:
    """Write shards from one queue until it gives None, and report to the other."""
    try:
        if not job.out.exists():
            raise UserError(f"{job.out} is not seen on every node: it must be on shared storage")
        for report in write_shards(job, iter(todo.get, None), device, workers):
            done.put(report)
        done.put(_END)
    except (UserError, OSError) as error:
        done.put(error)
    except Exception:
        done.put(RuntimeError(f"a bug met while tokenizing:\n{traceback.format_exc()}"))


def _share_out(
    shards: Iterable[Shard], servers: int, todo: _Queue, done: _Queue, check: Callable[[], None]
) -> Iterator[int | None]:
    """Give the servers work as they take it, and yield their reports until all have ended."""
    work = chain(shards, repeat(None, servers))
    while servers:
        while not todo.full() and (shard := next(work, done)) is not done:
            todo.put(shard)
        try:
            report = done.get(timeout=_PATIENCE)
        except queue.Empty:  # Ray's is one of its kind
            check()
            continue
        if isinstance(report, Exception):
            raise report
        if report == _END:
            servers -= 1
        else:
            yield report


def _run_processes(
    job: Job, shards: Sequence[Shard], devices: Sequence[str], workers: int
) -> Iterator[int | None]:
    devices = devices[: len(shards)]
    context = multiprocessing.get_context("spawn")
    todo, done = context.Queue(_AHEAD * len(devices)), context.Queue()
    # Given up, the shards that nobody takes any more would be waited for at the end of the program.
    todo.cancel_join_thread()
    processes = [
        context.Process(target=_serve_process, args=(job, device, workers, todo, done))
        for device in devices
    ]

    def check() -> None:
        for process in processes:
            if process.exitcode:
                raise _died(f"a tokenizing process (exit code {process.exitcode})")

    try:
        for process in processes:
            start_shielded(process)
        yield from _share_out(shards, len(devices), todo, done, check)
    finally:
        for process in processes:
            if process.pid is not None:
                process.kill()
                process.join()


def _died(who: str) -> OSError:
    return ChildProcessError(errno.ECHILD, f"{who} died, perhaps for memory")


def _serve_process(job: Job, device: str, workers: int, todo: Any, done: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
    _serve(job, device, workers, todo, done)


def _run_ray(job: Job, shards: Sequence[Shard], workers: int) -> Iterator[int | None]:
    try:
        import ray
        from ray.util.queue import Queue
    except ModuleNotFoundError as error:
        raise UserError("engine 'ray' needs Ray: pip install 'toto[ray]'") from error
    is_ours = not ray.is_initialized()
    if is_ours:  # RAY_ADDRESS names a cluster; without it, one is started on this machine
        ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    resources = ray.cluster_resources()
    gpus, cores = int(resources.get("GPU", 0)), int(resources.get("CPU", 1))
    servers = min(gpus or max(1, cores // (workers + 1)), len(shards))
    device = "cuda" if gpus else "cpu"
    console.print(f"Ray: {servers} actors on {device}, {workers} decoding processes each")
    todo = Queue(_AHEAD * servers, actor_options={"num_cpus": 0})
    done = Queue(actor_options={"num_cpus": 0})
    serve = ray.remote(num_cpus=0, num_gpus=1 if gpus else 0, max_retries=0)(_serve)
    tasks = [serve.remote(job, device, workers, todo, done) for _ in range(servers)]

    def check() -> None:
        ended, _ = ray.wait(tasks, num_returns=len(tasks), timeout=0)
        try:
            ray.get(ended)
        except ray.exceptions.RayError as error:
            raise _died(f"a Ray worker ({str(error).splitlines()[0]})") from error

    try:
        yield from _share_out(map(_anywhere, shards), servers, todo, done, check)
    finally:
        for task in tasks:
            ray.cancel(task, force=True)
        todo.shutdown(force=True)
        done.shutdown(force=True)
        if is_ours:
            ray.shutdown()


def _anywhere(shard: Shard) -> Shard:
    """The shard for processes that run in another folder."""
    return replace(shard, items=[_absolute(item) for item in shard.items])


def _absolute(item: Item) -> Item:
    where = item.location
    return replace(item, location=replace(where, path=absolute(where.path)))
