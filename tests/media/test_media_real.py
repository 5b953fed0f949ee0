import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from toto.media.pool import Chunk, DecodePool, End, Failure, Task
from toto.media.sources import read_source
from toto.media.video import read_clip, read_frames
from toto.media.view import Limits, View

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def real():
    folder = os.environ.get("TOTO_REAL_DATA")
    if not folder:
        pytest.skip("TOTO_REAL_DATA is not set")
    return Path(folder)


def outcomes(items):
    result = {}
    view = View(stride=1, size=32, step="index")
    with DecodePool(view, 2, Limits(seconds=20.0, memory=1.0)) as pool:
        for number, part in pool.stream(Task(item.location) for item in items):
            if not isinstance(part, Chunk):
                result[items[number].key] = part
    return result


def seen(real, folder):
    """What other tools saw: file below the folder -> number of frames, None for an error."""
    lines = (real / "MEDIA.tsv").read_text().splitlines()[1:]
    rows = (line.split("\t")[:2] for line in lines)
    found = {}
    for file, what in rows:
        if file.startswith(f"{folder}/"):
            frames = re.search(r"frames=(\d+)", what)
            found[file.removeprefix(f"{folder}/")] = int(frames[1]) if frames else None
    for file in found:
        if file.endswith("/nasa_13013.mp4"):  # the best of its streams, not the first
            found[file] = 390
    return found


def test_videos_are_all_read(real):
    results = outcomes(read_source(str(real / "video")))
    for file, frames in seen(real, "video").items():
        assert isinstance(results[file], End) and results[file].frames == frames, file


def test_awkward_files_end_in_frames_or_a_reason(real):
    results = outcomes(read_source(str(real / "awkward")))
    broken_inside = ("corrupted.mp4", "invalid_multiframe.gif")
    for file, frames in seen(real, "awkward").items():
        result = results[file]
        if frames is None or file.endswith(broken_inside):
            assert isinstance(result, Failure) and not result.retry, file
            assert result.reason and "\n" not in result.reason
        else:
            assert isinstance(result, End) and result.frames == frames, (file, result)


def test_awkward_reasons(real):
    results = outcomes(read_source(str(real / "awkward")))
    for name, reason in {
        "result.webm": "empty file",
        "clip_h264.mp4": "a Git LFS pointer",
        "image_128x128.png": "a Git LFS pointer",
        "sine_mono_s16.wav": "audio only",
        "nasa_13013.mp4.audio.mp3": "audio only",
        "corrupted.mp4": "after 28 frames",
        "truncated_image.png": "truncated",
        "decompression_bomb.gif": "too large",
        "LICENSE": "text",
    }.items():
        found = [result for key, result in results.items() if Path(key).name == name]
        assert found and all(reason in result.reason for result in found), name


@pytest.mark.parametrize(
    ("video", "index", "reference"),
    [
        ("nasa_13013.mp4", 0, "nasa_13013.mp4.stream3.frame000000.pt"),
        ("nasa_13013.mp4", 15, "nasa_13013.mp4.stream3.frame000015.pt"),
        ("nasa_13013.mp4", 389, "nasa_13013.mp4.stream3.frame000389.pt"),
        ("h265_video.mp4", 5, "h265_video.mp4.stream0.frame000005.pt"),
    ],
)
def test_published_frames(real, video, index, reference):
    folder = real / "awkward/meta-pytorch_torchcodec/test/resources"
    picture = torch.load(folder / reference, weights_only=True).numpy()
    _, height, width = picture.shape if picture.shape[0] == 3 else (0, *picture.shape[:2])
    hwc = picture.transpose(1, 2, 0) if picture.shape[0] == 3 else picture
    (frame,) = read_clip(str(folder / video), index, 1, View(1, height, "index"))
    left = round((width - height) / 2)
    assert np.array_equal(frame, hwc[:, left : left + height].transpose(2, 0, 1))


def videos(real):
    folders = ("video", "awkward")
    return sorted(
        path
        for folder in folders
        for path in (real / folder).rglob("*")
        if path.suffix in (".mp4", ".mkv", ".avi", ".mov", ".webm", ".gif", ".webp")
        and path.stat().st_size < 500_000
    )


def test_clips_are_slices(real):
    view = View(stride=3, size=24)
    compared = 0
    for path in videos(real):
        try:
            everything = np.concatenate(list(read_frames(str(path), view)))
        except Exception:
            continue
        for first in (1, len(everything) // 2, len(everything) - 2):
            clip = read_clip(str(path), max(first, 0), 4, view)
            assert np.array_equal(clip, everything[max(first, 0) :][:4]), (path, first)
            compared += 1
    assert compared > 50
