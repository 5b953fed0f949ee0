"""Reading speed of the loader, and how fast a very large data set opens.

The peer is a PyTorch `DataLoader` that shuffles `datasets` rows of the same tokens, memory-mapped
Arrow on the same disk, in each combination of its public settings that could be the best.

    python benchmarks/loader.py
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, count, product, repeat
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from common import commit, machine, opening, random_dataset, random_index, write_result
from torch.utils.data import BatchSampler, DataLoader, RandomSampler

from toto.tokens.loader import Sequences, freeze
from toto.tokens.store import TokenDataset

FRAMES, GRID, CODEBOOK = 16, 16, 8192


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--videos", type=int, default=2000)
    parser.add_argument("--images", type=int, default=16_000)
    parser.add_argument("--rows", type=int, default=10_000_000, help="of the data set to open")
    parser.add_argument("--seconds", type=float, default=2.5, help="of each measurement")
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        few, many = Path(folder) / "few", Path(folder) / "many"
        for out, shard_items in ((few, 256), (many, 4)):
            random_dataset(
                out,
                arguments.videos,
                70,
                GRID,
                CODEBOOK,
                images=arguments.images,
                shard_items=shard_items,
            )
            rows += ours(out, arguments.seconds)
        rows += peers(sequences(few), Path(folder) / "rows.arrow", arguments.seconds)
        random_index(Path(folder) / "index", arguments.rows, GRID, CODEBOOK)
        opened = opening(Path(folder) / "index", tries=3)
    opened_row = {"contender": "toto opens", "items": arguments.rows} | opened
    print(opened_row, flush=True)
    write_result("loader", summary([*rows, opened_row]))


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The best setting of each; ours of the data set with the fewest shards."""
    mine = [row for row in rows if row["contender"] == "toto"]
    few = min(row["shards"] for row in mine)
    best = max((row for row in mine if row["shards"] == few), key=speed)
    peer = max((row for row in rows if row["contender"] == "datasets"), key=speed)
    settings = ("format", "batches", "workers", "batch")
    return {
        "name": "loader",
        "value": speed(best),
        "unit": "tokens/s",
        "peer": "DataLoader over datasets, " + ", ".join(f"{k} {peer[k]}" for k in settings),
        "peer_value": speed(peer),
        "ratio": round(speed(best) / speed(peer), 3),
        "machine": machine(),
        "commit": commit(),
        "rows": rows,
    }


def speed(row: dict[str, Any]) -> int:
    return int(row["tokens_per_second"])


def sequences(folder: Path) -> Sequences:
    return Sequences(freeze([TokenDataset(folder)], (), FRAMES, 0, "train", 0.0))


def ours(folder: Path, seconds: float) -> list[dict[str, Any]]:
    """`Sequences.batch` in one thread, as the training loop calls it, and in two."""
    read = sequences(folder)
    shards = len([*(folder / "shards").glob("*.npy")])
    # Each shard's header is read once.
    for first in range(0, read.clips, 256):
        read.batch(first, 256)
    rows = []
    for threads, batch in product((1, 2), (32, 256)):
        with ThreadPoolExecutor(threads) as pool:
            rate = measure(ahead(pool, threads, read, batch), seconds)
        row = {"contender": "toto", "threads": threads, "batch": batch, "shards": shards}
        rows.append(row | {"tokens_per_second": rate})
        print(rows[-1], flush=True)
    return rows


def ahead(
    pool: ThreadPoolExecutor, threads: int, read: Sequences, batch: int
) -> Iterator[torch.Tensor]:
    """Batches in order, `threads` of them being read at any time."""
    waiting = [pool.submit(read.batch, i * batch, batch) for i in range(threads)]
    for i in count(threads):
        ready = waiting.pop(0)
        waiting.append(pool.submit(read.batch, i * batch, batch))
        yield ready.result()


def peers(read: Sequences, path: Path, seconds: float) -> list[dict[str, Any]]:
    import datasets

    datasets.disable_progress_bars()
    write_arrow(read, path)
    table = datasets.Dataset.from_file(str(path))
    rows = []
    settings = product(("torch", "numpy"), ("collated", "sampled"), (0, 1, 2), (32, 256))
    for kind, batches, workers, batch in settings:
        rate = measure(tensors(table.with_format(kind), batches, workers, batch), seconds)
        row = {"contender": "datasets", "format": kind, "batches": batches, "workers": workers}
        rows.append(row | {"batch": batch, "tokens_per_second": rate})
        print(rows[-1], flush=True)
    return rows


def tensors(data: Any, batches: str, workers: int, batch: int) -> Iterator[torch.Tensor]:
    how: dict[str, Any] = {"batch_size": batch, "shuffle": True}
    if batches == "sampled":  # one look-up for a whole batch, nothing left to collate
        how = {"batch_size": None, "sampler": BatchSampler(RandomSampler(data), batch, True)}
    loader = DataLoader(data, num_workers=workers, persistent_workers=workers > 0, **how)
    for rows in chain.from_iterable(repeat(loader)):
        yield torch.as_tensor(rows["tokens"])


def write_arrow(read: Sequences, path: Path) -> None:
    """The sequences of one epoch as rows of `tokens`."""
    length = read.vocabulary.length(FRAMES)
    kind = pa.list_(pa.int64(), length)
    schema = pa.schema([("tokens", kind)])
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, schema) as writer:
        for first in range(0, read.clips - 256, 256):
            tokens = read.batch(first, 256).numpy().reshape(-1)
            writer.write(
                pa.record_batch([pa.FixedSizeListArray.from_arrays(tokens, length)], schema=schema)
            )


def measure(batches: Iterator[torch.Tensor], seconds: float) -> int:
    """Tokens a second, of the batches that come after the first three."""
    for _ in range(3):
        next(batches)
    start, tokens = time.perf_counter(), 0
    while (spent := time.perf_counter() - start) < seconds:
        batch = next(batches)
        assert batch.dtype == torch.int64
        tokens += batch.numel()
    return round(tokens / spent)


if __name__ == "__main__":
    main()
