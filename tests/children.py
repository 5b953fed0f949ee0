"""Real processes to be killed at a chosen moment, forked from a server that has loaded PyTorch."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["toto.tokens.ingest", "toto.training.loop", "toto.models.saved"])


def start(function: Callable, *args: object) -> BaseProcess:
    """Run a module's function in a new process."""
    child = _CONTEXT.Process(target=function, args=args)
    child.start()
    return child


def run(function: Callable, *args: object) -> int:
    """Run it to its end; the exit code, or minus the signal."""
    child = start(function, *args)
    child.join(60)
    assert child.exitcode is not None, "a child hangs"
    return child.exitcode


def run_until_write(moment: int, folder: Path, function: Callable, *args: object) -> int:
    """Run it, but kill it (SIGKILL) just before its `moment`-th write below `folder`.

    A write is an opening for writing or a renaming: between two of them the folder is the same.
    """
    return run(_doomed, moment, folder, function, args)


def _doomed(moment: int, folder: Path, function: Callable, args: tuple[object, ...]) -> None:
    left = moment

    def hook(event: str, details: tuple) -> None:
        nonlocal left
        if event == "open":
            path, mode, flags = details
            writes = any(c in mode for c in "wax+") if mode else flags & (os.O_WRONLY | os.O_RDWR)
        elif event == "os.rename":
            path, writes = details[0], True
        else:
            return
        if writes and isinstance(path, str | os.PathLike) and str(path).startswith(str(folder)):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    function(*args)
