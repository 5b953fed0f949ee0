"""Signals that ask a run to stop."""

import os
import signal
import time
from types import FrameType


class Interrupted(SystemExit):
    """The run stopped at a signal after saving; running it again continues. Exit code 128 + n."""

    def __init__(self, signum: int) -> None:
        super().__init__(128 + signum)
        self.signum = signum


# A launcher hands on what a scheduler or a terminal has sent to its processes already.
_ECHO = 2.0


class Interrupts:
    """Notes SIGTERM, SIGUSR1 and Ctrl-C instead of dying of them; a later Ctrl-C kills as usual."""

    signals = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)

    def __init__(self) -> None:
        self.received: int | None = None
        self._since = float("inf")

    def __enter__(self) -> "Interrupts":
        self.before = {s: signal.signal(s, self._note) for s in self.signals}
        return self

    def __exit__(self, *_: object) -> None:
        for signum, handler in self.before.items():
            signal.signal(signum, handler)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if signum == signal.SIGINT and now > self._since + _ECHO:
            signal.signal(signum, self.before[signal.SIGINT])
            os.kill(os.getpid(), signum)
        self.received = self.received or signum
        self._since = min(now, self._since)
