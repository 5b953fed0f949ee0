"""Media made awkward on purpose, against values known beforehand."""

import io
import os
import signal
import struct
import threading
import zipfile
from fractions import Fraction
from itertools import product

import av
import fsspec
import numpy as np
import pyarrow as pa
import pytest
from av.stream import Disposition
from media_files import encode, moving
from PIL import Image

from toto.errors import MediaError
from toto.media.item import Location
from toto.media.pool import DecodePool, End, Task
from toto.media.video import open_media, probe, read_clip, read_frames
from toto.media.view import Place, View

ALL = View(stride=1, size=16, step="index")
SAME = {"x264-params": "mbtree=0"}  # with it x264 does not always write the same bytes


def read_all(path, view=ALL):
    return np.concatenate(list(read_frames(str(path), view)))


def seen(path, view, places=(0.5,)):
    with open_media(str(path)) as media:
        return np.concatenate(list(media.chunks(view, [Place(place) for place in places])))


def store(path, pictures, pix_fmt, codec="ffv1", **context):
    """Write pictures as they are, without loss: rows of each plane's values."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=25)
        height, width = pictures[0][0].shape[:2]
        stream.codec_context.width, stream.codec_context.height = width, height
        stream.codec_context.pix_fmt = pix_fmt
        for name, value in context.items():
            setattr(stream.codec_context, name, value)
        for i, planes in enumerate(pictures):
            frame = av.VideoFrame(width, height, pix_fmt)
            for plane, values in zip(frame.planes, planes, strict=False):
                rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
                packed = np.ascontiguousarray(values).view(np.uint8).reshape(len(values), -1)
                rows[: len(packed), : packed.shape[1]] = packed
            frame.pts, frame.time_base = i, Fraction(1, 25)
            frame.colorspace = context.get("colorspace", 2)
            frame.color_range = context.get("color_range", 0)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return path


# What is turned and mirrored.

# How x and y of an upright picture come from those of the stored one: (a, b, c, d) of the display
# matrix, x' = a x + c y and y' = b x + d y; and what Pillow calls it.
MATRICES = {
    (1, 0, 0, 1): None,
    (-1, 0, 0, 1): Image.Transpose.FLIP_LEFT_RIGHT,
    (1, 0, 0, -1): Image.Transpose.FLIP_TOP_BOTTOM,
    (-1, 0, 0, -1): Image.Transpose.ROTATE_180,
    (0, 1, 1, 0): Image.Transpose.TRANSPOSE,
    (0, -1, -1, 0): Image.Transpose.TRANSVERSE,
    (0, 1, -1, 0): Image.Transpose.ROTATE_270,
    (0, -1, 1, 0): Image.Transpose.ROTATE_90,
}


def with_matrix(path, matrix):
    """The same MP4 with another display matrix in its track header (ISO/IEC 14496-12, 8.3.2)."""
    data = bytearray(path.read_bytes())
    a, b, c, d = (65536 * value for value in matrix)
    at = data.index(b"tkhd") + 4 + 40  # a header of version 0
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("matrix", MATRICES)
def test_display_matrix(tmp_path, matrix):
    (width, height), places = (96, 64), (0.0, 0.25, 1.0)
    path = encode(tmp_path / "a.mp4", moving(2, height, width), options=SAME)
    with av.open(str(path)) as container:
        stored = Image.fromarray(next(container.decode(video=0)).to_ndarray(format="rgb24"))
    turn = MATRICES[matrix]
    upright = stored if turn is None else stored.transpose(turn)
    info = probe(str(with_matrix(path, matrix)))
    assert (info.width, info.height) == upright.size
    squares = seen(path, View(1, 64), places)[0].transpose(0, 2, 3, 1)
    for square, place in zip(squares, places, strict=True):
        left, top = (round(place * (side - 64)) for side in upright.size)
        assert np.array_equal(square, np.asarray(upright)[top : top + 64, left : left + 64])


def test_pixels_that_are_not_square_are_kept_as_stored(tmp_path):
    plain = encode(tmp_path / "a.mp4", moving(3), options=SAME)
    wide = encode(tmp_path / "b.mp4", moving(3), options={"x264-params": "mbtree=0:sar=16/11"})
    with av.open(str(wide)) as container:
        assert container.streams.video[0].sample_aspect_ratio == Fraction(16, 11)
    assert probe(str(wide)) == probe(str(plain))
    assert np.array_equal(read_all(wide), read_all(plain))


def test_interlaced_is_kept_as_stored(tmp_path):
    options = {"x264-params": "interlaced=1:mbtree=0", "crf": "1"}
    path = encode(tmp_path / "a.mp4", moving(4), options=options)
    with av.open(str(path)) as container:
        stored = list(container.decode(video=0))
    assert stored[0].interlaced_frame
    pixels = np.stack([f.to_ndarray(format="rgb24")[:, 8:56].transpose(2, 0, 1) for f in stored])
    assert np.array_equal(read_all(path, View(1, 48)), pixels)


# Streams.


def streams(path, container, *kinds):
    """A file of streams, each `(codec, width, disposition)`; the pictures of stream i are 60 i."""
    with av.open(str(path), "w", format=container) as out:
        made = []
        for codec, width, disposition in kinds:
            if codec == "aac":
                stream = out.add_stream(codec, rate=16000, layout="mono")
            else:
                stream = out.add_stream(codec, rate=25)
                stream.codec_context.width, stream.codec_context.height = width, 32
                stream.codec_context.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
            stream.disposition = disposition
            made.append(stream)
        for i, stream in enumerate(made):
            if stream.type == "audio":
                frame = av.AudioFrame.from_ndarray(
                    np.zeros((1, 1024), np.float32), format="fltp", layout="mono"
                )
                frame.rate = stream.codec_context.sample_rate
                out.mux(stream.encode(frame))
            else:
                only = stream.disposition & Disposition.attached_pic
                for at in range(1 if only else 10):
                    grey = np.full((32, stream.codec_context.width, 3), 60 * i, np.uint8)
                    frame = av.VideoFrame.from_ndarray(grey, format="rgb24")
                    frame.pts, frame.time_base = at, Fraction(1, 25)
                    out.mux(stream.encode(frame))
            out.mux(stream.encode())
    return path


NONE, DEFAULT, COVER = Disposition(0), Disposition.default, Disposition.attached_pic


ANY = ("mp4", "matroska", "mpegts")
CHOICES = [
    (ANY, [("mpeg4", 32, DEFAULT), ("mpeg4", 96, DEFAULT)], 1),  # a small one comes first
    (ANY, [("mpeg4", 96, DEFAULT), ("mpeg4", 32, DEFAULT)], 0),
    (ANY, [("mpeg4", 64, DEFAULT), ("mpeg4", 64, DEFAULT)], 0),  # two angles
    # What the file itself prefers, where its format can say so; covers.
    (ANY[:2], [("mpeg4", 32, DEFAULT), ("mpeg4", 96, NONE)], 0),
    (ANY[:1], [("mjpeg", 96, COVER), ("mpeg4", 32, DEFAULT)], 1),
    (ANY[:1], [("mpeg4", 32, NONE), ("mjpeg", 96, COVER)], 0),
]


@pytest.mark.parametrize(
    ("container", "kinds", "chosen"),
    [(container, kinds, chosen) for some, kinds, chosen in CHOICES for container in some],
)
def test_which_stream(tmp_path, container, kinds, chosen):
    path = streams(tmp_path / "a", container, *kinds)
    frames = read_all(path)
    assert len(frames) == 10 and probe(str(path)).width == kinds[chosen][1]
    assert abs(frames.astype(int) - 60 * chosen).max() <= 8
    assert np.array_equal(read_clip(str(path), 3, 4, ALL), frames[3:7])


def test_music_with_a_cover_is_no_video(tmp_path):
    path = streams(tmp_path / "a", "mp4", ("aac", 0, DEFAULT), ("mjpeg", 32, COVER))
    with pytest.raises(MediaError, match=r"^no video stream \(audio only\)$"):
        probe(str(path))


def test_a_codec_that_nobody_knows(tmp_path):
    path = encode(tmp_path / "a.mp4", moving(3))
    path.write_bytes(path.read_bytes().replace(b"avc1", b"zzzz").replace(b"avcC", b"zzzC"))
    with pytest.raises(MediaError, match=r"^no decoder for its video codec$"):
        probe(str(path))


def test_a_size_that_changes_on_the_way(tmp_path):
    parts = []
    for i, (height, width) in enumerate([(48, 64), (96, 48), (32, 32)]):
        parts.append(encode(tmp_path / f"{i}.ts", moving(12, height, width), container="mpegts"))
    path = tmp_path / "a.ts"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    frames = read_all(path)
    assert np.array_equal(frames, np.concatenate([read_all(part) for part in parts]))
    assert probe(str(path)).width == 64
    assert np.array_equal(read_clip(str(path), 9, 20, ALL), frames[9:29])


def test_a_size_that_changes_on_the_way_of_webm(tmp_path):
    """As a video call does: its key frames alone say so."""
    path, expected = tmp_path / "a.webm", []
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libvpx-vp9", rate=25, options={"cpu-used": "8"})
        stream.codec_context.width, stream.codec_context.height = 64, 48
        stream.codec_context.pix_fmt = "yuv420p"
        for number, (height, width) in enumerate([(48, 64), (96, 80)]):
            part = encode(
                tmp_path / "part", moving(10, height, width), "libvpx-vp9", "webm", {"g": "5"}
            )
            expected.append(read_all(part))
            with av.open(str(part)) as source:
                for packet in source.demux(video=0):
                    if packet.size:
                        packet.pts = packet.dts = packet.pts + 400 * number
                        packet.stream = stream
                        out.mux(packet)
    frames = read_all(path)
    assert np.array_equal(frames, np.concatenate(expected))
    for first in (4, 8, 16):
        assert np.array_equal(read_clip(str(path), first, 6, ALL), frames[first : first + 6])


# Times.


def test_where_the_clock_starts_is_no_matter(tmp_path):
    frames, times = moving(40), np.arange(0, 1600, 40)
    expected = {}
    for container, start in product(("mp4", "matroska", "mpegts"), (0, 3000, 90_000_000)):
        options = {**SAME, "g": "10", "bf": "2"}
        path = encode(
            tmp_path / "a", frames, "libx264", container, options, (times + start).tolist()
        )
        with av.open(str(path)) as opened:
            first = next(opened.decode(video=0)).time
        assert first >= start / 1000 - 1e-3 or container == "mp4"  # which begins with an edit list
        for name, where in {
            "all": Location(str(path)),
            "part": Location(str(path), start=0.4, end=1.2),
        }.items():
            found = np.concatenate(list(read_frames(where, View(3, 16))))
            assert len(found) == (14 if name == "all" else 7)
            assert np.array_equal(found, expected.setdefault(name, found)), (container, start)


@pytest.mark.parametrize(
    ("codec", "container", "options"),
    [
        ("libx264", "h264", {"bf": "2"}),  # no clock at all
        ("mpeg4", "avi", {"bf": "2"}),  # only the order of decoding
        ("libx265", "hevc", {"x265-params": "log-level=none"}),
        ("mpeg2video", "mpeg", {"bf": "2"}),
    ],
)
def test_missing_time_stamps(tmp_path, codec, container, options):
    path = encode(tmp_path / "a", moving(30), codec, container, options)
    frames = read_all(path)
    assert len(frames) == 30
    by_time = read_all(path, View(stride=4, size=16))
    assert np.array_equal(by_time, frames[::4])


@pytest.mark.parametrize("step", ["time", "index"])
def test_a_clock_that_goes_back(tmp_path, step):
    """Two recordings in one file; the second starts its clock anew."""
    path = encode(tmp_path / "a.ts", moving(30), container="mpegts", options={"g": "10"})
    path.write_bytes(2 * path.read_bytes())
    frames = read_all(path)
    assert len(frames) == 60 and np.array_equal(frames[:30], frames[30:])
    found = read_all(path, View(stride=5, size=16, step=step))
    assert np.array_equal(found, frames[::5])


@pytest.mark.parametrize(
    ("container", "mux"),
    [("mpegts", {}), ("mpeg", {}), ("mp4", {"movflags": "frag_keyframe+empty_moov"})],
)
def test_formats_that_do_not_tell_their_length(tmp_path, container, mux):
    """What is left of such a file is a shorter video (docs/data.md)."""
    codec = "mpeg2video" if container == "mpeg" else "libx264"
    path = encode(tmp_path / "a", moving(100), codec, container, {"g": "10"}, mux=mux)
    data = path.read_bytes()
    assert len(read_all(path)) == 100
    half = len(data) // 2
    # Within a fragment it would be noticed.
    path.write_bytes(data[: data.index(b"moof", half) - 4 if mux else half])
    assert 30 < len(read_all(path)) < 70


@pytest.mark.parametrize(
    ("codec", "container"),
    [("libx264", "mp4"), ("libvpx-vp9", "webm"), ("libx264", "mpegts"), ("mpeg4", "avi")],
)
def test_one_frame(tmp_path, codec, container):
    path = str(encode(tmp_path / "a", moving(1), codec, container))
    for view in (ALL, View(), View(rate=30.0), View(stride=8, step="index")):
        assert read_all(path, view).shape[0] == 1
    assert len(read_clip(path, 0, 16, View())) == 1 and len(read_clip(path, 1, 16, View())) == 0
    assert probe(path).kind == "video"


# Pixels.


@pytest.mark.parametrize("size", [(1, 1), (1, 3), (3, 1), (2, 3), (17, 31), (31, 17), (241, 321)])
def test_odd_sizes(tmp_path, size):
    height, width = size
    frames = np.random.default_rng(0).integers(0, 256, (3, height, width, 3), np.uint8)
    path = store(tmp_path / "a.mov", [[frame] for frame in frames], "rgb24", "png")
    side = min(size)
    left, top = round((width - side) / 2), round((height - side) / 2)
    expected = frames[:, top : top + side, left : left + side].transpose(0, 3, 1, 2)
    assert np.array_equal(read_all(path, View(1, side)), expected)
    path = tmp_path / "a.mkv"
    flat = read_all(store(path, [grey(width, height, 99)] * 2, "yuv420p", "rawvideo"), View(1, 32))
    assert flat.shape == (2, 3, 32, 32)
    assert abs(flat.astype(int) - round((99 - 16) * 255 / 219)).max() <= 3


def grey(width, height, level):
    """Planes of 4:2:0; an odd side has half a sample more."""
    chroma = np.full(((height + 1) // 2, (width + 1) // 2), 128, np.uint8)
    return [np.full((height, width), level, np.uint8), chroma, chroma]


COLOUR = np.array([200, 60, 120])
# The weights of red and blue in luma: BT.709, BT.601, untagged, BT.2020, SMPTE 240M.
WEIGHTS = {
    1: (0.2126, 0.0722),
    5: (0.299, 0.114),
    6: (0.299, 0.114),
    2: (0.299, 0.114),
    9: (0.2627, 0.0593),
    7: (0.212, 0.087),
}


def coded(colour, matrix, full, bits):
    """Y, Cb and Cr of an RGB colour (BT.709, 3 and 4; H.273)."""
    red, blue = WEIGHTS[matrix]
    r, g, b = np.asarray(colour) / 255
    y = red * r + (1 - red - blue) * g + blue * b
    cb, cr = (b - y) / (2 - 2 * blue), (r - y) / (2 - 2 * red)
    if full:
        top, middle = 2**bits - 1, 2 ** (bits - 1)
        return round(top * y), round(top * cb + middle), round(top * cr + middle)
    scale = 2 ** (bits - 8)
    return tuple(round(scale * v) for v in (16 + 219 * y, 128 + 224 * cb, 128 + 224 * cr))


@pytest.mark.parametrize(
    ("pix_fmt", "bits"), [("yuv420p", 8), ("yuv422p10le", 10), ("yuv444p12le", 12)]
)
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("matrix", WEIGHTS)
def test_matrices_and_ranges(tmp_path, matrix, full, pix_fmt, bits):
    half_height, half_width = pix_fmt[3:6] == "420", pix_fmt[3:6] != "444"
    kind = np.uint8 if bits == 8 else np.uint16
    y, cb, cr = coded(COLOUR, matrix, full, bits)
    chroma = (32 >> half_height, 48 >> half_width)
    planes = [np.full((32, 48), y, kind), np.full(chroma, cb, kind), np.full(chroma, cr, kind)]
    tags = {"colorspace": matrix, "color_range": 2 if full else 1}
    path = store(tmp_path / "a.mkv", [planes], pix_fmt, **tags)
    for size in (16, 32, 64):
        frame = read_all(path, View(1, size))[0].astype(int)
        assert abs(frame - COLOUR[:, None, None]).max() <= 4, (size, frame[:, 0, 0])


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv422p", "yuv444p"])
def test_colours_are_as_sharp_as_the_small_picture(tmp_path, pix_fmt):
    """Each of its columns has a colour of its own."""
    colours = [(255, 255, 255), (200, 60, 120), (40, 180, 90), (30, 60, 220)] * 4
    columns = np.array([coded(colour, 2, False, 8) for colour in colours], np.uint8).repeat(8, 0)
    y, cb, cr = (np.tile(plane, (128, 1)) for plane in columns.T)
    rows, step = (2 if pix_fmt == "yuv420p" else 1), (1 if pix_fmt == "yuv444p" else 2)
    chroma = [np.ascontiguousarray(plane[::rows, ::step]) for plane in (cb, cr)]
    path = store(tmp_path / "a.mkv", [[y, *chroma]], pix_fmt)
    frame = read_all(path, View(1, 16))[0].astype(int)
    assert abs(frame - np.array(colours).T[:, None]).max() <= 3


def planes_of(pix_fmt):
    """One colour in many forms of storage, and the RGB that it is."""
    r, g, b = (np.full((32, 32), value, np.uint8) for value in COLOUR)
    alpha = np.full((32, 32), 128, np.uint8)
    y, cb, cr = (np.full((32, 32), v, np.uint8) for v in coded(COLOUR, 2, False, 8))
    ten = [np.round(p / 255 * 1023).astype(np.uint16) for p in (g, b, r)]
    sixteen = np.stack([r, g, b, alpha], -1).astype(np.uint16) * 257
    dimmed = COLOUR * 128 / 255
    return {
        "gray": ([y], [round((int(y[0, 0]) - 16) * 255 / 219)] * 3),
        "gray10le": ([y.astype(np.uint16) * 4], [round((int(y[0, 0]) - 16) * 255 / 219)] * 3),
        "gbrp10le": (ten, COLOUR),
        "bgra": ([np.stack([b, g, r, alpha], -1)], dimmed),
        "rgba64le": ([sixteen], dimmed),
        "yuva420p": ([y, cb[::2, ::2], cr[::2, ::2], alpha], dimmed),
        "yuv410p": ([y, cb[::4, ::4], cr[::4, ::4]], COLOUR),
        "yuv444p16le": ([p.astype(np.uint16) * 256 for p in (y, cb, cr)], COLOUR),
    }[pix_fmt]


@pytest.mark.parametrize(
    "pix_fmt",
    ["gray", "gray10le", "gbrp10le", "bgra", "rgba64le", "yuva420p", "yuv410p", "yuv444p16le"],
)
def test_forms_of_storage(tmp_path, pix_fmt):
    planes, expected = planes_of(pix_fmt)
    path = store(tmp_path / "a.mkv", [planes] * 2, pix_fmt)
    for size in (16, 32):
        frame = read_all(path, View(1, size))[0].astype(int)
        assert abs(frame - np.asarray(expected)[:, None, None]).max() <= 4, frame[:, 0, 0]


@pytest.mark.parametrize(
    ("codec", "pix_fmt"), [("qtrle", "argb"), ("png", "rgba"), ("png", "pal8")]
)
def test_videos_with_alpha_or_a_palette(tmp_path, codec, pix_fmt):
    path = tmp_path / "a.mov"
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=25)
        stream.codec_context.width = stream.codec_context.height = 32
        stream.codec_context.pix_fmt = pix_fmt
        if pix_fmt == "pal8":
            frame = av.VideoFrame.from_ndarray(
                (
                    np.full((32, 32), 3, np.uint8),
                    np.tile([[255, *COLOUR]], (256, 1)).astype(np.uint8),
                ),
                format="pal8",
            )
        else:
            pixels = np.tile(np.array([*COLOUR, 128], np.uint8), (32, 32, 1))
            frame = av.VideoFrame.from_ndarray(pixels, format="rgba").reformat(format=pix_fmt)
        frame.pts, frame.time_base = 0, Fraction(1, 25)
        out.mux(stream.encode(frame))
        out.mux(stream.encode())
    expected = COLOUR if pix_fmt == "pal8" else COLOUR * 128 / 255
    assert abs(read_all(path)[0] - np.asarray(expected)[:, None, None]).max() <= 2


# Animations and pictures of several pages.

PICTURES = [Image.new("RGB", (20, 16), (25 * i, 0, 255 - 25 * i)) for i in range(7)]


def animation(path, kind, durations, **options):
    given = {} if durations is None else {"duration": durations}
    lossless = {"quality": 100} if kind == "AVIF" else {"lossless": True}
    PICTURES[0].save(
        path, kind, save_all=True, append_images=PICTURES[1:], **lossless, **given, **options
    )
    return path


def shown(path, view):
    """The numbers of the pictures."""
    red = read_all(path, view)[:, 0].mean((1, 2))
    return np.round(red / 25).astype(int).tolist()


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "AVIF"])
def test_animations_of_uneven_times(tmp_path, kind):
    """A title of 0.4 s, and six pictures of 0.1 s: seven in a second."""
    path = animation(tmp_path / "a", kind, [400] + [100] * 6)
    info = probe(str(path))
    assert (info.kind, info.frames) == ("video", 7) and abs(info.fps - 7) < 1e-6
    assert shown(path, ALL) == list(range(7))
    assert shown(path, View(1, 16, rate=10.0)) == [0, 0, 0, 0, 1, 2, 3, 4, 5, 6]
    # Every second of seven in a second, and half of a seventh later: 71, 357, 643 and 929 ms.
    assert shown(path, View(2, 16)) == [0, 0, 3, 6]
    clip = read_clip(str(path), 2, 2, View(2, 16))
    assert np.array_equal(clip, read_all(path, View(2, 16))[2:])


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_animations_without_times(tmp_path, kind):
    """As browsers show them: ten pictures a second."""
    path = animation(tmp_path / "a", kind, None if kind == "GIF" else 0)
    assert probe(str(path)).fps == 10
    assert shown(path, View(3, 16)) == [0, 3, 6]


def test_the_still_picture_of_an_animated_png_is_no_part_of_it(tmp_path):
    path = animation(tmp_path / "a", "PNG", 100, default_image=True)
    assert probe(str(path)).frames == 6
    assert shown(path, View(1, 16)) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_a_broken_animation_says_where(tmp_path, kind):
    rng = np.random.default_rng(0)
    noise = [Image.fromarray(rng.integers(0, 255, (64, 64, 3), np.uint8)) for _ in range(9)]
    path = tmp_path / "a"
    noise[0].save(path, kind, save_all=True, append_images=noise[1:], duration=40)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])
    with pytest.raises(MediaError, match="truncated or corrupt"):
        read_all(path)


@pytest.mark.parametrize("kind", ["TIFF", "MPO"])
def test_the_first_of_several_pages(tmp_path, kind):
    path = tmp_path / "a"
    PICTURES[2].save(path, kind, save_all=True, append_images=PICTURES[3:])
    assert probe(str(path)).kind == "image"
    assert shown(path, ALL) == [2]


# Where files are.


def test_numbered_frames_of_an_archive_and_a_url(tmp_path):
    files = fsspec.filesystem("memory")
    pictures = moving(12, 16, 16)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for i, picture in enumerate(pictures):
            buffer = io.BytesIO()
            Image.fromarray(picture).save(buffer, "PNG")
            archive.writestr(f"clip/img_{i + 1}.png", buffer.getvalue())
            files.pipe(f"/numbered/clip/img_{i + 1}.png", buffer.getvalue())
        archive.writestr("clip/below/img_1.png", b"")
        archive.writestr("clip/notes.txt", b"")
    expected = pictures[::4].transpose(0, 3, 1, 2)
    for folder in ("memory://numbered/clip", f"zip://clip::{tmp_path}/a.zip"):
        place = Location(folder, "frames", fps=10.0)
        assert probe(place).frames == 12
        assert np.array_equal(np.concatenate(list(read_frames(place, View(4, 16)))), expected)
        with pytest.raises(MediaError, match=r"^no such folder$"):
            probe(Location(folder.replace("clip", "none"), "frames"))
    files.rm("/numbered", recursive=True)


def test_a_mapped_table_whose_mount_is_gone(tmp_path):
    """Reading it ends in SIGBUS: the machine's fault, which of a video would be the file's."""
    table = pa.table({"image": [encode(tmp_path / "a.mp4", moving(3)).read_bytes()]})
    with pa.ipc.new_stream(tmp_path / "table", table.schema) as writer:
        writer.write_table(table)
    os.mkfifo(tmp_path / "fifo")
    part = "row:0:image"
    with DecodePool(ALL, 1) as pool:
        whole = Task(Location(str(tmp_path / "table"), part))
        *_, (_, end) = pool.stream([whole])
        assert isinstance(end, End)
        victim = pool._workers[0].process.pid
        timer = threading.Timer(0.5, os.kill, (victim, signal.SIGBUS))
        timer.start()
        with pytest.raises(OSError, match="is its mount gone"):
            list(pool.stream([Task(Location(str(tmp_path / "fifo"), part)), whole]))
        timer.join()
        *_, (_, end) = pool.stream([whole])
        assert isinstance(end, End)
