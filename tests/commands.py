"""The `toto` executable in real processes."""

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


def made(folder: Path, *arguments: str | Path) -> list[str]:
    """Run it to its success; the lines of its standard output."""
    done = toto(folder, *arguments)
    assert done.returncode == 0, f"toto {' '.join(map(str, arguments))}\n{done.stdout}{done.stderr}"
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
