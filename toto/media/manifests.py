"""Manifests made from the files that HowTo100M and Ego4D are released with."""

import csv
import io
import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from toto.errors import UserError, unknown
from toto.files import write_atomically
from toto.media.item import is_url
from toto.media.sources.places import joiner, lines, open_bytes
from toto.media.sources.rows import Row
from toto.media.sources.stems import Stems

_COMMON = {
    "path": pa.string(),
    "key": pa.string(),
    "label": pa.string(),
    "split": pa.string(),
    "fps": pa.float64(),
}
_SPLITS = ("split_em", "split_av", "split_fho", "split_goalstep")


@dataclass(frozen=True)
class Made:
    """A manifest, and what is not in it.

    Attributes:
        table: a row for each listed video whose file is there: what the layout `manifest` reads,
            and the release's own columns after that.
        missing: how many listed videos have no file.
    """

    table: pa.Table
    missing: int


def howto100m(file: str, videos: str) -> Made:
    """The manifest of HowTo100M from its `HowTo100M_v1.csv` and a folder of `<video_id>.mp4`.

    The columns are video_id, category_1, category_2, rank, task_id (README of the release's
    archive). A video that several tasks list counts once, where its rank is the best. The label is
    category_1. There are no splits.

    Raises:
        UserError: the CSV is of another form, or there is no such file or folder.
    """
    table = csv.DictReader(lines(file))
    wanted = ("video_id", "category_1", "category_2", "rank", "task_id")
    if lacking := [name for name in wanted if name not in (table.fieldnames or [])]:
        raise UserError(f"{file!r}: no column {lacking[0]!r}: expected HowTo100M_v1.csv")
    best: dict[str, dict[str, Any]] = {}
    for values in table:
        row = Row(values, f"{file}, line {table.line_num}")
        name, rank = row.text("video_id"), _whole(row.number("rank"))
        if name is None:
            raise UserError(f"{row.where}: no video_id")
        if name not in best or _rank(rank) < _rank(best[name]["rank"]):
            best[name] = {
                "label": row.text("category_1"),
                "category_1": row.text("category_1"),
                "category_2": row.text("category_2"),
                "rank": rank,
                "task_id": row.text("task_id"),
            }
    own = {
        "category_1": pa.string(),
        "category_2": pa.string(),
        "rank": pa.int64(),
        "task_id": pa.string(),
    }
    return _made(best.items(), videos, own)


def ego4d(file: str, videos: str) -> Made:
    """The manifest of Ego4D from its `ego4d.json` and a folder of `<video_uid>.mp4`.

    The form is https://ego4d-data.org/docs/data/annotations-schemas, "Metadata". Splits are by
    benchmark there. A video that any of them tests on, or splits itself ("multi"), is test here,
    else val if any validates on it, as facebookresearch/Ego4d holds out (ego4d/research/clep);
    videos of no benchmark have no split. The label is the scenario of videos that have one.

    Raises:
        UserError: the JSON is of another form, or there is no such file or folder.
    """
    rows = (_ego4d_row(entry, f"{file}, video {i}") for i, entry in enumerate(_videos(file)))
    own = {
        "scenarios": pa.list_(pa.string()),
        "duration": pa.float64(),
        "frames": pa.int64(),
    }
    return _made(rows, videos, own)


KINDS: Mapping[str, Callable[[str, str], Made]] = {"howto100m": howto100m, "ego4d": ego4d}


def make_manifest(kind: str, file: str, videos: str, out: Path) -> Made:
    """Write the Parquet manifest of a release; it is there whole or not at all.

    Args:
        kind: one of `KINDS`.
        file: what the release lists its videos in.
        videos: the folder that they are in or below; a path or a URL.
        out: the manifest, `.parquet`.

    Raises:
        UserError: no such kind, file or folder, or none of the videos is there.
    """
    if kind not in KINDS:
        raise unknown("kind of manifest", kind, KINDS)
    if out.suffix != ".parquet":
        raise UserError(f"out {str(out)!r}: a manifest is a .parquet file")
    expanded = videos if is_url(videos) else os.path.abspath(os.path.expanduser(videos))  # noqa: PTH100, PTH111  as the sources do
    made = KINDS[kind](os.path.expanduser(file), expanded)  # noqa: PTH111
    if not len(made.table):
        raise UserError(f"folder {videos!r}: none of the {made.missing} listed videos is there")
    data = io.BytesIO()
    pq.write_table(made.table, data)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, data.getvalue())
    return made


def _made(
    rows: Iterable[tuple[str, dict[str, Any]]], videos: str, own: dict[str, pa.DataType]
) -> Made:
    """The rows whose ids have a file, with its path."""
    stems, path = Stems(videos), joiner(videos)
    columns: dict[str, list[Any]] = {name: [] for name in (*_COMMON, *own)}
    missing = 0
    for name, values in rows:
        found = stems.find(name)
        if found is None:
            missing += 1
            continue
        values = {"path": path(found), "key": found, **values}
        for column, cells in columns.items():
            cells.append(values.get(column))
    return Made(pa.table(columns, schema=pa.schema(_COMMON | own)), missing)


def _whole(number: float | None) -> int | None:
    return None if number is None else int(number)


def _rank(rank: int | None) -> float:
    return float("inf") if rank is None else float(rank)


def _videos(file: str) -> list[dict[str, Any]]:
    try:
        with open_bytes(file) as opened:
            release = json.load(opened)
    except ValueError as error:
        raise UserError(f"{file!r}: not JSON: {error}") from None
    videos = release.get("videos") if isinstance(release, dict) else None
    if not isinstance(videos, list) or not all(isinstance(video, dict) for video in videos):
        raise UserError(f"{file!r}: no list 'videos' of objects: expected ego4d.json")
    return videos


def _ego4d_row(video: dict[str, Any], where: str) -> tuple[str, dict[str, Any]]:
    row = Row(video, where)
    name = row.text("video_uid")
    if name is None:
        raise UserError(f"{where}: no video_uid")
    metadata = Row(video.get("video_metadata") or {}, f"{where}, video_metadata")
    scenarios = list(map(str, video.get("scenarios") or []))
    frames = metadata.number("num_frames")
    return name, {
        "label": scenarios[0] if len(scenarios) == 1 else None,
        "split": _held_out([row.text(split) for split in _SPLITS]),
        "fps": metadata.number("fps"),
        "scenarios": scenarios,
        "duration": row.number("duration_sec"),
        "frames": _whole(frames),
    }


def _held_out(splits: list[str | None]) -> str | None:
    told = {split for split in splits if split is not None}
    if not told:
        return None
    if told <= {"train", "val"}:
        return "val" if "val" in told else "train"
    return "test"  # also "multi", and what a later version may call its own
