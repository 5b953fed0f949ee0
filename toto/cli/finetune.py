"""Commands that fine-tune a trained model."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from tyro.conf import OmitArgPrefixes, Positional

from toto.cli.models import is_tokens, open_model, tokens_for
from toto.cli.parse import Command, named_recipe, parse
from toto.cli.recognition import Made, Recognition
from toto.errors import UserError, at_least
from toto.probing.finetune.config import FineTune
from toto.recipes.finetune import RECIPES

if TYPE_CHECKING:
    from toto.tokens.store import TokenDataset
    from toto.tokens.vocabulary import Kind
    from toto.training.world import World

    Read = tuple[Any, TokenDataset, TokenDataset | None, int]


@dataclass(frozen=True, kw_only=True)
class _FineTuned(Recognition):
    model: Annotated[Positional[Path], tyro.conf.arg(metavar="MODEL")]
    """folder of a run or of a saved model"""
    training: OmitArgPrefixes[FineTune]
    """how the model is fine-tuned"""
    recipe: str
    """imagenet, k400, cater or demo: what the fields of training begin with"""

    def read_for(self, kind: "Kind", world: "World") -> "Read":
        """The model, what is trained on and what tested on, and the frames of a clip."""
        loaded, dataset, test = self.read(self.training.held_out, world)
        return loaded, dataset, test, 1 if kind == "image" else loaded.frames


@dataclass(frozen=True, kw_only=True)
class _Permanence:
    model: Annotated[Positional[Path], tyro.conf.arg(metavar="MODEL")]
    """folder of a run or of a saved model"""
    data: Annotated[Positional[Path], tyro.conf.arg(metavar="DATA")]
    """a folder in CATER's layout, which is tokenized into OUT/tokens, or such a token data set"""
    out: Path
    """folder to write to; begun there before, it goes on"""
    frames: int = 16
    """frames that are read of a video, evenly from the first to the last; the paper: 16 and 32"""
    training: OmitArgPrefixes[FineTune]
    """how the model is fine-tuned"""
    recipe: str
    """imagenet, k400, cater or demo: what the fields of training begin with"""
    workers: int = 2
    """processes that decode"""
    device: str = "auto"
    """auto (cuda, mps, cpu in that order) or a device's name"""

    def read_for(self, kind: "Kind", world: "World") -> "Read":
        """See `_FineTuned`; the lists of CATER say what is tested on."""
        from toto.tasks.cater import check_cater, evenly, read_cater
        from toto.training.world import in_turn

        at_least(2, frames=self.frames)

        def work() -> "Read":
            loaded = open_model(self.model, self.device)
            if is_tokens(str(self.data)):
                dataset = tokens_for(loaded, self.data)
            else:
                items = read_cater(self.data)
                view = evenly(items, self.frames, loaded.view.size)
                made = Made(loaded, self.out, self.workers, world.is_first)
                dataset = made.of(items, str(self.data), "tokens", view)
            check_cater(dataset, self.frames)
            return loaded, dataset, None, self.frames

        return in_turn(world, work)


def _start(asked: _FineTuned | _Permanence, task: str) -> None:
    from toto.probing.baselines import is_baseline
    from toto.tasks.finetune import TASKS, finetune
    from toto.training.device import pick_device
    from toto.training.world import join_world

    if is_baseline(str(asked.model)):
        raise UserError(f"{asked.model} cannot be fine-tuned: models that read tokens are")
    with join_world(pick_device(asked.device)) as world:
        loaded, dataset, test, frames = asked.read_for(TASKS[task].kind, world)
        result = finetune(
            loaded, dataset, TASKS[task], frames, asked.out, asked.training, world, test
        )
        if world.is_first:
            print(result.table())
            print(asked.out)


def _command(
    about: str, task: str, recipe: str, kind: type[_FineTuned] | type[_Permanence] = _FineTuned
) -> Command:
    """A command whose defaults are those of the recipe that is named, or of `recipe`."""

    def command(arguments: list[str], prog: str) -> None:
        name, training = named_recipe(arguments, recipe, RECIPES)
        missing = dict.fromkeys(("model", "data", "out"), tyro.MISSING)
        default = kind(**missing, training=training, recipe=name)
        _start(parse(kind, arguments, prog, default, about), task)

    command.__doc__ = about
    return command


COMMANDS: dict[str, Command] = {
    "finetune images": _command("Fine-tune a model to classify images.", "images", "imagenet"),
    "finetune actions": _command("Fine-tune a model to classify videos.", "actions", "k400"),
    "finetune permanence": _command(
        "Fine-tune a model to tell where CATER's snitch is.", "permanence", "cater", _Permanence
    ),
}
