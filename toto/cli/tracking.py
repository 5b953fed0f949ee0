"""The command that tracks objects."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import OmitArgPrefixes, Positional

from toto.cli.models import open_model
from toto.cli.parse import Command, named_recipe, parse
from toto.probing.config import Tracking
from toto.recipes.tracking import RECIPES


@dataclass(frozen=True, kw_only=True)
class _Tracked:
    model: Annotated[Positional[Path], tyro.conf.arg(metavar="MODEL")]
    """folder of a run or of a saved model, or another encoder like dinov2:FOLDER"""
    data: Annotated[Positional[Path], tyro.conf.arg(metavar="DATA")]
    """a folder in DAVIS's layout: frames, and a mask of each or of each video's first"""
    out: Path
    """folder to write to; begun there before, it goes on"""
    tracking: OmitArgPrefixes[Tracking]
    """how objects are tracked"""
    recipe: str
    """stc or dino: what these fields begin with"""
    device: str = "auto"
    """auto (cuda, mps, cpu in that order) or a device's name"""


def _track(arguments: list[str], prog: str) -> None:
    """Track objects from their masks in the first frame, by every layer."""
    recipe, config = named_recipe(arguments, "stc", RECIPES)
    default = _Tracked(
        model=tyro.MISSING, data=tyro.MISSING, out=tyro.MISSING, tracking=config, recipe=recipe
    )
    asked = parse(_Tracked, arguments, prog, default, (_track.__doc__ or "").strip())
    from toto.tasks.tracking import track
    from toto.training.device import pick_device
    from toto.training.world import join_world

    with join_world(pick_device(asked.device)) as world:
        loaded = open_model(asked.model, asked.device)
        result = track(loaded, asked.data, asked.out, asked.tracking, world)
        if world.is_first:
            print(result.table())
            print(asked.out)


COMMANDS: dict[str, Command] = {"probe tracking": _track}
