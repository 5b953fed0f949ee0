"""Commands that fine-tune a trained model."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from tyro.conf import OmitArgPrefixes, Positional

from toto.cli.models import model_and_tokens
from toto.cli.parse import Command, parse
from toto.errors import UserError, unknown
from toto.probing.finetune.config import FineTune
from toto.recipes.finetune import RECIPES

if TYPE_CHECKING:
    from toto.tokens.vocabulary import Kind


@dataclass(frozen=True)
class _FineTuned:
    model: Annotated[Positional[Path], tyro.conf.arg(metavar="MODEL")]
    """folder of a run or of a saved model"""
    data: Annotated[Positional[str], tyro.conf.arg(metavar="DATA")]
    """a token data set with labels, or labelled media, which are tokenized into OUT/tokens"""
    out: Path
    """folder to write to; begun there before, it goes on"""
    training: OmitArgPrefixes[FineTune]
    recipe: str
    """imagenet, k400 or demo: what the fields of training begin with"""
    workers: int = 2
    """processes that decode"""
    device: str = "auto"
    """auto (cuda, mps, cpu in that order) or a device's name"""

    def start(self, kind: "Kind") -> None:
        from toto.probing.baselines import is_baseline
        from toto.tasks.finetune import finetune
        from toto.training.device import pick_device
        from toto.training.parallel import in_turn, join_world

        if is_baseline(str(self.model)):
            raise UserError(f"{self.model} cannot be fine-tuned: models that read tokens are")
        with join_world(pick_device(self.device)) as world:
            asked = self.model, self.data, self.out, self.workers, self.device, world.is_first
            loaded, dataset = in_turn(world, lambda: model_and_tokens(*asked))
            result = finetune(loaded, dataset, kind, self.out, self.training, world)
            if world.is_first:
                print(result.table())
                print(self.out)


def _command(about: str, kind: "Kind", recipe: str) -> Command:
    """A command whose defaults are those of the recipe that is named, or of `recipe`."""

    def command(arguments: list[str], prog: str) -> None:
        name = recipe
        for i, word in enumerate(arguments):
            option, _, value = word.partition("=")
            if option == "--recipe":
                name = value or "".join(arguments[i + 1 : i + 2])
        if name not in RECIPES:
            raise unknown("recipe", name, RECIPES)
        default = _FineTuned(
            model=tyro.MISSING,
            data=tyro.MISSING,
            out=tyro.MISSING,
            training=RECIPES[name](),
            recipe=name,
        )
        parse(_FineTuned, arguments, prog, default, about).start(kind)

    command.__doc__ = about
    return command


COMMANDS: dict[str, Command] = {
    "finetune images": _command("Fine-tune a model to classify images.", "image", "imagenet"),
    "finetune actions": _command("Fine-tune a model to classify videos.", "video", "k400"),
}
