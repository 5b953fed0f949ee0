import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import psutil
import pytest
from media_files import encode, moving
from PIL import Image

from toto.errors import UserError
from toto.media.file import MediaInfo
from toto.media.item import Location
from toto.media.pool import Chunk, DecodePool, End, Failure, Task
from toto.media.view import Limits, Place, View

VIEW = View(stride=1, size=16)


def tasks_of(*paths):
    return [Task(Location(str(path))) for path in paths]


def collect(stream):
    """Per item its frames and how it ended; checks the order on the way."""
    results, open_item, frames = [], 0, []
    for number, result in stream:
        assert number == open_item
        if isinstance(result, Chunk):
            frames.append(result.frames[:, 0])
        else:
            results.append((np.concatenate(frames) if frames else None, result))
            open_item, frames = open_item + 1, []
    assert not frames
    return results


@pytest.fixture
def media(tmp_path):
    """Long and short, good and bad."""
    paths = []
    for i, count in enumerate((150, 3, 70, 1, 10)):
        paths.append(encode(tmp_path / f"{i}.mp4", moving(count, seed=i)))
        picture = tmp_path / f"{i}.png"
        Image.fromarray(moving(1, seed=i)[0]).save(picture)
        text = tmp_path / f"{i}.txt"
        text.write_text("text")
        paths += [picture, text, tmp_path / f"{i}.none"]
    return tasks_of(*paths)


@pytest.fixture
def fifo(tmp_path):
    """A file that nobody can read to its end."""
    os.mkfifo(tmp_path / "fifo")
    return tmp_path / "fifo"


def test_same_for_any_number_of_workers(media):
    expected = None
    for workers in (0, 1, 3):
        with DecodePool(VIEW, workers) as pool:
            for _ in range(2):
                results = collect(pool.stream(iter(media)))
                expected = expected or results
                assert len(results) == len(media)
                for (frames, end), (other, other_end) in zip(results, expected, strict=True):
                    assert end == other_end
                    assert (frames is None) == (other is None)
                    assert frames is None or np.array_equal(frames, other)
    ends = [end for _, end in expected or []]
    assert ends[0] == End(MediaInfo("video", 64, 48, 25.0, 150), 25.0, 150)
    assert ends[1] == End(MediaInfo("image", 64, 48, None, 1), None, 1)
    assert ends[2] == Failure("not media (text)", retry=False)
    assert ends[3] == Failure("no such file", retry=False)


def test_nothing_to_do():
    with DecodePool(VIEW, 2) as pool:
        assert list(pool.stream([])) == []


def test_hang(fifo, media):
    with DecodePool(VIEW, 2, Limits(seconds=1.5)) as pool:
        results = collect(pool.stream([*tasks_of(fifo), *media]))
    assert results[0][1] == Failure("time limit: nothing decoded for 1.5 s", retry=True)
    assert sum(isinstance(end, End) for _, end in results[1:]) == 10


@pytest.mark.parametrize(
    ("number", "reason", "retry"),
    [
        (signal.SIGSEGV, "crashed (signal 11)", False),
        (signal.SIGKILL, "was killed", True),
        (signal.SIGTERM, "was killed (signal 15)", True),
    ],
)
def test_worker_dies(fifo, media, number, reason, retry):
    with DecodePool(VIEW, 1) as pool:
        victim = pool._workers[0].process.pid
        timer = threading.Timer(1.5, os.kill, (victim, number))
        timer.start()
        results = collect(pool.stream([*tasks_of(fifo), *media[:4]]))
        timer.join()
    failure = results[0][1]
    assert isinstance(failure, Failure)
    assert reason in failure.reason and failure.retry == retry
    assert [type(end) for _, end in results[1:]] == [End, End, Failure, Failure]


def test_a_worker_that_dies_while_it_sends_costs_one_file(tmp_path, media):
    long = encode(tmp_path / "long.mp4", moving(900, 64, 64))
    with DecodePool(View(stride=1, size=64), 1) as pool:
        stream = pool.stream([*tasks_of(long), *media[:1]])
        assert isinstance(next(stream)[1], Chunk)
        time.sleep(1)  # until the pipe is full
        pool._workers[0].process.kill()
        ends = [(number, part) for number, part in stream if not isinstance(part, Chunk)]
    assert [(number, type(part)) for number, part in ends] == [(0, Failure), (1, End)]
    assert ends[0][1].retry


def test_workers_that_die_while_they_wait_cost_no_file(media):
    with DecodePool(VIEW, 2) as pool:
        before = collect(pool.stream(media[:2]))
        for worker in pool._workers:
            worker.process.terminate()
            worker.process.join()
        after = collect(pool.stream(media[:2]))
    assert [end for _, end in after] == [end for _, end in before]
    assert all(isinstance(end, End) for _, end in after)


def test_a_segment_that_holds_no_frame_is_a_failure(tmp_path):
    path = str(encode(tmp_path / "a.mp4", moving(10)))
    gone = [Location(path, start=90.0, end=91.5), Location(path, start=90.0)]
    tasks = [Task(where, count_only=counts) for where in gone for counts in (False, True)]
    for workers in (0, 1):
        with DecodePool(VIEW, workers) as pool:
            ends = [end for _, end in collect(pool.stream(tasks))]
        reasons = ["no frame from 90 s to 91.5 s"] * 2 + ["no frame from 90 s to the end"] * 2
        assert ends == [Failure(reason, retry=False) for reason in reasons]


def test_a_users_mistake_comes_through(media):
    for workers in (0, 1):
        with DecodePool(VIEW, workers) as pool, pytest.raises(UserError, match="nosuch"):
            collect(pool.stream(tasks_of("nosuch://a.mp4")))


def test_memory_limit(tmp_path, media):
    bomb = tmp_path / "bomb.png"
    Image.new("1", (11500, 11500)).save(bomb)  # half a gigabyte as RGB
    with DecodePool(VIEW, 1, Limits(memory=0.25)) as pool:
        results = collect(pool.stream([*tasks_of(bomb), *media[:2]]))
    assert results[0][1] == Failure("memory limit: more than 0.2 GiB", retry=True)
    assert [type(end) for _, end in results[1:]] == [End, End]


def test_error_of_the_machine(media):
    for workers in (0, 1):
        with DecodePool(VIEW, workers) as pool:
            with pytest.raises(OSError, match="Input/output error"):
                collect(pool.stream([*media[:2], *tasks_of("/proc/self/mem"), *media]))
            assert len(collect(pool.stream(media[:3]))) == 3


def test_vanished_mount(tmp_path, media):
    """A mount that goes leaves its empty folder behind; a missing file has others around it."""
    mount = tmp_path / "mount"
    (mount / "below").mkdir(parents=True)
    lost = tasks_of(mount / "below/a.mp4", mount / "b.mp4")
    for workers in (0, 1):
        with DecodePool(VIEW, workers) as pool:
            with pytest.raises(OSError, match="is its mount gone"):
                collect(pool.stream([media[0], lost[0]]))
            (result,) = collect(pool.stream(lost[1:]))
            assert result[1] == Failure("no such file", retry=False)


def test_clips_and_places(media):
    """A task is a clip as `read_clip` gives it, with a square at each place."""
    location = media[0].location
    whole = np.concatenate([f for f, _ in [collect_all(location, 0, None)]])
    clip, end = collect_all(location, 70, 9)
    assert np.array_equal(clip, whole[70:79]) and end.frames == 9
    assert not np.array_equal(whole[:, 0], whole[:, 1])


def collect_all(location, first, frames):
    with DecodePool(VIEW, 1) as pool:
        parts = [
            r for _, r in pool.stream([Task(location, (Place(0.0), Place(1.0)), first, frames)])
        ]
    assert all(part.frames.shape[1:] == (2, 3, 16, 16) for part in parts[:-1])
    return np.concatenate([part.frames for part in parts[:-1]]), parts[-1]


def test_a_stream_given_up_leaves_nothing(media):
    with DecodePool(VIEW, 2) as pool:
        for _ in range(2):
            stream = pool.stream(media)
            next(stream)
            stream.close()
        assert len(collect(pool.stream(media))) == len(media)


def test_slow_consumer(tmp_path):
    """A worker that waits for its reader is not one that hangs, and does not fill the memory."""
    path = encode(tmp_path / "a.mp4", moving(1000, 16, 16))
    with DecodePool(View(1, 128), 2, Limits(seconds=0.7)) as pool:
        ends = 0
        for step, (_, result) in enumerate(pool.stream(tasks_of(*[path] * 3))):
            if step in (1, 20):
                time.sleep(1.5)
            ends += isinstance(result, End)
    assert ends == 3


SCRIPT = """
import sys
from toto.media.item import Location
from toto.media.pool import DecodePool, Task
from toto.media.view import Place, View
if __name__ == "__main__":
    with DecodePool(View(), 2) as pool:
        print(*[worker.process.pid for worker in pool._workers], flush=True)
        list(pool.stream([Task(Location(path)) for path in sys.argv[1:]]))
"""


def parent(tmp_path, *paths):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    process = subprocess.Popen(
        [sys.executable, script, *paths],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    return process, [int(pid) for pid in process.stdout.readline().split()]


def gone(pids, seconds=10.0):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if not any(psutil.pid_exists(pid) for pid in pids):
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize("wait", [0.0, 1.5])
def test_no_orphans(tmp_path, fifo, wait):
    """One worker is stuck in a file, the other idle or still starting, as the parent is killed."""
    process, workers = parent(tmp_path, fifo)
    time.sleep(wait)
    assert len(workers) == 2 and all(psutil.pid_exists(pid) for pid in workers)
    process.kill()
    process.wait()
    assert gone(workers)
    assert "Traceback" not in process.stderr.read()


@pytest.mark.parametrize("wait", [0.0, 1.5])
def test_interrupt(tmp_path, fifo, wait):
    """Ctrl-C reaches the whole group; only the parent says so."""
    process, workers = parent(tmp_path, fifo)
    time.sleep(wait)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=10)
    assert errors.count("Traceback") == 1 and "KeyboardInterrupt" in errors
    assert gone(workers)
