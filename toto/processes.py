"""Child processes that end with their parent and leave Ctrl-C to it; own memory and processor."""

import ctypes
import multiprocessing
import os
import platform
import signal
import threading
from contextlib import suppress
from multiprocessing import connection, resource_tracker
from multiprocessing.process import BaseProcess
from pathlib import Path

# glibc's malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


def start_shielded(process: BaseProcess) -> None:
    """Start a process that Ctrl-C does not reach: its parent says when it ends.

    Ctrl-C goes to all processes of a terminal, and one that is just starting would print a
    traceback. The mask is inherited; the tracker, started on the way, would reset it.
    """
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_with_parent() -> None:
    """End this process when its parent is gone: it would wait for work, or for a file, forever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_watch, args=(parent.sentinel,), daemon=True).start()


def _watch(sentinel: int) -> None:
    connection.wait([sentinel])
    os._exit(1)


def processor_name() -> str:
    """What the machine calls its processor."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


def keep_freed_memory() -> None:
    """Have the C library, where it is glibc, keep what is freed for what comes next.

    By itself it gives large pieces back, and each page that it then takes anew is cleared again: a
    tenth of a training step on a CPU, a third of tokenizing.
    """
    with suppress(OSError, AttributeError):  # another system's, or another's
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, -1)


def give_back_memory() -> None:
    """Have the C library, where it is glibc, give back what it has kept.

    What a process keeps counts as taken: who asks how much memory is free asks after this.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
