"""How fast media become frames, beside a bare loop of the same decoder on the same cores.

python benchmarks/ingest.py [--media DIR] [--workers 2] [--items 10000] [--runs 7]

The value is source frames a second that the decode workers get through, every 4th frame resized to
128 pixels; the peer decodes the same files, one after the other in as many processes, and keeps
nothing. The workers leave out frames of H.264 that are neither kept nor referred to, which the peer
decodes: in the rows named "all decoded" they do not, because there frames are kept by their number.
All ways take turns; times are medians, ratios the medians of those of each turn. CPU time is that
of all processes, this one included, which takes the frames from the workers.
Rows: the same with a tokenizer behind it, and the memory of all processes as items go by.
"""

import argparse
import multiprocessing.pool
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import av
import numpy as np
import psutil
import torch
from common import commit, machine, write_result
from PIL import Image

from toto.media.item import Item, Location
from toto.media.pool import DecodePool, End, Task
from toto.media.sources import read_source
from toto.media.view import View
from toto.media.write import write_video
from toto.recipes.tokenizer import demo
from toto.tokenizers.dvae import DVAE
from toto.tokens.config import Ingest
from toto.tokens.shards import Job, Shard, write_shards


def make_media(folder: Path, videos: int = 8, frames: int = 300) -> None:
    """Textured 640 x 480 videos that pan, for who brings none."""
    random = np.random.default_rng(0)
    for i in range(videos):
        coarse = Image.fromarray(random.integers(0, 255, (40, 80, 3), np.uint8))
        wide = np.asarray(coarse.resize((1600, 800), Image.Resampling.BICUBIC)).astype(np.int16)
        wide = (wide + random.integers(-12, 12, wide.shape)).clip(0, 255).astype(np.uint8)
        pan = [wide[j : j + 480, 2 * j : 2 * j + 640].transpose(2, 0, 1) for j in range(frames)]
        write_video(folder / f"{i}.mp4", np.stack(pan), 30)


def count(path: str) -> int:
    """The bare loop."""
    with av.open(path) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        return sum(1 for _ in container.decode(stream))


def bare(pool: multiprocessing.pool.Pool, paths: Sequence[str]) -> int:
    return sum(pool.imap(count, paths))


def decode(pool: DecodePool, paths: Sequence[str]) -> int:
    ends = (r for _, r in pool.stream(Task(Location(p)) for p in paths) if isinstance(r, End))
    return sum(end.frames for end in ends)


def seconds(work: Callable[[], int]) -> tuple[float, float]:
    """By the clock on the wall, and of the CPU."""
    start, cpu = time.perf_counter(), cpu_seconds()
    work()
    return time.perf_counter() - start, cpu_seconds() - cpu


def cpu_seconds() -> float:
    here = psutil.Process()
    times = [p.cpu_times() for p in (here, *here.children(recursive=True))]
    return sum(t.user + t.system for t in times)


def tokenize(job: Job, items: Sequence[Item], workers: int, device: str) -> int:
    return sum(done is None for done in write_shards(job, [Shard(0, items)], device, workers))


def memory() -> float:
    """MiB of this process and its decoders, what they share counted once."""
    here = psutil.Process()
    family = [here, *here.children(recursive=True)]
    return sum(process.memory_full_info().uss for process in family) / 2**20


def memory_by_items(job: Job, paths: Sequence[str], items: int, workers: int) -> dict[int, float]:
    """MiB after so many items."""
    marks = {items // 10, items}
    each = job.settings.shard_items
    todo = [Item(Location(paths[i % len(paths)]), str(i)) for i in range(items)]
    shards = (Shard(n, todo[n * each : (n + 1) * each]) for n in range(-(-items // each)))
    found = {}
    items_done = (done for done in write_shards(job, shards, "cpu", workers) if done is None)
    for done, _ in enumerate(items_done, start=1):
        if done in marks:
            found[done] = memory()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--media", type=Path)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    work = Path(tempfile.mkdtemp())
    try:
        measure(options, work)
    finally:
        shutil.rmtree(work)


def measure(options: argparse.Namespace, work: Path) -> None:
    media, workers = options.media, options.workers
    if media is None:
        media = work / "media"
        media.mkdir()
        make_media(media)
    suffixes = (".mp4", ".mkv", ".webm", ".avi", ".mov")
    paths = [i.location.path for i in read_source(str(media)) if i.key.endswith(suffixes)]
    context = multiprocessing.get_context("spawn")
    with (
        context.Pool(workers) as processes,
        DecodePool(View(), workers) as pool,
        DecodePool(View(step="index"), workers) as counting,
    ):
        frames = bare(processes, paths)  # also warms all up, and the page cache
        kept = decode(pool, paths)
        decode(counting, paths)
        ways = [
            partial(bare, processes, paths),
            *(partial(decode, p, paths) for p in (pool, counting)),
        ]
        times = np.array([[seconds(way) for way in ways] for _ in range(options.runs)])
    theirs, ours, all_decoded = np.median(times[..., 0], axis=0).tolist()
    # Of each run: what the peer took, by the wall and of the CPU, over what each of ours took.
    shares = np.median(times[:, :1] / times, axis=0).round(3).tolist()
    torch.manual_seed(0)
    DVAE(demo().tokenizer).save(work / "tokenizer")
    job = Job(work / "tokenizer", work / "out", Ingest(View()))
    (work / "out/shards").mkdir(parents=True)
    items = [Item(Location(path), path) for path in paths]
    whole, _ = seconds(partial(tokenize, job, items, workers, options.device))
    small = work / "small"
    small.mkdir()
    for i in range(20):
        video = np.random.default_rng(i).integers(0, 255, (24, 3, 8, 8), np.uint8)
        write_video(small / f"{i}.mp4", video.repeat(8, 2).repeat(8, 3), 30)
    tiny = replace(job, settings=Ingest(View(size=32)))
    marks = memory_by_items(tiny, [str(p) for p in small.iterdir()], options.items, workers)
    rows = {
        "files": len(paths),
        "source frames": frames,
        "kept frames": kept,
        "seconds": round(ours, 3),
        "bare seconds": round(theirs, 3),
        "ratio of CPU time": shares[1][1],
        "seconds, all decoded": round(all_decoded, 3),
        "ratio, all decoded": shares[2][0],
        "ratio of CPU time, all decoded": shares[2][1],
        "seconds with the demo tokenizer": round(whole, 3),
        "kept frames/s with the demo tokenizer": round(kept / whole, 1),
        **{f"MiB after {done} items": round(mib, 1) for done, mib in marks.items()},
        "runs": options.runs,
        "media": "natural" if options.media else "made by the benchmark",
        "workers": workers,
    }
    for name, value in rows.items():
        print(f"{name:<40}{value!s:>24}")
    result = {
        "name": "ingest",
        "value": round(frames / ours, 1),
        "unit": "source frames/s",
        "peer": f"bare PyAV decode loop, {workers} processes",
        "peer_value": round(frames / theirs, 1),
        "ratio": shares[1][0],
        "machine": machine(),
        "commit": commit(),
        "rows": rows,
    }
    write_result("ingest", result)


if __name__ == "__main__":
    main()
