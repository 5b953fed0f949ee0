import numpy as np
import pytest
from media_files import moving
from PIL import Image

from toto.errors import UserError
from toto.media.file import MediaInfo
from toto.media.video import probe, read_frames
from toto.media.view import View
from toto.media.write import write_gif, write_video


def frames_of(count, height, width):
    return np.ascontiguousarray(moving(count, height, width).transpose(0, 3, 1, 2))


def test_video(tmp_path):
    frames = frames_of(61, 64, 64)
    frames = frames // 2 + 50  # saturated colours do not survive yuv420p
    path = tmp_path / "a.mp4"
    write_video(path, frames, 24)
    assert probe(str(path)) == MediaInfo("video", 64, 64, 24.0, 61)
    back = np.concatenate(list(read_frames(str(path), View(1, 64))))
    # Colours are halved in resolution, so compare the light.
    assert abs(back.mean(1) - frames.mean(1)).mean() < 8
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]


def test_same_bytes(tmp_path):
    frames = frames_of(40, 64, 64)
    variants = set()
    for _ in range(20):
        write_video(tmp_path / "a.mp4", frames, 25)
        variants.add((tmp_path / "a.mp4").read_bytes())
    assert len(variants) == 1


def test_odd_sides_and_fps(tmp_path):
    write_video(tmp_path / "a.mp4", frames_of(5, 33, 47), 30000 / 1001)
    info = probe(str(tmp_path / "a.mp4"))
    assert (info.width, info.height, info.frames) == (48, 34, 5)
    assert info.fps == pytest.approx(30000 / 1001)


def test_gif(tmp_path):
    write_gif(tmp_path / "a.gif", frames_of(7, 32, 32), 10)
    info = probe(str(tmp_path / "a.gif"))
    assert info == MediaInfo("video", 32, 32, 10.0, 7)
    assert Image.open(tmp_path / "a.gif").info["loop"] == 0


@pytest.mark.parametrize("write", [write_video, write_gif])
def test_all_or_nothing(tmp_path, write):
    path = tmp_path / "a"
    path.write_bytes(b"before")
    with pytest.raises(UserError, match="no frames"):
        write(path, np.empty((0, 3, 8, 8), np.uint8), 10)
    assert path.read_bytes() == b"before"
    with pytest.raises(OSError):
        write(tmp_path / "none" / "a", np.zeros((2, 3, 8, 8), np.uint8), 10)
