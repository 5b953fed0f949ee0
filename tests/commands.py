"""The `toto` executable in real processes."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

TOTO = str(Path(sys.executable).with_name("toto"))
# One thread, and boxes of help that do not depend on the terminal.
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "100", "CUDA_VISIBLE_DEVICES": ""}


def toto(
    folder: Path, *arguments: str | Path, timeout: float = 300
) -> subprocess.CompletedProcess[str]:
    """Run `toto` with `arguments` in `folder`."""
    command = [TOTO, *map(str, arguments)]
    return subprocess.run(
        command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=timeout
    )


# Forks a process for each line it reads: what every command would import is there already.
_WARM = """
import json, os, signal, sys, traceback
import matplotlib.figure, numpy, pyarrow.parquet, torch
import toto.api, toto.tasks.finetune, toto.tasks.recognition, toto.tokens.ingest, toto.training.runs
from toto.cli import main

for line in sys.stdin:
    folder, arguments = json.loads(line)
    child = os.fork()
    if not child:
        signal.alarm(300)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        out, err = (os.path.join(sys.argv[1], name) for name in ("out", "err"))
        for number, path in ((1, out), (2, err)):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        os.chdir(folder)
        sys.argv, code = ["toto", *arguments], 0
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
        except BaseException:
            traceback.print_exc()
            code = 1
        sys.stdout.flush()
        os._exit(code)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Warm:
    """Runs `toto` in a process that is forked from one that has imported everything."""

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self._process = subprocess.Popen(
            [sys.executable, "-c", _WARM, str(scratch)],
            env=ENVIRONMENT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def toto(self, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        """As `toto`, at a fraction of its time."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps([str(folder), arguments]) + "\n")
        self._process.stdin.flush()
        code = int(self._process.stdout.readline())
        out, err = ((self._scratch / name).read_text() for name in ("out", "err"))
        return subprocess.CompletedProcess(arguments, code, out, err)

    def made(self, folder: Path, *arguments: str | Path) -> list[str]:
        """As `made`."""
        return _succeeded(self.toto(folder, *map(str, arguments)))

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.communicate()


def made(folder: Path, *arguments: str | Path) -> list[str]:
    """Run it to its success; the lines of its standard output."""
    return _succeeded(toto(folder, *arguments))


def _succeeded(done: subprocess.CompletedProcess[str]) -> list[str]:
    assert done.returncode == 0, f"toto {' '.join(done.args)}\n{done.stdout}{done.stderr}"
    return done.stdout.splitlines()


def begin(folder: Path, *arguments: str | Path) -> subprocess.Popen[bytes]:
    """Start it in a process group of its own, as a terminal does."""
    return subprocess.Popen(
        [TOTO, *map(str, arguments)],
        cwd=folder,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def stop_when(process: subprocess.Popen[bytes], moment: Callable[[], bool], signum: int) -> str:
    """Send a signal to the process's group as soon as `moment()`; what it wrote to stderr."""
    end = time.monotonic() + 120
    try:
        while not moment():
            assert process.poll() is None, f"it ended too early: {process.communicate()}"
            assert time.monotonic() < end, "the moment never came"
            time.sleep(0.01)
        os.killpg(process.pid, signum)
        return process.communicate(timeout=120)[1].decode()
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
