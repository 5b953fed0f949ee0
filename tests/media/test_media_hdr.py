"""HDR against values of the standards."""

from fractions import Fraction

import av
import numpy as np
import pytest

from toto.media.hdr import hlg_light, pq_light, to_standard_range
from toto.media.video import read_frames
from toto.media.view import View


def test_light_of_code_values():
    """BT.2408, table 1: signal levels of reference white, 18 % grey and the peak."""
    assert abs(pq_light(np.array([0.5806])) - 203).max() < 1
    assert abs(pq_light(np.array([0.0, 0.3768, 0.7518, 1.0])) - [0, 26, 1000, 10000]).max() < 2
    grey = np.array([[0.75] * 3, [0.38] * 3, [1.0] * 3])
    assert abs(hlg_light(grey)[:, 0] - [203, 26, 1000]).max() < 1


def test_tone_curve():
    codes = np.linspace(0, 0.7518, 64)
    grey = np.repeat((codes * 65535).round().astype(np.uint16)[None, :, None], 3, 2)
    levels = to_standard_range(grey, is_hlg=False)[0].astype(int)
    assert (np.diff(levels[:, 1]) >= 0).all() and np.ptp(levels, axis=1).max() <= 1
    assert levels[0, 1] == 0 and levels[-1, 1] >= 254


@pytest.mark.parametrize(("trc", "code"), [(16, 0.5806), (18, 0.75)])
def test_video(tmp_path, trc, code):
    """Reference white of both systems becomes the same light grey, whatever the container."""
    path = tmp_path / "hdr.mp4"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx265", rate=25, options={"x265-params": "log-level=none"})
        context = stream.codec_context
        context.width = context.height = 64
        context.pix_fmt = "yuv420p10le"
        context.color_trc, context.colorspace, context.color_primaries = trc, 9, 9
        for i in range(3):
            planes = np.full(64 * 64 * 3 // 2, 512, np.uint16)
            planes[: 64 * 64] = round(64 + 876 * code)
            frame = av.VideoFrame.from_ndarray(planes.reshape(96, 64), format="yuv420p10le")
            frame.pts, frame.time_base = i, Fraction(1, 25)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    (frames,) = read_frames(str(path), View(1, 32))
    assert frames.shape == (3, 3, 32, 32)
    # Light 1.0 through the curve: (1 + 1 / 4.93^2) / 2 = 0.52, which is sRGB 191.
    assert abs(frames.astype(int) - 191).max() <= 2
