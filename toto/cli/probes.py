"""Commands that read what a model has learned by probes."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tyro.conf import OmitArgPrefixes

from toto.cli.parse import Command, parse
from toto.cli.recognition import Recognition
from toto.probing.config import ProbeTraining

if TYPE_CHECKING:
    from toto.tokens.vocabulary import Kind


@dataclass(frozen=True, kw_only=True)
class _Probed(Recognition):
    training: OmitArgPrefixes[ProbeTraining] = field(default_factory=ProbeTraining)
    """how the probes are trained"""
    pixels: bool = True
    """whether the pictures themselves are probed, too, for which all media are decoded again"""

    def start(self, kind: "Kind") -> None:
        from toto.tasks.question import Question
        from toto.tasks.recognition import recognise
        from toto.training.device import pick_device
        from toto.training.world import join_world

        with join_world(pick_device(self.device)) as world:
            loaded, dataset, test = self.read(self.training.held_out, world)
            frames = 1 if kind == "image" else loaded.frames
            question = Question(
                loaded.encoder, dataset, kind, frames, self.training, test, pixels=self.pixels
            )
            result = recognise(question, self.out, world)
            if world.is_first:
                print(result.table())
                print(self.out)


def _command(about: str, kind: "Kind") -> Command:
    def command(arguments: list[str], prog: str) -> None:
        parse(_Probed, arguments, prog, about=about).start(kind)

    command.__doc__ = about
    return command


COMMANDS: dict[str, Command] = {
    "probe actions": _command("Read actions from every layer by probes.", "video"),
    "probe images": _command("Read the classes of images from every layer by probes.", "image"),
}
