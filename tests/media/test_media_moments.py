"""Which frames are kept: against times that are known beforehand."""

from itertools import count

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from media_files import encode, moving
from PIL import Image

from toto.errors import MediaError, UserError
from toto.media.item import Location
from toto.media.picture import kept, moments, nominal_rate
from toto.media.video import open_media, probe, read_clip, read_frames
from toto.media.view import Place, View


def indices(times, view, fps=None, **segment):
    when = moments(view, Location("", **segment), fps)
    return list(kept(zip(times, count(), strict=False), when))


@given(
    fps=st.sampled_from([12.5, 23.976, 25.0, 29.97, 30.0, 59.94]),
    frames=st.integers(1, 400),
    stride=st.integers(1, 9),
    grid=st.sampled_from([1e-3, 1e-5, 1e-9]),
)
def test_even_times_are_every_strideth_frame(fps, frames, stride, grid):
    """Whatever the file's clock rounds to (Matroska counts milliseconds)."""
    times = [round(i / fps / grid) * grid for i in range(frames)]
    assert indices(times, View(stride), fps) == list(range(0, frames, stride))


@given(
    gaps=st.lists(st.floats(0.001, 3), min_size=1, max_size=80),
    stride=st.integers(1, 5),
    fps=st.floats(5, 60),
    rate=st.one_of(st.none(), st.floats(1, 60)),
    start=st.floats(0, 5),
    length=st.floats(0.1, 20),
)
def test_uneven_times_show_what_is_on_show(gaps, stride, fps, rate, start, length):
    times = [0.0, *np.cumsum(gaps)]
    found = indices(times, View(stride, rate=rate), fps, start=start, end=start + length)
    half, gap = 0.5 / fps, stride / (rate or fps)
    expected = []
    for n in count():
        moment = start + n * gap + half
        if moment >= min(start + length, times[-1] + 2 * half):
            break
        expected.append(int(np.searchsorted(times, moment, side="right")) - 1)
    assert [i for i in found if times[i] < start + length - 1e-6] == found
    assert found == expected


def test_rate_is_the_same_for_all_files():
    for fps in (24.0, 25.0, 30.0, 60.0):
        times = [i / fps for i in range(round(10 * fps))]
        found = indices(times, View(4, rate=30.0), fps)
        assert len(found) == 75
        assert max(abs(times[i] - n * 4 / 30) for n, i in enumerate(found)) <= 0.5 / fps + 1e-9


def test_clock_that_jumps_costs_no_day_of_repeats():
    for jump in (95443.7, 1e9):  # MPEG-TS begins anew after 2^33 ticks; a broken file anywhere
        times = [0.0, 0.04, 0.08, jump, jump + 0.04]
        assert len(indices(times, View(1), 25.0)) == 5 + 250 - 1


def test_rates_that_cannot_be():
    assert nominal_rate(Location(""), 90000.0) is None
    assert nominal_rate(Location("", fps=30.0), 90000.0) == 30.0
    assert indices([0, 1e-5, 2e-5], View(2)) == [0, 2]


def test_view_refuses():
    for bad in ({"rate": 0.0}, {"rate": 25.0, "step": "index"}, {"crops": -1}):
        with pytest.raises(UserError):
            View(**bad)


def test_variable_frame_rate(tmp_path):
    """Ten pictures in the first second, one that stands for the second one."""
    frames = moving(12, 32, 32)
    times = [*range(0, 1000, 100), 1000, 2000]
    path = encode(tmp_path / "a.mkv", frames, container="matroska", times=times)
    by_index = np.concatenate(list(read_frames(str(path), View(1, 32, "index"))))
    assert len(by_index) == 12
    at_ten = np.concatenate(list(read_frames(str(path), View(1, 32, rate=10.0))))
    assert np.array_equal(at_ten[:20], by_index[[*range(10), *[10] * 10]])
    clip = read_clip(str(path), 8, 5, View(1, 32, rate=10.0))
    assert np.array_equal(clip, at_ten[8:13])


def test_segments(tmp_path):
    path = str(encode(tmp_path / "a.mp4", moving(100), options={"g": "10"}))
    view = View(4, 16)
    whole = np.concatenate(list(read_frames(path, View(1, 16))))
    for start, end in ((0.0, 1.0), (1.0, 2.0), (0.52, 3.0), (2.0, None), (3.9, 4.5)):
        frames = list(read_frames(Location(path, start=start, end=end), view))
        first, last = round(start * 25), round(min(end or 4, 4) * 25)
        assert np.array_equal(np.concatenate(frames), whole[first:last:4])
    assert list(read_frames(Location(path, start=7.0), view)) == []


def test_random_places(tmp_path):
    path = str(encode(tmp_path / "a.mp4", moving(3, 48, 96), options={"crf": "1"}))
    turned = str(encode(tmp_path / "b.mp4", moving(3, 48, 96), options={"crf": "1"}, rotation=90))
    back = str(encode(tmp_path / "c.mp4", moving(3, 48, 96), options={"crf": "1"}, rotation=270))
    places = View(crops=5, seed=1).places(7)
    assert len(set(places)) == 5 and all(0 <= place.along < 1 for place in places)
    assert places == View(crops=5, seed=1).places(7)
    assert places != View(crops=5, seed=2).places(7) != View(crops=5, seed=2).places(8)
    squares = squares_of(path, (0.0, 0.25, 1.0))
    assert np.array_equal(squares[:, 0, ..., 12:], squares[:, 1, ..., :-12])
    # Places count along the upright picture: from its top, which was the right end, or the left.
    upright = np.rot90(squares, 1, axes=(3, 4))[:, ::-1]
    assert np.array_equal(squares_of(turned, (0.0, 0.75, 1.0)), upright)
    upright = np.rot90(squares, 3, axes=(3, 4))
    assert np.array_equal(squares_of(back, (0.0, 0.25, 1.0)), upright)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_places_of_turned_images(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(moving(1, 48, 96)[0])
    image.save(tmp_path / "a.png", exif=exif)
    info = probe(str(tmp_path / "a.png"))
    squares = squares_of(str(tmp_path / "a.png"), (0.0, 0.25, 1.0))[0]
    assert info.width > info.height or orientation > 4
    axis = 2 if info.width > info.height else 1
    first, second = (np.moveaxis(square, axis, -1) for square in squares[:2])
    assert np.array_equal(first[..., 12:], second[..., :-12])


def squares_of(path, places):
    with open_media(path) as media:
        return np.concatenate(list(media.chunks(View(1, 48), [Place(place) for place in places])))


def test_numbered_frames(tmp_path):
    folder = tmp_path / "clip"
    folder.mkdir()
    pictures = moving(12, 32, 40)
    for i, picture in enumerate(pictures):
        Image.fromarray(picture).save(folder / f"img_{i + 1}.png")  # 2 before 10
    (folder / "notes.txt").write_text("text")
    location = Location(str(folder), part="frames", fps=10.0)
    assert probe(location).fps == 10.0 and probe(location).frames == 12
    frames = np.concatenate(list(read_frames(location, View(4, 32))))
    assert np.array_equal(frames, pictures[::4, :, 4:36].transpose(0, 3, 1, 2))
    part = Location(str(folder), part="frames", fps=10.0, start=0.5)
    assert np.array_equal(read_clip(part, 1, 1, View(4, 32)), frames_at(pictures, 9))
    (folder / "img_5.png").write_bytes(b"text")
    assert len(np.concatenate(list(read_frames(location, View(3, 32))))) == 4
    with pytest.raises(MediaError, match=r"^img_5.png: not media"):
        list(read_frames(location, View(4, 32)))
    Image.fromarray(pictures[0]).save(folder / "other_7.png")
    with pytest.raises(MediaError, match="have one number"):
        probe(location)
    with pytest.raises(MediaError, match="no such folder"):
        probe(Location(str(tmp_path / "none"), part="frames"))


def frames_at(pictures, index):
    return pictures[index : index + 1, :, 4:36].transpose(0, 3, 1, 2)
