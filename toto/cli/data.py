"""Commands that make, list and look at data."""

import shlex
import sys
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import OmitArgPrefixes, Positional

from toto.cli.parse import Command, command
from toto.errors import UserError, at_least, unknown
from toto.media.view import LIMITS, Limits
from toto.progress import console
from toto.tokens.config import Ingest


def world_make(
    layout: Annotated[Positional[str], tyro.conf.arg(metavar="LAYOUT")],
    out: Annotated[Positional[Path], tyro.conf.arg(metavar="OUT")],
    count: int = 1000,
    seed: int = 0,
    size: int | None = None,
    frames: int | None = None,
    fps: int | None = None,
    policy: str | None = None,
    camera_motion: bool = False,
    workers: int = 2,
) -> None:
    """Render labelled pictures or videos of the embedded world, as a real data set is published.

    Args:
        layout: what is written: actions (Kinetics CSV), images (ImageFolder), davis, cater, ego4d
        out: folder to write to
        count: videos, sequences or pictures
        seed: seed of all scenes
        size: height of the frames in pixels (actions, images: 128; others: 240)
        frames: frames of each video (actions: 61, davis: 40, cater: 301, ego4d: 120)
        fps: frames a second (actions, ego4d: 30; davis, cater: 24)
        policy: cater alone: who moves at once, all_actions (the default) or max2action
        camera_motion: cater alone: the camera moves
        workers: processes that render
    """
    from toto.world.layouts import LAYOUTS, write_world

    if layout not in LAYOUTS:
        raise unknown("layout", layout, LAYOUTS)
    at_least(1, count=count, workers=workers)
    given = {"policy": policy, "camera_motion": camera_motion or None}
    options = {name: value for name, value in given.items() if value is not None}
    write_world(LAYOUTS[layout], out, count, seed, size, frames, fps, workers, **options)
    print(out)


def tokenize(
    source: Annotated[Positional[tuple[str, ...]], tyro.conf.arg(metavar="SOURCE")],
    tokenizer: Path,
    out: Path,
    settings: OmitArgPrefixes[Ingest] = Ingest(),  # noqa: B008
    limits: OmitArgPrefixes[Limits] = LIMITS,
    workers: int = 2,
    device: str = "auto",
    engine: str = "local",
) -> None:
    """Turn media into a token data set.

    Args:
        source: folders, files, lists: LAYOUT:LOCATION?OPTION=VALUE, see docs/data.md
        tokenizer: folder of the tokenizer
        out: folder of the data set; begun there before, it goes on
        settings: what is written
        limits: what one file may take
        workers: processes that decode, for each device
        device: auto (every GPU, or mps, or cpu), or devices like cuda:0,cuda:1; not with ray
        engine: local, or ray: the GPUs or cores of a Ray cluster
    """
    from toto.media.sources import read_sources
    from toto.tokens.ingest import ingest, report_failures
    from toto.training.device import pick_devices

    if engine == "ray" and device != "auto":
        raise UserError(f"device {device!r}: with engine 'ray', the cluster says what there is")
    command = f"toto {shlex.join(sys.argv[1:])}"
    items = read_sources(source, out)
    devices = pick_devices(device) if engine != "ray" else []
    dataset = ingest(items, tokenizer, out, settings, command, workers, devices, engine, limits)
    report_failures(dataset)
    print(out)


def manifest(
    kind: Annotated[Positional[str], tyro.conf.arg(metavar="KIND")],
    file: Annotated[Positional[str], tyro.conf.arg(metavar="FILE")],
    videos: str,
    out: Path,
) -> None:
    """List the videos of a released collection that are on disk, as a source.

    Args:
        kind: howto100m (HowTo100M_v1.csv) or ego4d (ego4d.json)
        file: the released list
        videos: folder of the videos
        out: the Parquet manifest to write
    """
    from toto.media.manifests import make_manifest

    made = make_manifest(kind, file, videos, out)
    console.print(f"{len(made.table)} videos; {made.missing} more are listed, but have no file")
    print(out)


def inspect(
    path: Annotated[Positional[Path], tyro.conf.arg(metavar="PATH")],
    deep: bool = False,
    sequences: int = 0,
    sheet: Path | None = None,
) -> None:
    """Say what a folder or file of ours holds.

    Args:
        path: a token data set, a run, a saved model, a tokenizer, or a media file
        deep: compare all of a token data set with what was recorded of it
        sequences: of a token data set or a run, name the items of so many training sequences
        sheet: a picture to write: decoded samples of a token data set, or those sequences
    """
    from toto.studies import datasets
    from toto.studies.inspect import describe, sequences_at
    from toto.tokens.store import TokenDataset

    at_least(0, sequences=sequences)
    if sheet is not None and sheet.suffix not in datasets.SUFFIXES:
        raise UserError(f"{sheet}: {', '.join(datasets.SUFFIXES)} can be written")
    print(describe(path, deep))
    if sequences:
        with sequences_at(path) as read:
            print(datasets.describe_sequences(read, sequences))
            if sheet is not None:
                datasets.sequence_sheet(read, sequences, sheet)
    elif sheet is not None:
        datasets.contact_sheet(TokenDataset(path), sheet)


COMMANDS: dict[str, Command] = {
    "world make": command(world_make),
    "tokenize": command(tokenize),
    "manifest": command(manifest),
    "inspect": command(inspect),
}
