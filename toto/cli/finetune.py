"""Commands that fine-tune a trained model."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from tyro.conf import OmitArgPrefixes, Positional

from toto.cli.parse import Command, named_recipe, parse
from toto.cli.recognition import Recognition
from toto.errors import UserError
from toto.probing.finetune.config import FineTune
from toto.recipes.finetune import RECIPES

if TYPE_CHECKING:
    from toto.tokens.vocabulary import Kind


@dataclass(frozen=True, kw_only=True)
class _FineTuned(Recognition):
    model: Annotated[Positional[Path], tyro.conf.arg(metavar="MODEL")]
    """folder of a run or of a saved model"""
    training: OmitArgPrefixes[FineTune]
    """how the model is fine-tuned"""
    recipe: str
    """imagenet, k400 or demo: what the fields of training begin with"""

    def start(self, kind: "Kind") -> None:
        from toto.probing.baselines import is_baseline
        from toto.tasks.finetune import finetune
        from toto.training.device import pick_device
        from toto.training.world import join_world

        if is_baseline(str(self.model)):
            raise UserError(f"{self.model} cannot be fine-tuned: models that read tokens are")
        with join_world(pick_device(self.device)) as world:
            loaded, dataset, test = self.read(self.training.held_out, world)
            result = finetune(loaded, dataset, kind, self.out, self.training, world, test)
            if world.is_first:
                print(result.table())
                print(self.out)


def _command(about: str, kind: "Kind", recipe: str) -> Command:
    """A command whose defaults are those of the recipe that is named, or of `recipe`."""

    def command(arguments: list[str], prog: str) -> None:
        name, training = named_recipe(arguments, recipe, RECIPES)
        default = _FineTuned(
            model=tyro.MISSING,
            data=tyro.MISSING,
            out=tyro.MISSING,
            training=training,
            recipe=name,
        )
        parse(_FineTuned, arguments, prog, default, about).start(kind)

    command.__doc__ = about
    return command


COMMANDS: dict[str, Command] = {
    "finetune images": _command("Fine-tune a model to classify images.", "image", "imagenet"),
    "finetune actions": _command("Fine-tune a model to classify videos.", "video", "k400"),
}
