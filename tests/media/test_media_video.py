import errno
import shutil
import subprocess
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from media_files import encode, moving
from PIL import Image

from toto.errors import MediaError
from toto.media import video
from toto.media.file import MediaInfo
from toto.media.item import Location
from toto.media.video import open_media, probe, read_clip, read_frames
from toto.media.view import CENTRE, View

ALL = View(stride=1, size=16, step="index")


def read_all(path, view=ALL):
    return np.concatenate(list(read_frames(str(path), view)))


def fails(path, reason):
    with pytest.raises(MediaError, match=reason):
        read_all(path)


def plain(path):
    """All frames at full size, by a loop of a few lines."""
    with av.open(str(path)) as container:
        return [picture.to_ndarray(format="rgb24") for picture in container.decode(video=0)]


def test_sequential_against_plain_loop(tmp_path):
    path = encode(tmp_path / "a.mp4", moving(150))
    pictures = np.stack([p[:, 8:56].transpose(2, 0, 1) for p in plain(path)])
    for stride in (1, 4, 7):
        view = View(stride, 48)
        chunks = list(read_frames(str(path), view))
        assert np.array_equal(np.concatenate(chunks), pictures[::stride])
        assert {len(c) for c in chunks[:-1]} <= {64}


@pytest.mark.parametrize(
    ("height", "width", "size"), [(480, 640, 64), (300, 200, 64), (48, 64, 64)]
)
def test_scaling_is_close_to_pillow(tmp_path, height, width, size):
    """In grey: the rest of what differs is where the colours of 4:2:0 lie."""
    coarse = Image.fromarray(moving(1, 24, 32)[0]).convert("L").convert("RGB")
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))
    path = encode(tmp_path / "a.mp4", np.stack([smooth] * 2), options={"crf": "5"})
    whole = tuple(round(side * size / min(height, width)) for side in (width, height))
    way = Image.Resampling.BOX if size < min(height, width) else Image.Resampling.BICUBIC
    expected = np.asarray(Image.fromarray(plain(path)[0]).resize(whole, way)).astype(int)
    left, top = (whole[0] - size) // 2, (whole[1] - size) // 2
    cut = expected[top : top + size, left : left + size].transpose(2, 0, 1)
    assert abs(read_all(path, View(1, size))[0] - cut).mean() < 2


def test_probe(tmp_path):
    path = str(encode(tmp_path / "a.mp4", moving(30)))
    assert probe(path) == MediaInfo("video", 64, 48, 25.0, 30)
    path = str(encode(tmp_path / "a.mkv", moving(30), container="matroska"))
    assert probe(path) == MediaInfo("video", 64, 48, 25.0, None)


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_rotation(tmp_path, degrees):
    same = {"x264-params": "mbtree=0"}  # with it x264 does not always write the same bytes
    upright = read_all(encode(tmp_path / "a.mp4", moving(5), options=same))
    path = encode(tmp_path / "b.mp4", moving(5), options=same, rotation=degrees)
    turned = np.rot90(upright, degrees // 90, axes=(2, 3))
    assert np.array_equal(read_all(path), turned)
    assert probe(str(path)).width == (64 if degrees == 180 else 48)


gops = st.fixed_dictionaries(
    {
        "g": st.integers(1, 40).map(str),
        "bf": st.integers(0, 5).map(str),
        "refs": st.integers(1, 4).map(str),
        "sc_threshold": st.sampled_from(["0", "40"]),
        "x264-params": st.sampled_from(
            ["open-gop=0", "open-gop=1", "intra-refresh=1", "b-pyramid=strict", "b-pyramid=none"]
        ),
    }
)


@settings(max_examples=40, deadline=None)
@given(
    options=gops,
    container=st.sampled_from(["mp4", "mp4", "matroska", "mpegts"]),
    gaps=st.one_of(st.none(), st.lists(st.integers(1, 400), min_size=60, max_size=60)),
    start=st.sampled_from([0, 0, 3000]),
    stride=st.integers(1, 5),
    step=st.sampled_from(["time", "index"]),
    clips=st.lists(st.tuples(st.integers(0, 70), st.integers(1, 20)), min_size=3, max_size=3),
)
def test_clips_are_slices(tmp_path_factory, options, container, gaps, start, stride, step, clips):
    frames = moving(60)
    times = [start + int(t) for t in np.cumsum(gaps or [40] * 60)]
    path = tmp_path_factory.getbasetemp() / "gops"
    encode(path, frames, "libx264", container, {"preset": "veryfast", **options}, times)
    view = View(stride, 16, step)
    everything = read_all(path, view)
    for first, count in clips:
        clip = read_clip(str(path), first, count, view)
        assert np.array_equal(clip, everything[first : first + count])


@pytest.mark.parametrize(
    ("codec", "container"),
    [("mpeg4", "avi"), ("libvpx", "webm"), ("libvpx-vp9", "webm"), ("mpeg2video", "mpeg")],
)
def test_clips_of_other_codecs(tmp_path, codec, container):
    options = {"g": "8", "bf": "2"} if "vpx" not in codec else {"g": "8", "cpu-used": "8"}
    path = encode(tmp_path / "a", moving(40), codec, container, options)
    everything = read_all(path)
    assert len(everything) == 40
    for first in (1, 9, 20, 38):
        clip = read_clip(str(path), first, 5, ALL)
        assert np.array_equal(clip, everything[first : first + 5])


@pytest.mark.parametrize("params", ["open-gop=0", "open-gop=1"])
def test_clips_are_sought(tmp_path, params):
    """What the equality above would not notice: that nothing was ever jumped over."""
    options = {"g": "10", "bf": "3", "x264-params": params}
    path = encode(tmp_path / "a.mp4", moving(60), options=options)
    with open_media(str(path)) as media:
        when = video.moments(ALL, Location(str(path)), media.fps)
    sought = [p.squares(16, (CENTRE,))[0] for p in video._seek(Location(str(path)), when, 30, 40)]
    assert np.array_equal(sought, read_all(path)[30:40])


def test_clip_beyond_the_end(tmp_path):
    path = str(encode(tmp_path / "a.mp4", moving(10)))
    assert read_clip(path, 8, 16, ALL).shape == (2, 3, 16, 16)
    assert read_clip(path, 50, 16, ALL).shape == (0, 3, 16, 16)
    Image.new("RGB", (20, 20)).save(tmp_path / "b.png")
    assert len(read_clip(str(tmp_path / "b.png"), 0, 16, View())) == 1
    assert len(read_clip(str(tmp_path / "b.png"), 1, 16, View())) == 0


def test_clip_of_a_file_that_changed(tmp_path):
    path = encode(tmp_path / "a.mp4", moving(60), options={"g": "10"})
    read_clip(str(path), 30, 2, ALL)
    encode(path, moving(60, seed=1), options={"g": "7"})
    assert np.array_equal(read_clip(str(path), 30, 2, ALL), read_all(path)[30:32])


def test_what_is_no_media(tmp_path):
    path = tmp_path / "file.mp4"
    fails(path, "^no such file$")
    fails(path / "below", "^no such file$")
    fails(tmp_path / ("x" * 300), "name too long")
    fails(tmp_path, "a folder")
    for data, reason in {
        b"": "^empty file$",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n": "a Git LFS pointer",
        "Grüße\n".encode(): r"not media \(text\)",
        ("a" * 4095 + "üß").encode(): r"not media \(text\)",
        b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n": r"not media \(text\)",
        b"\0\0\0\x18ftypheic\0\0\0\0": "HEIF",
        bytes(1000): "header is damaged",
        b"\x89PNG\r\n\x1a\n": "corrupt",
    }.items():
        path.write_bytes(data)
        fails(path, reason)


def test_play_lists_open_nothing(tmp_path):
    encode(tmp_path / "a.mp4", moving(5))
    for text in ("ffconcat version 1.0\nfile a.mp4\n", "#EXTM3U\n#EXTINF:1,\na.mp4\n"):
        (tmp_path / "list.mp4").write_bytes(text.encode() + b"#\0\xff\n")
        fails(tmp_path / "list.mp4", "header is damaged|could be decoded")


def test_audio_only(tmp_path):
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(
            np.zeros((1, 16000), np.float32), format="fltp", layout="mono"
        )
        frame.rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    fails(path, r"^no video stream \(audio only\)$")


@pytest.mark.parametrize(
    ("codec", "container", "mux"),
    [
        ("libx264", "mp4", {"movflags": "faststart"}),
        ("libx264", "matroska", {}),
        ("libx264", "flv", {}),
        ("mpeg4", "avi", {}),
    ],
)
def test_truncated(tmp_path, codec, container, mux):
    path = encode(tmp_path / "a.mp4", moving(100), codec, container, {"g": "20"}, mux=mux)
    assert len(read_all(path)) == 100
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    fails(path, "^truncated")


def test_header_lost(tmp_path):
    path = encode(tmp_path / "a.mp4", moving(20))
    path.write_bytes(path.read_bytes()[:-500])
    fails(path, "header is damaged")


def test_recording_that_starts_between_key_frames(tmp_path):
    path = encode(tmp_path / "a.ts", moving(60), container="mpegts", options={"g": "20"})
    data = path.read_bytes()
    path.write_bytes(data[len(data) // 188 // 2 * 188 :])
    frames = read_all(path)
    assert 10 <= len(frames) <= 40
    assert np.array_equal(read_clip(str(path), 5, 3, ALL), frames[5:8])


def test_too_large(tmp_path):
    Image.new("1", (12000, 12000)).save(tmp_path / "a.png")
    fails(tmp_path / "a.png", "too large: 12000x12000 pixels")
    Image.new("1", (20000, 20000)).save(tmp_path / "a.png")
    fails(tmp_path / "a.png", "too large")


def test_errors_of_the_machine_are_no_media_errors():
    """Reading this file really fails with EIO."""
    mem = "/proc/self/mem"
    if not Path(mem).exists():
        pytest.skip("no /proc")
    for read in (read_all, probe, lambda path: read_clip(path, 3, 2, View())):
        with pytest.raises(OSError) as error:
            read(mem)
        assert error.value.errno == errno.EIO


def test_ffmpeg_agrees_on_edit_lists(tmp_path):
    """An edit list leaves frames out, which the file still declares."""
    if not shutil.which("ffmpeg"):
        pytest.skip("ffmpeg is not installed")
    path = encode(tmp_path / "a.mp4", moving(60), options={"g": "10"})
    cut = tmp_path / "cut.mp4"
    command = ["ffmpeg", "-v", "error", "-ss", "0.5", "-t", "1.2", "-i", path, "-c", "copy", cut]
    subprocess.run(command, check=True)
    command = ["ffprobe", "-v", "error", "-count_frames", "-show_entries", "stream=nb_read_frames"]
    counted = subprocess.run([*command, "-of", "csv=p=0", cut], capture_output=True, text=True)
    frames = read_all(cut)
    assert len(frames) == int(counted.stdout) < probe(str(cut)).frames
    for first in (3, 15, 27):
        assert np.array_equal(read_clip(str(cut), first, 5, ALL), frames[first : first + 5])
