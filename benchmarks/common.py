"""What the benchmarks share: the machine's name, the JSON line, and random token data sets."""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from toto.config import write_json
from toto.media.view import View
from toto.processes import processor_name
from toto.tokens.config import Ingest
from toto.tokens.loader import freeze
from toto.tokens.mixture import key_of
from toto.tokens.rows import ROW_GROUP, ROWS, checksum, shard_path, write_rows
from toto.tokens.store import VERSION, Info, TokenDataset


def machine() -> dict[str, Any]:
    """Device and versions that a figure belongs to."""
    cuda = torch.cuda.is_available()
    return {
        "device": torch.cuda.get_device_name() if cuda else processor_name(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "date": datetime.now(UTC).date().isoformat(),
    }


def commit() -> str:
    """The commit that is measured, or "unknown" outside a checkout."""
    command = ["git", "rev-parse", "--short", "HEAD"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def write_result(name: str, result: dict[str, Any]) -> None:
    """Write the result under $OUT or benchmarks/results, and print it as the last line."""
    folder = Path(os.environ.get("OUT") or Path(__file__).parent / "results")
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / f"{name}.json", result)
    print(json.dumps(result))


def random_dataset(
    folder: Path,
    videos: int,
    frames: int | Sequence[int],
    grid: int,
    codebook: int,
    images: int = 0,
    crops: int = 1,
    shard_items: int = 256,
    splits: Sequence[str] = (),
    tokenizer: str = "random",
) -> None:
    """A token data set of random codes: its tokenizer is a name alone.

    `frames` is the length of all videos or of each; `splits` are given to the items in turns.
    """
    random = np.random.default_rng(0)
    lengths = [frames] * videos if isinstance(frames, int) else [*frames]
    items = [("video", length) for length in lengths] + [("image", 1)] * images
    info = _begin(folder, grid, codebook, tokenizer)
    tables, checksums = [], {}
    for shard, start in enumerate(range(0, len(items), shard_items)):
        rows, first = [], 0
        for i, (kind, length) in enumerate(items[start : start + shard_items], start):
            for crop in range(crops):
                row: dict[str, Any] = {"key": f"{kind}/{i}", "path": f"{folder}/{i}", "kind": kind}
                row |= dict.fromkeys(("hash", "group"), key_of("item", row["key"]))
                row |= {"crop": crop, "retry": False}
                row |= {"split": splits[i % len(splits)] if splits else None}
                row |= {"rate": 7.5 if kind == "video" else None, "label": f"label {i % 3}"}
                rows.append(row | {"shard": shard, "first": first, "frames": length})
                first += length
        path = shard_path(folder, shard)
        np.save(path, random.integers(codebook, size=(first, grid, grid), dtype=np.uint16))
        tables.append(pa.Table.from_pylist(rows, schema=ROWS))
        write_rows(path.with_suffix(".parquet"), tables[-1:])
        for file in (path, path.with_suffix(".parquet")):
            checksums[str(file.relative_to(folder))] = checksum(file)
    _finish(folder, replace(info, checksums=checksums), tables)


def random_index(folder: Path, rows: int, grid: int, codebook: int) -> None:
    """A token data set of very many rows, nine videos to an image, all over one small shard.

    Its dataset.json records as many checksums as if there were a shard for each 256 rows. The
    hashes are random numbers, not those of the keys.
    """
    info = _begin(folder, grid, codebook, "random")
    random = np.random.default_rng(0)
    codes = random.integers(codebook, size=(4096, grid, grid), dtype=np.uint16)
    np.save(shard_path(folder, 0), codes)
    names = [f"shards/{shard:05d}.{end}" for shard in range(rows // 256) for end in ("npy", "pq")]
    checksums = {name: f"{i:064x}" for i, name in enumerate(names)}
    starts = range(0, rows, ROW_GROUP)
    parts = (_random_rows(start, min(ROW_GROUP, rows - start), random) for start in starts)
    _finish(folder, replace(info, checksums=checksums), parts)


def _random_rows(start: int, count: int, random: np.random.Generator) -> pa.Table:
    number = np.arange(start, start + count)
    image = number % 10 == 9
    keys = pc.binary_join_element_wise(
        "train/clip_", pa.array(number).cast(pa.string()), ".mp4", ""
    )
    columns = {
        "key": keys,
        "path": pc.binary_join_element_wise("/data/videos/", keys, ""),
        "label": pc.binary_join_element_wise("label", pa.array(number % 600).cast(pa.string()), ""),
        "kind": np.where(image, "image", "video"),
        **dict.fromkeys(("hash", "group"), random.integers(2**64, size=count, dtype=np.uint64)),
        "crop": np.zeros(count, np.int16),
        "crop_side": random.random(count, np.float32),
        "shard": np.zeros(count, np.int32),
        "first": random.integers(4096 - 90, size=count),
        "frames": np.where(image, 1, random.integers(1, 91, count)),
        "fps": np.full(count, 30.0),
        "rate": np.full(count, 7.5),
        "retry": np.zeros(count, bool),
    }
    return pa.table(
        [
            pa.array(columns[field.name], field.type)
            if isinstance(columns.get(field.name), np.ndarray)
            else columns.get(field.name, pa.nulls(count, field.type))
            for field in ROWS
        ],
        schema=ROWS,
    )


# VmHWM: what getrusage tells would begin with the size of the parent.
_OPEN = """
import json, sys, time
from pathlib import Path
import torch
from toto.config import from_dict, read_json
from toto.tokens.loader import Sequences
from toto.tokens.mixture import Manifest
manifest = from_dict(Manifest, read_json(Path(sys.argv[1]), ""), "")
start = time.perf_counter()
sequences = Sequences(manifest)
sequences.batch(0, 1)
seconds = time.perf_counter() - start
(peak,) = (x for x in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in x)
print(json.dumps([seconds, int(peak.split()[1]) / 1024]))
"""


def opening(folder: Path, tries: int) -> dict[str, float]:
    """Seconds until the first sequence of a data set is there, and peak MiB of the whole process.

    A new process for each try. The quickest counts: others on the same cores take time from any.
    """
    manifest = freeze([TokenDataset(folder)], (), 16, 0, "train", 0.01)
    write_json(folder / "manifest.json", manifest)
    script = [sys.executable, "-c", _OPEN, str(folder / "manifest.json")]
    runs = [
        json.loads(subprocess.run(script, capture_output=True, text=True, check=True).stdout)
        for _ in range(tries)
    ]
    return {
        "seconds": round(min(seconds for seconds, _ in runs), 3),
        "peak_mib": round(max(mebibytes for _, mebibytes in runs), 1),
    }


def _begin(folder: Path, grid: int, codebook: int, tokenizer: str) -> Info:
    (folder / "shards").mkdir(parents=True)
    (folder / "tokenizer").mkdir()
    write_json(folder / "tokenizer" / "config.json", {"kind": "none"})
    return Info(
        version=VERSION,
        command="none",
        tokenizer=tokenizer,
        codebook_size=codebook,
        grid=(grid, grid),
        dtype="uint16",
        settings=Ingest(View(size=8 * grid)),
        items=0,
        shards=0,
        source="none",
    )


def _finish(folder: Path, info: Info, tables: Iterable[pa.Table]) -> None:
    write_rows(folder / "failures.parquet", [])
    write_json(folder / "dataset.json", info)
    write_rows(folder / "index.parquet", tables)
