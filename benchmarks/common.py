"""What the benchmarks share: the machine's name, the JSON line, and random token data sets."""

import json
import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from toto.config import write_json
from toto.tokens.store import ROWS, VERSION, checksum, shard_path


def machine() -> dict[str, Any]:
    """Device and versions that a figure belongs to."""
    cuda = torch.cuda.is_available()
    return {
        "device": torch.cuda.get_device_name() if cuda else platform.processor() or "cpu",
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


def random_dataset(folder: Path, videos: int, frames: int, grid: int, codebook: int) -> None:
    """A token data set of random codes, for measuring speed: its tokenizer is a name alone."""
    (folder / "shards").mkdir(parents=True)
    (folder / "tokenizer").mkdir()
    write_json(folder / "tokenizer" / "config.json", {"kind": "none"})
    random = np.random.default_rng(0)
    codes = random.integers(codebook, size=(videos * frames, grid, grid), dtype=np.uint16)
    np.save(shard_path(folder, 0), codes)
    rows = [
        dict.fromkeys(ROWS.names)
        | {
            "key": f"{i}",
            "path": f"{i}",
            "kind": "video",
            "shard": 0,
            "first": i * frames,
            "frames": frames,
            "retry": False,
        }
        for i in range(videos)
    ]
    table = pa.Table.from_pylist(rows, schema=ROWS)
    pq.write_table(table, folder / "index.parquet")
    pq.write_table(table.slice(0, 0), folder / "failures.parquet")
    info = {
        "version": VERSION,
        "command": "none",
        "tokenizer": "random",
        "codebook_size": codebook,
        "grid": [grid, grid],
        "settings": {"view": {"stride": 4, "size": 8 * grid}},
        "checksums": {"shards/00000.npy": checksum(shard_path(folder, 0))},
    }
    write_json(folder / "dataset.json", info)
