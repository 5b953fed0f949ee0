import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from media_files import encode, moving
from PIL import Image

from tests.children import start
from toto.errors import UserError
from toto.media.frame_pool import frame_pool
from toto.media.item import Item, Location
from toto.media.video import read_frames
from toto.media.view import View

VIEW = View(stride=1, size=16)


@pytest.fixture
def items(tmp_path) -> list[Item]:
    counts = (150, 3, 70, 1, 10, 40, 7, 25)
    paths = [encode(tmp_path / f"{i}.mp4", moving(n, seed=i)) for i, n in enumerate(counts)]
    return [Item(Location(str(path)), path.name) for path in paths]


def test_as_many_of_each_item_and_nothing_else(items, tmp_path):
    pool = frame_pool(items, VIEW, 80, tmp_path / "frames.npy", 2)
    assert len(pool) == 10 + 3 + 10 + 1 + 10 + 10 + 7 + 10
    found = {frame.tobytes() for frame in pool}
    assert len(found) == len(pool)
    for item in items:
        its = np.concatenate(list(read_frames(item.location, VIEW)))
        assert len(found & {frame.tobytes() for frame in its}) == min(10, len(its))
    assert not list(tmp_path.glob(".*"))


def test_every_frame_of_a_video_is_as_likely(tmp_path):
    shades = np.repeat(np.arange(40, dtype=np.uint8) * 6, 8 * 8 * 3).reshape(40, 8, 8, 3)
    path = encode(tmp_path / "shades.mp4", shades)
    items = [Item(Location(str(path)), str(key)) for key in range(400)]
    pool = frame_pool(items, View(stride=1, size=8), 400 * 4, tmp_path / "frames.npy", 0)
    third = np.histogram(pool.mean((1, 2, 3)), 4, (0, 240))[0]
    # 400 each; the deviation of a draw of 4 from 40 without repetition is 17.
    assert abs(third - 400).max() < 70


def test_a_kill_loses_the_items_at_hand_alone(items, tmp_path):
    whole = frame_pool(items, VIEW, 80, tmp_path / "whole.npy", 0)
    order = [Path(item.location.path) for item in _in_order(items, tmp_path)]
    stuck = order[4].rename(tmp_path / "away")
    os.mkfifo(order[4])
    child = start(frame_pool, items, VIEW, 80, tmp_path / "frames.npy", 0)
    lines = tmp_path / ".frames.partial.txt"
    deadline = time.monotonic() + 60
    while not lines.exists() or lines.read_bytes().count(b"\n") < 4:
        assert child.is_alive() and time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    order[4].unlink()
    stuck.rename(order[4])
    with lines.open("a") as file:
        file.write("half of a li")
    for path in order[:4]:
        path.unlink()  # they are done
    assert np.array_equal(frame_pool(items, VIEW, 80, tmp_path / "frames.npy", 0), whole)


def _in_order(items: Sequence[Item], tmp_path: Path) -> list[Item]:
    """The items as a pool takes them."""
    pool = frame_pool(items, VIEW, len(items), tmp_path / "one.npy", 0)
    first = {}
    for item in items:
        for frame in np.concatenate(list(read_frames(item.location, VIEW))):
            first[frame.tobytes()] = item
    return [first[frame.tobytes()] for frame in pool]


def test_what_was_begun_of_other_items_is_not_gone_on_from(items, tmp_path):
    (tmp_path / ".frames.partial.txt").write_text(f"{'0' * 16} 5\n")
    pool = frame_pool(items, VIEW, 80, tmp_path / "frames.npy", 0)
    assert np.array_equal(pool, frame_pool(items, VIEW, 80, tmp_path / "again.npy", 0))


def test_broken_files_cost_only_themselves(items, tmp_path, capsys):
    Path(items[0].location.path).write_text("no video")
    pool = frame_pool(items, VIEW, 80, tmp_path / "frames.npy", 2)
    assert len(pool) == 3 + 10 + 1 + 10 + 10 + 7 + 10
    assert "1 of 8 files could not be read" in capsys.readouterr().err
    with pytest.raises(UserError, match="none of 1 files"):
        frame_pool(items[:1], VIEW, 80, tmp_path / "none.npy", 2)


def test_a_random_square_is_one_place_for_all_frames_of_a_file(tmp_path):
    wide = np.zeros((8, 32, 160, 3), np.uint8)
    wide[:] = np.linspace(0, 255, 160).astype(np.uint8)[:, None]
    items = []
    for i in range(12):
        Image.fromarray(wide[0]).save(tmp_path / f"{i}.png")
        items.append(Item(Location(str(tmp_path / f"{i}.png")), f"{i}.png"))
    pool = frame_pool(items, View(size=32, crops=1), 12, tmp_path / "frames.npy", 0)
    left = pool[:, 0, 0, 0].astype(int)
    assert left.max() - left.min() > 80
    assert (pool[:, 0, :, -1].astype(int) - pool[:, 0, :, 0] - 50 < 5).all()
    with pytest.raises(UserError, match="crops 2"):
        frame_pool(items, View(size=32, crops=2), 12, tmp_path / "two.npy", 0)
