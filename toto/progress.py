"""Progress bars: what is done, how fast, and how long it still takes."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

# What is printed holds names of files, "clip [id].mp4", which are no markup.
console = Console(stderr=True, highlight=False, markup=False)


class Advance(Protocol):
    """Call it with what has been done since the last call, and optionally a few words to show."""

    def __call__(self, done: int = 1, note: str = "") -> None: ...


class _Rate(ProgressColumn):
    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.1f} {self.unit}/s", "cyan", no_wrap=True)


@contextmanager
def progress(
    what: str, total: int | None, unit: str, done: int = 0, shown: bool = True
) -> Iterator[Advance]:
    """Show a bar for `total` units of work, `done` of them finished already."""
    columns = (
        TextColumn("{task.description:<16}"),
        BarColumn(bar_width=12),
        MofNCompleteColumn(),
        _Rate(unit),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console, disable=not shown) as bars:
        task = bars.add_task(what, total=total, completed=done, note="")

        def advance(done: int = 1, note: str = "") -> None:
            bars.advance(task, done)
            if note:
                bars.update(task, note=note)

        yield advance
