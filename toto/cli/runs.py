"""Commands that train what a recipe names."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import tyro
from tyro.conf import AvoidSubcommands, OmitArgPrefixes, Positional

from toto.cli.parse import Command, parse, recipe_name
from toto.recipes import pretrain as pretrain_recipes
from toto.recipes import tokenizer as tokenizer_recipes
from toto.training.config import Pretrain, TrainDVAE, TrainTokenizer, TrainVQGAN


@dataclass(frozen=True, kw_only=True)
class _Run:
    run: Path
    """folder of the run; begun there before, it goes on"""
    workers: int = 2
    """processes that decode media"""
    profile: bool = False
    """say where the time of a step goes, and write RUN/profile.json"""


@dataclass(frozen=True, kw_only=True)
class _Resumed(_Run):
    run: Annotated[Positional[Path], tyro.conf.arg(metavar="RUN")]
    """folder of the run, which goes on with the settings it was begun with"""


@dataclass(frozen=True, kw_only=True)
class _Pretrain(_Run):
    result: ClassVar[str] = "model"
    trains: ClassVar[type] = Pretrain
    recipe: OmitArgPrefixes[Pretrain]

    def start(self) -> Path:
        from toto.training.runs import pretrain

        pretrain(self.recipe, self.run, self.workers, self.profile)
        return self.run / self.result


@dataclass(frozen=True, kw_only=True)
class _TrainTokenizer(_Run):
    result: ClassVar[str] = "tokenizer"
    trains: ClassVar[type] = TrainTokenizer
    recipe: OmitArgPrefixes[AvoidSubcommands[TrainDVAE | TrainVQGAN]]

    def start(self) -> Path:
        from toto.training.runs import train_tokenizer

        train_tokenizer(self.recipe, self.run, self.workers, self.profile)
        return self.run / self.result


def _recipe_command(
    about: str,
    kind: type[_Pretrain] | type[_TrainTokenizer],
    recipes: Mapping[str, Callable[[], Any]],
) -> Command:
    """A command `RECIPE --run DIR`, any field of the recipe overridden, or `--resume DIR`."""

    def command(arguments: list[str], prog: str) -> None:
        if arguments[:1] == ["--resume"]:
            from toto.training.runs import resume

            resumed = parse(_Resumed, arguments[1:], f"{prog} --resume")
            resume(kind.trains, resumed.run, resumed.workers, resumed.profile)
            print(resumed.run / kind.result)
            return
        usage = f"usage: {prog} RECIPE --run DIR [fields]\n       {prog} --resume DIR"
        name = recipe_name(arguments, prog, usage, recipes)
        if name:
            default = kind(recipe=recipes[name](), run=tyro.MISSING)
            print(parse(kind, arguments[1:], f"{prog} {name}", default).start())

    command.__doc__ = about
    return command


@dataclass(frozen=True)
class _Planned:
    recipe: OmitArgPrefixes[Pretrain]
    gpu: str
    """kind of GPU: a100-40, a100-80, h100, h200, b200, l40s, rtx4090"""
    gpus: int = 1
    """how many of them"""
    patch: int = 16
    """side of a patch in pixels, for models of patches, where no data are given"""


def _plan(arguments: list[str], prog: str) -> None:
    """Say what a pre-training run will take: data, compute, memory, disk, days."""
    recipes = pretrain_recipes.RECIPES
    usage = f"usage: {prog} RECIPE --gpus N --gpu KIND [fields]"
    name = recipe_name(arguments, prog, usage, recipes)
    if name is None:
        return
    default = _Planned(recipe=recipes[name](), gpu=tyro.MISSING)
    asked = parse(_Planned, arguments[1:], f"{prog} {name}", default)
    from toto.studies.plan import plan
    from toto.tokens.store import TokenDataset

    recipe = asked.recipe
    datasets, targets = (
        [TokenDataset(path) for path in paths] for paths in (recipe.data, recipe.targets)
    )
    found = plan(recipe, asked.gpus, asked.gpu, datasets, targets, asked.patch)
    print(found.text())


COMMANDS: dict[str, Command] = {
    "tokenizer train": _recipe_command(
        "Train a tokenizer on the frames of a source.",
        _TrainTokenizer,
        tokenizer_recipes.RECIPES,
    ),
    "pretrain": _recipe_command(
        "Train a model to predict the next token.",
        _Pretrain,
        pretrain_recipes.RECIPES,
    ),
    "plan": _plan,
}
