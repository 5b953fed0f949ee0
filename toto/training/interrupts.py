"""Signals that ask a run to stop."""

import signal
from types import FrameType


class Interrupted(SystemExit):
    """The run stopped at a signal after saving; running it again continues. Exit code 128 + n."""

    def __init__(self, signum: int) -> None:
        super().__init__(128 + signum)
        self.signum = signum


class Interrupts:
    """Notes SIGTERM, SIGUSR1 and Ctrl-C instead of dying of them; a second one kills as usual."""

    signals = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)

    def __init__(self) -> None:
        self.received: int | None = None

    def __enter__(self) -> "Interrupts":
        self.before = {s: signal.signal(s, self._note) for s in self.signals}
        return self

    def __exit__(self, *_: object) -> None:
        for signum, handler in self.before.items():
            signal.signal(signum, handler)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self.received = signum
        signal.signal(signum, self.before[signal.Signals(signum)])
