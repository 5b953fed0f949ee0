"""What commands that recognise are told: a model, labelled items, and how these are seen."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from tyro.conf import OmitArgPrefixes, Positional

from toto.cli.models import is_tokens, open_model, read_media, tokenize_for, tokens_for
from toto.errors import UserError
from toto.media.view import View
from toto.probing.config import ProbeViews

if TYPE_CHECKING:
    from toto.media.item import Item
    from toto.tokens.store import TokenDataset
    from toto.training.world import World


@dataclass(frozen=True, kw_only=True)
class Recognition:
    """The fields that they share."""

    model: Annotated[Positional[Path], tyro.conf.arg(metavar="MODEL")]
    """folder of a run or of a saved model, or another encoder like dinov2:FOLDER"""
    data: Annotated[Positional[str], tyro.conf.arg(metavar="DATA")]
    """a token data set with labels, or labelled media, which are tokenized into OUT/tokens"""
    out: Path
    """folder to write to; begun there before, it goes on"""
    test: str | None = None
    """what to test on, where that is not a split of DATA: likewise, into OUT/tokens-test"""
    views: OmitArgPrefixes[ProbeViews] = field(default_factory=ProbeViews)
    """what is tokenized of media"""
    workers: int = 2
    """processes that decode"""
    device: str = "auto"
    """auto (cuda, mps, cpu in that order) or a device's name"""

    def read(
        self, held_out: float, world: "World"
    ) -> tuple[Any, "TokenDataset", "TokenDataset | None"]:
        """The model, what is trained on, and what is tested on where that is another data set.

        Of several processes the first one makes what the others open.
        """
        from toto.training.world import in_turn

        def work() -> tuple[Any, "TokenDataset", "TokenDataset | None"]:
            loaded = open_model(self.model, self.device)
            made = Made(loaded, self.out, self.workers, world.is_first)
            return loaded, *_data(made, self, held_out)

        return in_turn(world, work)


@dataclass(frozen=True)
class Made:
    """Token data sets that are made of media, by the first process, or opened."""

    loaded: Any
    out: Path
    workers: int
    is_first: bool

    def of(self, items: "Sequence[Item]", source: str, name: str, view: View) -> "TokenDataset":
        """The data set OUT/name of some items of a source."""
        if not any(item.label is not None for item in items):
            what = "have no label" if items else "are none"
            part = "to test on" if name == "tokens-test" else "to train on"
            raise UserError(f"{source}: the items {part} {what}")
        if self.is_first:
            tokenize_for(self.loaded, items, self.out, self.out / name, view, self.workers)
        return tokens_for(self.loaded, self.out / name)

    def source(self, source: str, name: str, view: View) -> "TokenDataset":
        """A source that is a token data set, or of which OUT/name is made."""
        if is_tokens(source):
            return tokens_for(self.loaded, Path(source))
        return self.of(read_media(source, self.out), source, name, view)


def _data(
    made: Made, asked: Recognition, held_out: float
) -> tuple["TokenDataset", "TokenDataset | None"]:
    """What is trained on, and what is tested on where that is another data set.

    Media of which other views are tested than trained on become two.
    """
    data, test, views = asked.data, asked.test, asked.views
    if views != ProbeViews() and is_tokens(data) and (test is None or is_tokens(test)):
        raise UserError("crops, scale, flip and test_crops are of media, no token data sets")
    view, test_view = views.train(made.loaded.view), views.test(made.loaded.view)
    if test is not None:
        return made.source(data, "tokens", view), made.source(test, "tokens-test", test_view)
    if is_tokens(data) or view == test_view:
        return made.source(data, "tokens", view), None
    kept, tested = _divided(read_media(data, made.out), held_out)
    return made.of(kept, data, "tokens", view), made.of(tested, data, "tokens-test", test_view)


def _divided(items: "Sequence[Item]", fraction: float) -> tuple[list["Item"], list["Item"]]:
    """Items to train on and to test on: by their splits, or where none are named by a hash."""
    from toto.tokens.mixture import in_validation

    if any(item.split for item in items):
        return (
            [item for item in items if item.split == "train"],
            [item for item in items if item.split in ("test", "val")],
        )
    tested = {item.key for item in items if in_validation(item.group, fraction)}
    return (
        [item for item in items if item.key not in tested],
        [item for item in items if item.key in tested],
    )
