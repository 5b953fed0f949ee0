import io
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.tiny import make_images, make_videos, pictures, save_tokenizer
from toto.config import read_json
from toto.errors import UserError
from toto.media.sources import read_sources
from toto.studies.jpeg import jpeg_within
from toto.studies.tokenizers import Evaluation, evaluate, ssim
from toto.tokenizers.base import load_tokenizer

SIDE, IMAGES = 32, 13


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Two tokenizers, and pictures of the very size that they are shown."""
    folder = tmp_path_factory.mktemp("evaluation")
    for seed in (0, 1):
        save_tokenizer(folder / f"tokenizer{seed}", seed)
    make_images(folder / "images", IMAGES, side=SIDE)
    return folder


@pytest.fixture(scope="module")
def result(folder) -> Evaluation:
    tokenizers = [folder / "tokenizer0", folder / "tokenizer1"]
    items = read_sources([str(folder / "images")])
    return evaluate(tokenizers, items, folder / "out", size=SIDE, batch=5, workers=0)


@pytest.fixture(scope="module")
def frames(folder) -> np.ndarray:
    """As Pillow reads them, which is without loss."""
    paths = sorted((folder / "images").iterdir())
    return np.stack([np.asarray(Image.open(path)).transpose(2, 0, 1) for path in paths])


def psnr_by_hand(frames: np.ndarray, made: np.ndarray) -> float:
    errors = np.square(frames.astype(float) - made).mean((1, 2, 3))
    return float(np.mean(20 * np.log10(255) - 10 * np.log10(errors)))


def ssim_by_hand(frame: np.ndarray, made: np.ndarray) -> float:
    """Wang et al. 2004, equation 13, wherever the window of 11 pixels fits."""
    x = np.arange(-5, 6)
    window = np.exp(-(x[:, None] ** 2 + x**2) / (2 * 1.5**2))
    window /= window.sum()

    def local(values: np.ndarray) -> np.ndarray:
        views = np.lib.stride_tricks.sliding_window_view(values, (11, 11), (1, 2))
        return (views * window).sum((-1, -2))

    one, two = frame.astype(float), made.astype(float)
    mean_one, mean_two = local(one), local(two)
    var_one, var_two = local(one**2) - mean_one**2, local(two**2) - mean_two**2
    covariance = local(one * two) - mean_one * mean_two
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    above = (2 * mean_one * mean_two + c1) * (2 * covariance + c2)
    return float((above / ((mean_one**2 + mean_two**2 + c1) * (var_one + var_two + c2))).mean())


def test_ssim_is_that_of_the_formula():
    rng = np.random.default_rng(0)
    frames = pictures(4, 24, 0)
    made = np.clip(
        frames + rng.normal(0, [[[[1]]], [[[10]]], [[[40]]], [[[90]]]], frames.shape), 0, 255
    )
    made = made.astype(np.uint8)
    found = ssim(torch.from_numpy(frames), torch.from_numpy(made)).tolist()
    assert found == pytest.approx(
        [ssim_by_hand(*pair) for pair in zip(frames, made, strict=True)], abs=1e-4
    )
    assert found == sorted(found, reverse=True) and found[0] > 0.98


def test_figures_are_those_of_each_tokenizer_by_hand(folder, result, frames):
    assert (result.frames, result.size, result.device) == (IMAGES, SIDE, "cpu")
    for one in result.tokenizers:
        tokenizer = load_tokenizer(Path(one.tokenizer))
        codes = tokenizer.encode(torch.from_numpy(frames))
        made = tokenizer.decode(codes).numpy()
        counts = Counter(codes.flatten().tolist())
        shares = [n / codes.numel() for n in counts.values()]
        entropy = -sum(share * math.log2(share) for share in shares)
        assert one.fingerprint == tokenizer.fingerprint
        assert (one.codebook_size, one.used, one.dead) == (30, len(counts), 30 - len(counts))
        assert one.perplexity == pytest.approx(2**entropy)
        assert one.quality.bits == pytest.approx(8 * 8 * math.log2(30))
        assert one.entropy_coded == pytest.approx(8 * 8 * entropy)
        assert one.quality.psnr == pytest.approx(psnr_by_hand(frames, made), rel=1e-5)
        similar = np.mean([ssim_by_hand(*pair) for pair in zip(frames, made, strict=True)])
        assert one.quality.ssim == pytest.approx(similar, abs=1e-4)
        assert one.encoded_per_second > 0 and one.decoded_per_second > 0
    assert len({one.quality.psnr for one in result.tokenizers}) == 2

    plain = np.broadcast_to(frames.mean((2, 3), keepdims=True).round(), frames.shape)
    assert result.mean_colour.psnr == pytest.approx(psnr_by_hand(frames, plain), rel=1e-5)


def test_jpeg_of_the_same_bits_stands_beside_each(result, frames):
    one, two = (one.jpeg for one in result.tokenizers)
    made = [jpeg_within(frame, math.floor(64 * math.log2(30))) for frame in frames]
    assert one == two and one is not None
    assert one.bits == pytest.approx(np.mean([bits for _, bits in made])) and one.bits <= 314
    pixels = np.stack([picture for picture, _ in made])
    assert one.psnr == pytest.approx(psnr_by_hand(frames, pixels), rel=1e-5)


def test_what_is_written(folder, result, frames):
    said = read_json(folder / "out" / "tokenizers.json", "an evaluation")
    assert [one["used"] for one in said["tokenizers"]] == [one.used for one in result.tokenizers]
    lines = result.text().splitlines()
    assert lines[0] == "13 frames of 32 px, on cpu" and len(lines) == 2 + 1 + 2 * 2
    assert f"{result.tokenizers[1].quality.psnr:.2f}" in lines[5]
    sheet = np.asarray(Image.open(folder / "out" / "reconstructions.png"))
    assert sheet.shape == (4 * (16 + SIDE + 2), 10 * (SIDE + 2), 3)  # frames, two, one JPEG
    shown = {frame.tobytes() for frame in frames}
    for x in range(0, sheet.shape[1], SIDE + 2):
        picture = sheet[16 : 16 + SIDE, x : x + SIDE].transpose(2, 0, 1)
        assert picture.tobytes() in shown


def test_frames_are_those_asked_for(folder, tmp_path):
    make_videos(tmp_path / "videos", (40, 80), side=SIDE)
    items = read_sources([str(tmp_path / "videos")])
    found = evaluate([folder / "tokenizer0"], items, None, 9, SIDE, workers=0)
    assert found.frames == 9
    assert [*tmp_path.iterdir()] == [tmp_path / "videos"]


def test_codes_in_another_precision_stand_beside(folder, frames):
    tokenizers = [folder / "tokenizer0", folder / "tokenizer1"]
    items = read_sources([str(folder / "images")])
    found = evaluate(tokenizers, items, None, size=SIDE, workers=0, precisions=("fp32", "bf16"))
    for i, one in enumerate(tokenizers):
        exact, rough = found.tokenizers[2 * i : 2 * i + 2]
        assert (exact.tokenizer, exact.same_codes) == (f"{one}, fp32", 1.0)
        codes = [
            load_tokenizer(one, precision=precision).encode(torch.from_numpy(frames))
            for precision in ("fp32", "bf16")
        ]
        assert rough.tokenizer == f"{one}, bf16"
        assert rough.same_codes == pytest.approx(float((codes[0] == codes[1]).float().mean()))
        assert 0.5 < rough.same_codes < 1
        assert rough.fingerprint != exact.fingerprint
    assert "same codes" in found.text() and "100.000%" in found.text()
    assert [
        one.same_codes
        for one in evaluate(tokenizers[:1], items, None, size=SIDE, workers=0).tokenizers
    ] == [None]


def test_what_cannot_be_evaluated(folder):
    items = read_sources([str(folder / "images")])
    for folders, size, said in (
        ([], SIDE, "no tokenizer"),
        ([folder / "images"], SIDE, "is not a tokenizer"),
        ([folder / "tokenizer0"], 33, "frames of 33x33: this tokenizer needs multiples of 4"),
        ([folder / "tokenizer0"], 8, "size 8: at least 16"),
    ):
        with pytest.raises(UserError, match=said):
            evaluate(folders, items, None, size=size, workers=0)


def segments(data: bytes) -> int:
    """Bytes of a JPEG file up to its coefficients, marker by marker (ITU T.81, annex B)."""
    at = 2
    while True:
        assert data[at] == 0xFF
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4])
        at += 2 + length
        if marker == 0xDA:
            return at


def natural() -> np.ndarray:
    """A frame with large and small structure."""
    x, y = np.meshgrid(np.linspace(0, 1, 64), np.linspace(0, 1, 64))
    channels = [np.sin(9 * x + c) * np.cos(7 * y * x) + 0.3 * np.sin(60 * x * y) for c in range(3)]
    return np.clip(127 + 90 * np.stack(channels), 0, 255).astype(np.uint8)


def test_jpeg_makes_the_most_of_its_bits():
    frame = natural()
    errors = []
    for bits in (100, 300, 1000, 3000, 10000):
        made, taken = jpeg_within(frame, bits)
        assert taken <= bits
        errors.append(float(np.square(frame.astype(float) - made).mean()))
    assert errors == sorted(errors, reverse=True) and errors[0] > 4 * errors[-1]
    assert jpeg_within(frame, 8) is None


def test_with_bits_enough_jpeg_is_pillows_best():
    frame, file = natural(), io.BytesIO()
    Image.fromarray(frame.transpose(1, 2, 0)).save(file, "JPEG", quality=95)
    made, taken = jpeg_within(frame, 10**9)
    assert taken == 8 * (len(file.getvalue()) - segments(file.getvalue()) - 2)
    assert (made.transpose(1, 2, 0) == np.asarray(Image.open(file))).all()
