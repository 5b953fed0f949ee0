"""Commands that study, and the demo."""

from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import OmitArgPrefixes, Positional

from toto.cli.parse import Command, command
from toto.recipes import demo as demo_recipes
from toto.recipes.demo import Demo
from toto.studies.config import MupStudy, RepresentationStudy, ScalingStudy
from toto.tokens.config import Ingest


def demo(
    settings: Annotated[Demo, tyro.conf.arg(name="")] = demo_recipes.demo(),  # noqa: B008
    videos: Path | None = None,
    out: Path = Path("runs/demo"),
) -> None:
    """Do the main job in small: videos to a trained model and a report.

    Args:
        settings: what is made and trained
        videos: a folder of videos of your own in place of the embedded world
        out: folder to write to; begun there before, it goes on
    """
    from toto.demo import run_demo

    print(run_demo(settings, videos, out))


def study_mup(
    out: Path,
    settings: OmitArgPrefixes[MupStudy] = MupStudy(),  # noqa: B008
) -> None:
    """Check at small widths that muP keeps the best learning rate; see docs/mup.md.

    Args:
        out: folder to write to; begun there before, it goes on
        settings: what is trained
    """
    from toto.studies.mup import study_mup as run

    print(run(settings, out).text())
    print(out)


def study_curves(
    run: Annotated[Positional[tuple[Path, ...]], tyro.conf.arg(metavar="RUN")], out: Path
) -> None:
    """Draw losses and gradient norms of pre-training runs; see docs/training.md.

    Args:
        run: folders of runs, under way or done
        out: the picture to write, .svg
    """
    from toto.studies.curves import draw_curves

    draw_curves(run, out)
    print(out)


def study_scaling(
    run: Annotated[Positional[tuple[Path, ...]], tyro.conf.arg(metavar="RUN")],
    out: Path,
    settings: OmitArgPrefixes[ScalingStudy] = ScalingStudy(),  # noqa: B008
) -> None:
    """Fit how the loss falls with compute over runs of several sizes; see docs/training.md.

    Args:
        run: folders of finished runs, on the same data
        out: folder to write to
        settings: how their curves become a law
    """
    from toto.studies.scaling import study_scaling as fit

    print(fit(run, out, settings).text())
    print(out)


def study_tokens(
    what: Annotated[Positional[tuple[Path, ...]], tyro.conf.arg(metavar="WHAT")],
    out: Path,
    source: tuple[str, ...] = (),
    settings: OmitArgPrefixes[Ingest] = Ingest(),  # noqa: B008
    workers: int = 2,
    device: str = "auto",
) -> None:
    """Count n-grams of codes, and what a code's neighbours say of it; see docs/tokenizers.md.

    Args:
        what: token data sets, one for each tokenizer that is compared; or with a source, tokenizers
        out: folder to write to; what was made and counted there is not made and counted again
        source: media that each of the tokenizers makes codes of, see docs/data.md
        settings: how it does
        workers: processes that decode, for each device
        device: auto (every GPU, or mps, or cpu), or devices like cuda:0,cuda:1
    """
    from toto.studies.tokens import study_tokens as run
    from toto.studies.tokens import tokenize_with

    if source:
        what = tokenize_with(what, source, out / "datasets", settings, workers, device)
    for found in run(what, out):
        print(found.text())
    print(out)


def study_representations(
    model: Annotated[Positional[Path], tyro.conf.arg(metavar="MODEL")],
    data: Annotated[Positional[Path], tyro.conf.arg(metavar="DATA")],
    pixels: Path,
    out: Path,
    settings: OmitArgPrefixes[RepresentationStudy] = RepresentationStudy(),  # noqa: B008
    device: str = "auto",
) -> None:
    """Compare what a trunk has learned with random weights, codes and pixels.

    Args:
        model: folder of a run or of a saved model
        data: labelled items as a token data set of the model's tokenizer
        pixels: the same items as a token data set of pixels
        out: folder to write to; begun there before, it goes on
        settings: how they are compared
        device: auto (cuda, mps, cpu in that order) or a device's name
    """
    import toto
    from toto.studies.representations import study_representations as run
    from toto.tokens.store import TokenDataset

    loaded = toto.load(model, device)
    print(run(loaded, TokenDataset(data), TokenDataset(pixels), out, settings).text())
    print(out)


def study_layers(
    model: Annotated[Positional[Path], tyro.conf.arg(metavar="MODEL")],
    data: Annotated[Positional[Path], tyro.conf.arg(metavar="DATA")],
    out: Path,
    items: int = 5000,
    seed: int = 0,
    device: str = "auto",
) -> None:
    """Read from every layer which code it has seen, which comes next, and the class.

    Args:
        model: folder of a run or of a saved model
        data: labelled items as a token data set of the model's tokenizer
        out: folder to write to
        items: the most that are learned from, and the most that are tested on
        seed: which ones, where there are more
        device: auto (cuda, mps, cpu in that order) or a device's name
    """
    import toto
    from toto.studies.layers import study_layers as run
    from toto.tokens.store import TokenDataset

    print(run(toto.load(model, device), TokenDataset(data), out, items, seed).text())
    print(out)


def study_redundancy(
    model: Annotated[Positional[Path], tyro.conf.arg(metavar="MODEL")],
    data: Annotated[Positional[Path], tyro.conf.arg(metavar="DATA")],
    out: Path,
    clips: int = 500,
    fraction: float = 0.1,
    device: str = "auto",
) -> None:
    """Measure what the past says of a video's codes, place by place; see docs/training.md.

    Args:
        model: folder of a run or of a saved model
        data: videos as a token data set of its tokenizer
        out: folder to write to
        clips: the most held-out clips that are measured
        fraction: part of the videos that is held out where the data set names no split: that of the
            model's training, or it has seen them
        device: auto (cuda, mps, cpu in that order) or a device's name
    """
    import toto
    from toto.studies.redundancy import study_redundancy as run
    from toto.tokens.store import TokenDataset

    print(run(toto.load(model, device), TokenDataset(data), out, clips, fraction).text())
    print(out)


COMMANDS: dict[str, Command] = {
    "demo": command(demo),
    "study mup": command(study_mup),
    "study tokens": command(study_tokens),
    "study curves": command(study_curves),
    "study scaling": command(study_scaling),
    "study redundancy": command(study_redundancy),
    "study representations": command(study_representations),
    "study layers": command(study_layers),
}
