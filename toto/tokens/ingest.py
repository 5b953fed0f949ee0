"""Media to a token data set: planned before anything is decoded, losing nothing to a kill."""

import filecmp
import hashlib
import json
import secrets
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq

from toto.config import differences, read_json, to_dict, write_json
from toto.errors import UserError, unknown
from toto.files import only_writer
from toto.media.item import Item
from toto.media.sources.roots import roots_of
from toto.media.view import LIMITS, Limits
from toto.progress import progress
from toto.tokenizers.base import Tokenizer, load_tokenizer
from toto.tokens.config import Ingest
from toto.tokens.engines import ENGINES, run
from toto.tokens.rows import (
    checksum,
    failed,
    read_rows,
    readable,
    rows_of_shards,
    shard_path,
    write_rows,
)
from toto.tokens.shards import Job, Shard
from toto.tokens.store import VERSION, Info, TokenDataset

# What a kill can leave of a data set that has no dataset.json yet.
_OURS = {".lock", "shards", "tokenizer", ".tokenizer.partial", ".dataset.json.partial"}

# What another run may do otherwise.
_FREE = ("command", "limits", "readable", "failed", "frames", "checksums")


def ingest(
    items: Sequence[Item],
    tokenizer_folder: Path,
    out: Path,
    settings: Ingest,
    command: str,
    workers: int = 2,
    devices: Sequence[str] = ("cpu",),
    engine: str = "local",
    limits: Limits = LIMITS,
) -> TokenDataset:
    """Tokenize `items` into the data set `out`, or finish it.

    Shards are planned before anything is decoded, and each appears whole; what is there already is
    kept, except the shards of items that ran into a limit or may not be read, which are tried
    again. A complete data set stays one meanwhile. See `toto.tokens.engines.run` for `workers`,
    `devices` and `engine`.

    Raises:
        UserError: `out` holds something else, nothing in `items` could be read, or the tokenizer
            does not fit the frames.
        OSError: the machine failed; the next run continues.
    """
    if engine not in ENGINES:
        raise unknown("engine", engine, ENGINES)
    tokenizer = load_tokenizer(tokenizer_folder, precision=settings.precision)
    _check(items, tokenizer, tokenizer_folder, settings)
    info = _describe(items, tokenizer, settings, command, limits)
    with only_writer(out):
        _begin(out, info, tokenizer)
        again, index = out / ".again", out / "index.parquet"
        if not index.exists():  # the last run may have been killed as it replaced shards
            _replace(out, again)
        target = again if index.exists() else out
        planned = [_shard(number, items, settings) for number in range(info.shards)]
        pending = [s for s in planned if not any(_is_done(f, s.number) for f in {out, target})]
        if pending:
            roots = roots_of(items)
            done = len(items) - sum(len(shard.items) for shard in pending)
            with (
                _workplace(out) as place,
                progress(
                    "scan" if settings.online else "tokenize", len(items), "items", done
                ) as advance,
            ):
                job = Job((out / "tokenizer").absolute(), place, settings, limits, roots)
                for shard in run(job, pending, engine, devices, workers):
                    if shard is None:
                        advance()
                    else:
                        _move(shard, place, target)
        if again.exists() and _differs(again, out):
            index.unlink()
            _replace(out, again)
        shutil.rmtree(again, ignore_errors=True)
        if not index.exists():
            _complete(out, info)
    return TokenDataset(out)


def report_failures(dataset: TokenDataset) -> None:
    """Name each file that could not be read on standard error, and count them at the end."""
    failures = dataset.failures()
    for key, reason in failures:
        print(f"  not read: {key}: {reason}", file=sys.stderr)
    if failures:
        total = dataset.info.items
        print(f"{len(failures)} of {total} files could not be read", file=sys.stderr)


def _check(items: Sequence[Item], tokenizer: Tokenizer, folder: Path, settings: Ingest) -> None:
    if not items:
        raise UserError("there are no files to tokenize")
    if settings.view.size % tokenizer.downsample:
        raise UserError(
            f"size {settings.view.size}: {folder} needs a multiple of {tokenizer.downsample}"
        )
    streamed = next((item for item in items if not item.location.is_random_access), None)
    if settings.online and streamed is not None:
        raise UserError(
            f"{streamed.source or streamed.location.path!r} can only be read from its start to its "
            "end: tokenize it"
        )


def _describe(
    items: Sequence[Item], tokenizer: Tokenizer, settings: Ingest, command: str, limits: Limits
) -> Info:
    grid = settings.view.size // tokenizer.downsample
    return Info(
        version=VERSION,
        command=command,
        tokenizer=tokenizer.fingerprint,
        codebook_size=tokenizer.codebook_size,
        grid=(grid, grid),
        dtype="uint16" if tokenizer.codebook_size else "uint8",
        settings=settings,
        items=len(items),
        shards=-(-len(items) // settings.shard_items),
        source=_fingerprint(items),
        limits=limits,
    )


def _fingerprint(items: Sequence[Item]) -> str:
    """16 hex digits of all items, that of their JSON: as one text, 14 million take gigabytes."""
    digest = hashlib.sha256()
    for i, item in enumerate(items):
        where = item.location
        place = [where.path, where.part, where.start, where.end, where.fps]
        text = json.dumps([item.key, *place, item.label, item.split], separators=(",", ":"))
        digest.update(f"{',' if i else '['}{text}".encode())
    digest.update(b"]")
    return digest.hexdigest()[:16]


def _begin(out: Path, info: Info, tokenizer: Tokenizer) -> None:
    path = out / "dataset.json"
    if path.exists():
        before = read_json(path, "a token data set")
        now = to_dict(info)
        different = [
            difference
            for name in now
            if name not in _FREE
            for difference in differences(before.get(name), now[name], name)
        ]
        if different:
            how = "; ".join(different[:4])
            raise UserError(f"{out} was made with {how}: choose another folder or remove it")
        if before.get("limits") != now["limits"]:
            write_json(path, before | {"limits": now["limits"]})
        return
    if any(path.name not in _OURS for path in out.iterdir()):
        raise UserError(f"{out} holds something else: choose another folder")
    (out / "shards").mkdir(exist_ok=True)
    shutil.rmtree(out / "tokenizer", ignore_errors=True)  # of a run that was killed here
    tokenizer.save(out / "tokenizer")
    write_json(path, info)


def _shard(number: int, items: Sequence[Item], settings: Ingest) -> Shard:
    first = number * settings.shard_items
    return Shard(number, items[first : first + settings.shard_items])


def _is_done(out: Path, shard: int) -> bool:
    rows = shard_path(out, shard).with_suffix(".parquet")
    return rows.exists() and not any(read_rows(rows, ["retry"]).column("retry").to_pylist())


@contextmanager
def _workplace(out: Path) -> Iterator[Path]:
    """A folder for the shards that are being written, of this run alone.

    Processes of a run that was killed may outlive it for a while, on other machines too: what they
    write never gets out of a folder that nobody looks into.
    """
    for left in out.glob(".writing-*"):
        shutil.rmtree(left, ignore_errors=True)
    place = out.absolute() / f".writing-{secrets.token_hex(8)}"
    (place / "shards").mkdir(parents=True)
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _move(shard: int, source: Path, target: Path) -> None:
    """Codes first, rows last: the rows say that the shard is done."""
    codes = shard_path(target, shard)
    codes.parent.mkdir(parents=True, exist_ok=True)
    for path in (codes, codes.with_suffix(".parquet")):
        written = source / "shards" / path.name
        if written.exists():  # a scan has no codes
            written.replace(path)


def _replace(out: Path, again: Path) -> None:
    """Put the shards that were tried again in their places; killed here, it is begun again."""
    for rows in sorted(again.glob("shards/*.parquet")):
        _move(int(rows.stem), again, out)


def _differs(again: Path, out: Path) -> bool:
    """Whether trying again has changed anything; rows tell, by their checksum of the codes."""
    return not all(
        filecmp.cmp(rows, out / "shards" / rows.name, shallow=False)
        for rows in again.glob("shards/*.parquet")
    )


def _complete(out: Path, info: Info) -> None:
    """Merge the shards' rows, one shard after the other: they need not fit into memory."""
    shards = info.shards
    read = lost = frames = 0
    for table in rows_of_shards(out, shards):
        kept = readable(table)
        read += pc.sum(pc.equal(kept.column("crop"), 0)).as_py() or 0
        lost += len(table) - len(kept)
        frames += pc.sum(kept.column("frames")).as_py() or 0
    write_rows(out / "failures.parquet", map(failed, rows_of_shards(out, shards)))
    if not read:
        table = read_rows(out / "failures.parquet", ["failure"])
        reasons = sorted(set(table.column("failure").to_pylist()))
        raise UserError(f"none of {lost} files could be read: {'; '.join(reasons[:3])}")
    checksums = _checksums(out, shards)
    info = replace(info, readable=read, failed=lost, frames=frames, checksums=checksums)
    write_json(out / "dataset.json", info)
    write_rows(out / "index.parquet", map(readable, rows_of_shards(out, shards)))


def _checksums(out: Path, shards: int) -> dict[str, str]:
    """Those of the codes were taken as they were written."""
    found = {}
    for number in range(shards):
        codes = shard_path(out, number)
        rows = codes.with_suffix(".parquet")
        written = pq.read_schema(rows).metadata or {}
        if b"sha256" in written:
            found[str(codes.relative_to(out))] = written[b"sha256"].decode()
        found[str(rows.relative_to(out))] = checksum(rows)
    return found
