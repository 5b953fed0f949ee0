"""The life of an answer: a folder that is asked one question, and then holds result.json."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from toto.config import begin, from_dict, read_json, write_json
from toto.training.world import ALONE, World, in_turn, one_writer, wait

Answer = TypeVar("Answer")


def answered(
    kind: type[Answer],
    out: Path,
    question: Mapping[str, Any],
    answer: Callable[[], Answer],
    world: World = ALONE,
) -> Answer:
    """The answer that `out` holds, or what `answer` finds, which `out` then holds.

    Whatever else is of the answer, `answer` writes before it ends. All processes of the world call
    this; the first one writes.

    Args:
        kind: the dataclass that result.json holds.
        out: folder to write to.
        question: all that the answer depends on.
        answer: finds it, or goes on finding it.
        world: the processes.

    Raises:
        UserError: `out` was begun with another question, or another process is writing there.
    """
    with one_writer(out, world):
        in_turn(world, lambda: begin(out / "config.json", question))
        if (out / "result.json").exists():
            return from_dict(kind, read_json(out / "result.json", "a result"), str(out))
        result = answer()
        if world.is_first:
            write_json(out / "result.json", result)
        wait(world)
        return result
