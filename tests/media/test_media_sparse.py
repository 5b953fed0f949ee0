"""Frames that are left out undecoded: what is kept is as if all had been decoded."""

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from media_files import encode, moving

from toto.errors import MediaError
from toto.media.item import Location
from toto.media.picture import kept, moments, nominal_rate
from toto.media.video import open_media, read_frames
from toto.media.view import View

ALL = View(stride=1, size=16, step="index")  # by their number: nothing is left out


def read_all(path, view=ALL, **segment):
    chunks = list(read_frames(Location(str(path), **segment), view))
    return np.concatenate(chunks) if chunks else np.empty((0, 3, view.size, view.size), np.uint8)


def expected(path, view, **segment):
    """What is kept, of all frames decoded by a plain loop's times."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        rate = float(stream.average_rate) if stream.average_rate else None
        base = float(stream.time_base)
        stamps = [frame.pts for frame in container.decode(stream)]
    location = Location(str(path), **segment)
    when = moments(view, location, nominal_rate(location, rate))
    pictures = (((stamp - stamps[0]) * base, i) for i, stamp in enumerate(stamps))
    return read_all(path)[list(kept(pictures, when))]


def left_out(path, view):
    """How many of a file's frames are not decoded."""
    with open_media(str(path)) as media:
        decoder = media._decoder
        decoder._when = moments(view, Location(str(path)), media.fps)
        return sum(picture is None for _, picture in decoder._timed())


h264 = st.fixed_dictionaries(
    {
        "g": st.integers(1, 40).map(str),
        "bf": st.integers(0, 8).map(str),
        "refs": st.integers(1, 6).map(str),
        "b_strategy": st.sampled_from(["0", "1"]),
        "x264-params": st.sampled_from(
            [
                "open-gop=1:b-pyramid=normal",
                "b-pyramid=none",
                "b-pyramid=strict",
                "intra-refresh=1",
                "interlaced=1",
                "slices=3:direct=temporal",
                "weightb=1:weightp=2:direct=temporal",
            ]
        ),
    }
)


@settings(max_examples=40, deadline=None)
@given(
    options=h264,
    container=st.sampled_from(["mp4", "mp4", "matroska", "mpegts", "flv"]),
    gaps=st.one_of(st.none(), st.lists(st.integers(1, 400), min_size=60, max_size=60)),
    start=st.sampled_from([0, 0, 3000]),
    stride=st.integers(2, 9),
    rate=st.sampled_from([None, None, 10.0, 40.0]),
    segment=st.sampled_from([{}, {}, {"end": 1.3}, {"start": 0.7}, {"start": 0.5, "end": 1.9}]),
)
def test_kept_frames_are_the_same(
    tmp_path_factory, options, container, gaps, start, stride, rate, segment
):
    times = [start + int(t) for t in np.cumsum(gaps or [40] * 60)]
    path = tmp_path_factory.getbasetemp() / "sparse"
    encode(path, moving(60), "libx264", container, {"preset": "veryfast", **options}, times)
    view = View(stride, 16, rate=rate)
    frames = read_all(path, view, **segment)
    assert np.array_equal(frames, expected(path, view, **segment))


@pytest.mark.parametrize(
    ("codec", "container", "options"),
    [
        ("libx265", "mp4", {"x265-params": "log-level=0:bframes=4:b-pyramid=1:keyint=20"}),
        ("libx265", "mp4", {"x265-params": "log-level=0:temporal-layers=3:bframes=4:keyint=20"}),
        ("libvpx-vp9", "webm", {"cpu-used": "8", "g": "20", "lag-in-frames": "16"}),
        ("mpeg4", "mp4", {"bf": "2", "g": "20"}),
        ("mpeg4", "avi", {"bf": "2", "g": "20"}),
        ("mpeg2video", "mpegts", {"bf": "2", "g": "20"}),
    ],
)
def test_other_codecs(tmp_path, codec, container, options):
    path = encode(tmp_path / "a", moving(50), codec, container, options)
    for view in (View(4, 16), View(3, 16, rate=20.0)):
        assert np.array_equal(read_all(path, view), expected(path, view))


def test_what_nothing_refers_to_is_left_out(tmp_path):
    """What the equality above would not notice; x264 makes frames P b B b, two of four for none."""
    options = {"bf": "3", "b_strategy": "0", "x264-params": "b-pyramid=normal:scenecut=0"}
    path = encode(tmp_path / "a.mp4", moving(200), options={"g": "100", **options})
    assert left_out(path, View(4, 16)) > 80
    assert left_out(path, View(8, 16)) > 80
    assert left_out(path, View(1, 16)) == left_out(path, ALL) == 0
    encode(path, moving(50), "libx264", "avi", options)  # whose time stamps are guesses
    assert left_out(path, View(4, 16)) == 0


def test_frames_that_do_not_come(tmp_path):
    """A damaged file: where something is missing, all is decoded, and fails or not as ever."""
    options = {"g": "30", "bf": "3", "b_strategy": "0", "preset": "veryfast"}
    path = encode(tmp_path / "a.mkv", moving(120), "libx264", "matroska", options)
    whole = path.read_bytes()
    random = np.random.default_rng(0)
    for _ in range(30):
        data = bytearray(whole)
        at = int(random.integers(len(data) // 10, len(data)))
        data[at : at + 40] = random.bytes(40)
        path.write_bytes(data)
        try:
            everything = expected(path, View(4, 16))
        except (MediaError, av.FFmpegError):
            continue
        assert np.array_equal(read_all(path, View(4, 16)), everything)
