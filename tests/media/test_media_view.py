import io

import numpy as np
import pytest
from media_files import moving
from PIL import Image, ImageOps

from toto.errors import MediaError, UserError
from toto.media.colour import check_pixels, square, to_rgb
from toto.media.file import MediaInfo
from toto.media.video import probe, read_frames
from toto.media.view import CENTRE, Limits, View


def read_image(tmp_path, image, size=32, **options):
    path = tmp_path / "image"
    image.save(path, **{"format": "PNG", **options})
    (frames,) = read_frames(str(path), View(size=size))
    return frames[0]


def plain(image, size):
    """Resize the whole picture, then crop: the long way."""
    width, height = (side * size // min(image.size) for side in image.size)
    whole = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - size) // 2, (height - size) // 2
    return np.asarray(whole.crop((left, top, left + size, top + size))).transpose(2, 0, 1)


@pytest.mark.parametrize(("width", "height"), [(96, 64), (64, 96), (32, 32), (100, 100), (16, 8)])
def test_square_is_pillow(width, height):
    image = Image.fromarray(moving(1, height, width)[0])
    assert np.array_equal(square(image, 32, CENTRE.box(*image.size)), plain(image, 32))


def test_square_of_large_pictures_is_close():
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 255, (32, 48, 3), np.uint8))
    image = small.resize((1152, 768), Image.Resampling.BICUBIC)
    difference = square(image, 128, CENTRE.box(*image.size)).astype(int) - plain(image, 128)
    assert 0 < abs(difference).max() <= 4


def test_view_refuses():
    for bad in ({"stride": 0}, {"size": -1}):
        with pytest.raises(UserError):
            View(**bad)
    for bad in ({"seconds": 0.0}, {"memory": -1.0}, {"memory": 1e12}, {"seconds": float("nan")}):
        with pytest.raises(UserError):
            Limits(**bad)
    with pytest.raises(MediaError, match=r"too large: 20000x20000 pixels, limit 134217728"):
        check_pixels(20000, 20000)


def test_modes(tmp_path):
    rgb = Image.fromarray(moving(1, 32, 32)[0])
    for mode in ("L", "P", "1"):
        image = rgb.convert(mode)
        assert np.array_equal(
            read_image(tmp_path, image), np.asarray(image.convert("RGB")).transpose(2, 0, 1)
        )
    cmyk = read_image(tmp_path, rgb.convert("CMYK"), format="JPEG", quality=100).astype(int)
    assert abs(cmyk - np.asarray(rgb).transpose(2, 0, 1)).mean() < 8


def test_alpha_is_over_black(tmp_path):
    colour = Image.new("RGBA", (32, 32), (200, 100, 50, 128))
    expected = np.array([200, 100, 50]) * 128 / 255
    assert abs(read_image(tmp_path, colour)[:, 0, 0] - expected).max() <= 1
    grey = Image.new("LA", (32, 32), (200, 0))
    assert not read_image(tmp_path, grey).any()
    transparent = Image.new("P", (32, 32), 0)
    transparent.putpalette([200, 100, 50])
    assert not read_image(tmp_path, transparent, transparency=0).any()


def test_sixteen_bits(tmp_path):
    wide = np.linspace(0, 65535, 32 * 32).round().astype(np.uint16).reshape(32, 32)
    for options in ({}, {"format": "TIFF"}, {"format": "PPM"}):
        pixels = read_image(tmp_path, Image.fromarray(wide), **options)
        assert np.array_equal(pixels[0], ((wide.astype(int) + 128) // 257))
    with pytest.raises(MediaError, match="floating-point"):
        read_image(tmp_path, Image.fromarray(wide.astype(np.float32)), format="TIFF")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(10))
def test_orientation(tmp_path, orientation, kind):
    image = Image.fromarray(moving(1, 48, 64)[0])
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    image.save(buffer, kind, exif=exif)
    (tmp_path / "image").write_bytes(buffer.getvalue())
    upright = ImageOps.exif_transpose(Image.open(buffer))
    info = probe(str(tmp_path / "image"))
    assert (info.width, info.height) == upright.size
    (frames,) = read_frames(str(tmp_path / "image"), View(size=48))
    assert (
        abs(frames[0].astype(int) - square(to_rgb(upright), 48, CENTRE.box(*upright.size))).max()
        <= 1
    )


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_animations(tmp_path, kind):
    pictures = [Image.fromarray(picture) for picture in moving(9, 32, 32)]
    path = tmp_path / "moving"
    pictures[0].save(
        path, kind, save_all=True, append_images=pictures[1:], duration=40, lossless=True
    )
    info = probe(str(path))
    assert (info.kind, info.frames) == ("video", 9)
    frames = np.concatenate(list(read_frames(str(path), View(stride=4, size=32))))
    expected = np.stack([np.asarray(p).transpose(2, 0, 1) for p in pictures[::4]])
    assert abs(frames.astype(int) - expected).mean() < (8 if kind == "GIF" else 0.01)


def test_still(tmp_path):
    path = tmp_path / "still.png"
    Image.new("RGB", (30, 20)).save(path)
    assert probe(str(path)) == MediaInfo("image", 30, 20, None, 1)
