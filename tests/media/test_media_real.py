import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from test_media_awkward import MATRICES, with_matrix

from toto.media.item import Location
from toto.media.pool import Chunk, DecodePool, End, Failure, Task
from toto.media.sources import read_source
from toto.media.video import probe, read_clip, read_frames
from toto.media.view import Limits, View

pytestmark = pytest.mark.real


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


def by_ffmpeg(path, pix_fmt, filters="null"):
    """All pixels as the command-line tool of FFmpeg gives them, (frames, channels, height, width).

    With alpha they are composited over black.
    """
    if not shutil.which("ffmpeg"):
        pytest.skip("ffmpeg is not installed")
    info, wide = probe(str(path)), np.float32 if "f32" in pix_fmt else np.uint16
    command = ["ffmpeg", "-v", "error", "-i", path, "-vf", filters, "-vsync", "0"]
    command += ["-f", "rawvideo", "-pix_fmt", pix_fmt, "-"]
    done = subprocess.run(command, capture_output=True)
    if b"No such filter" in done.stderr:
        pytest.skip(f"this ffmpeg has no {filters.partition('=')[0]}")
    pixels = np.frombuffer(done.stdout, np.uint8 if pix_fmt == "rgb24" else wide)
    if pix_fmt == "gbrpf32le":
        return pixels.reshape(-1, 3, info.height, info.width)[:, [2, 0, 1]]
    pixels = pixels.reshape(-1, info.height, info.width, 4 if "rgba" in pix_fmt else 3)
    if pix_fmt == "rgba64le":
        pixels = pixels[..., :3] / 257 * (pixels[..., 3:] / 65535)
    return pixels.transpose(0, 3, 1, 2)


def middle(pixels):
    """The squares in the middle of whole pictures."""
    height, width = pixels.shape[2:]
    side = min(height, width)
    left, top = round((width - side) / 2), round((height - side) / 2)
    return pixels[..., top : top + side, left : left + side]


def at_full_size(path):
    info = probe(str(path))
    return np.concatenate(
        list(read_frames(str(path), View(1, min(info.width, info.height), "index")))
    )


def one(real, name):
    """A file of `awkward` by its name alone."""
    return next((real / "awkward").rglob(name))


@pytest.mark.parametrize(
    "name",
    [
        "nasa_13013_rotated.mp4",  # turned
        "video_90.mov",
        "testsrc2_odd_height_and_width_444.mp4",  # odd sizes
        "testsrc2_odd_height_vp9.mp4",
        "testsrc2_odd_width_mpeg2.mp4",
        "-video-with-dash-.mp4",  # 1x1
        "test_non_zero_start.mp4",  # from 8.3 s on, and pixels that are not quite square
        "discard_first_keyframe.mp4",  # from -0.2 s on, of which an edit list shows no frame
        "testsrc2_mpeg4.mp4",  # one frame
        "bt601_full_range.mp4",
        "bt601_limited_range.mp4",
        "transparent.webm",  # whose alpha FFmpeg's decoder leaves out
        "h265_video.mp4",
    ],
)
def test_videos_as_ffmpeg_shows_them(real, name):
    """To the bit, with the versions at hand; how others convert colours may differ a little."""
    path = one(real, name)
    expected = middle(by_ffmpeg(path, "rgb24"))
    found = at_full_size(path)
    assert found.shape == expected.shape
    assert abs(found.astype(int) - expected).mean() < 0.5


def test_ten_bits_as_ffmpeg_shows_them(real):
    """Small, as colours between samples are another matter in each version of FFmpeg."""
    path = one(real, "h264_10bits.mp4")
    whole = by_ffmpeg(path, "rgb24")
    expected = whole.reshape(-1, 3, 20, 10, 20, 10).mean((3, 5))
    found = np.concatenate(list(read_frames(str(path), View(1, 20, "index"))))
    assert abs(found - expected).mean() < 4


@pytest.mark.parametrize("name", ["testsrc2_hdr.mp4", "bt2020_10bit.mp4"])
def test_hdr_is_the_rule_applied_to_the_light_that_zimg_finds(real, name):
    path = one(real, name)
    light = by_ffmpeg(path, "gbrpf32le", "zscale=t=linear:npl=203:p=2020:r=full,format=gbrpf32le")
    light = middle(light)[:5].transpose(0, 2, 3, 1).astype(float)
    luminance = np.maximum(light @ [0.2627, 0.6780, 0.0593], 1e-9)[..., None]
    mapped = light * (1 + luminance / (1000 / 203) ** 2) / (1 + luminance)
    primaries = [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]]
    linear = np.clip(mapped @ np.transpose(primaries), 0, 1)
    coded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    difference = abs(at_full_size(path)[:5] - 255 * coded.transpose(0, 3, 1, 2))
    assert (difference <= 3).mean() > 0.95  # the rest are edges of colours


@pytest.mark.parametrize("matrix", MATRICES)
def test_display_matrices_as_ffmpeg_shows_them(real, tmp_path, matrix):
    path = tmp_path / "a.mov"
    shutil.copyfile(one(real, "video_0.mov"), path)
    path.chmod(0o600)
    with_matrix(path, matrix)
    assert np.array_equal(at_full_size(path), middle(by_ffmpeg(path, "rgb24")))


@pytest.mark.parametrize(
    ("name", "tolerance"),
    [
        ("cmyk.jpg", 4),
        ("pil_sample_cmyk.jpg", 6),
        ("grayscale.jpg", 2),
        ("hopper_gray.jpg", 2),
        ("grayscale_alpha.png", 2),
        ("rgba.png", 2),
        ("transparent.gif", 1),
        ("p_16.png", 1),
        ("gradient.gif", 1),
        ("hopper.gif", 1),
        ("1bit.tif", 0),
        ("hopper_1bit.pbm", 0),
        ("hopper_16bit.pgm", 1),
        ("16bit.cropped.tif", 1),
        ("gradient_16bit.png", 1),
        ("gradient_interlaced.png", 1),
        ("animated.gif", 1),
        ("dispose_op_background.png", 1),
    ],
)
def test_pictures_as_ffmpeg_shows_them(real, name, tolerance):
    path = one(real, name)
    expected = middle(by_ffmpeg(path, "rgba64le"))
    found = at_full_size(path)
    assert found.shape == expected.shape
    assert abs(found - expected).max() <= tolerance + 0.5


def test_orientations_show_one_picture(real):
    """The camera was turned, and says so: upright all show the same, up to JPEG's losses."""
    folder = real / "awkward/recurser_exif-orientation-examples"
    view = View(size=64)
    (upright,) = read_frames(str(folder / "Landscape_1.jpg"), view)
    for number in (0, 3, 6, 8):
        path = folder / f"Landscape_{number}.jpg"
        assert (probe(str(path)).width, probe(str(path)).height) == (1800, 1200)
        (found,) = read_frames(str(path), view)
        # Each names its number in the middle of the picture.
        assert np.median(abs(found.astype(int) - upright)) <= 3
        assert np.corrcoef(found.ravel(), upright.ravel())[0, 1] > 0.95
    for name in (
        "hopper_orientation_3.jpg",
        "hopper_orientation_6.jpg",
        "hopper_orientation_6.webp",
    ):
        with Image.open(one(real, name)) as image:
            expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB")).transpose(2, 0, 1)
        assert np.array_equal(at_full_size(one(real, name))[0], expected)


def test_variable_frame_rates_by_time_and_by_index(real):
    """Against the times that ffprobe tells."""
    if not shutil.which("ffprobe"):
        pytest.skip("ffprobe is not installed")
    for path in (one(real, "no_duration.webm"), next((real / "video").rglob("part_0.mp4"))):
        entries = ["-select_streams", "v:0", "-show_entries", "frame=best_effort_timestamp_time"]
        command = ["ffprobe", "-v", "error", *entries, "-of", "csv=p=0", path]
        lines = subprocess.run(command, capture_output=True, text=True).stdout.split()
        times = np.array([float(line.strip(",")) for line in lines])
        times -= times[0]
        assert np.diff(times).max() > 1.1 * np.diff(times).min()
        fps = probe(str(path)).fps
        everything = np.concatenate(list(read_frames(str(path), View(1, 24, "index"))))
        assert len(everything) == len(times)
        for stride, rate in ((2, None), (4, None), (1, 30.0), (3, 10.0)):
            moments = np.arange(1000) * stride / (rate or fps) + 0.5 / fps
            moments = moments[moments < times[-1] + 1 / fps]
            shown = np.searchsorted(times, moments, side="right") - 1
            by_time = np.concatenate(list(read_frames(str(path), View(stride, 24, rate=rate))))
            assert np.array_equal(by_time, everything[shown])
        by_index = np.concatenate(list(read_frames(str(path), View(4, 24, "index"))))
        assert np.array_equal(by_index, everything[::4])


def test_animations_of_uneven_times(real):
    path = one(real, "iss634.webp")
    with Image.open(path) as image:
        durations = []
        for page in range(image.n_frames):
            image.seek(page)
            image.load()
            durations.append(image.info["duration"] or 100)  # as browsers do
    assert len(set(durations)) > 1
    info = probe(str(path))
    assert info.frames == 42 and abs(info.fps - 42_000 / sum(durations)) < 1e-6
    everything = at_full_size(path)
    ends = np.cumsum(durations) / 1000
    moments = np.arange(1000) / 10 + 0.5 / info.fps
    shown = np.searchsorted(ends, moments[moments < ends[-2] + 1 / info.fps], side="right")
    view = View(1, min(info.width, info.height), rate=10.0)
    found = np.concatenate(list(read_frames(str(path), view)))
    assert np.array_equal(found, everything[shown])


def test_a_start_that_is_not_zero_counts_from_the_first_picture(real):
    path = str(one(real, "test_non_zero_start.mp4"))
    whole = np.concatenate(list(read_frames(path, View(1, 32))))
    (part,) = read_frames(Location(path, start=0.1, end=0.3), View(2, 32))
    assert len(whole) == 12 and np.array_equal(part, whole[3:9:2])


def test_the_largest_of_several_streams(real):
    info = probe(str(one(real, "nasa_13013.mp4")))
    assert (info.width, info.height, info.frames) == (480, 270, 390)
