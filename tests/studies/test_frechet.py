"""Fréchet distances against the formula, written out with NumPy, and torchmetrics."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torchmetrics.image.fid import FrechetInceptionDistance

from tests.probing import encoders
from tests.tiny import make_images, save_tokenizer
from toto.config import read_json
from toto.errors import UserError
from toto.media.sources import read_sources
from toto.probing.baselines import load_baseline
from toto.studies.frechet import Frechet, frechet_distance, load_features
from toto.studies.tokenizers import evaluate

SIDE, FRAMES = 32, 60


class Network(nn.Module):
    """Called as Inception's TorchScript is, with as many features."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 2048, generator=torch.Generator().manual_seed(0)))

    def forward(self, frames: torch.Tensor, return_features: bool = False) -> torch.Tensor:
        means = frames.float().mean((2, 3)) @ self.weight / 255
        return means if return_features else means.softmax(1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("frechet")
    encoders.save("dinov2", folder)
    size = {"do_center_crop": True, "crop_size": {"height": 16, "width": 16}}
    (folder / "dinov2" / "preprocessor_config.json").write_text(json.dumps(size))
    torch.jit.script(Network()).save(folder / "inception.pt")
    return folder


def frames(seed: int, count: int = FRAMES) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randint(0, 256, (count, 3, 8, 8), generator=generator)
    return coarse.repeat_interleave(4, 2).repeat_interleave(4, 3).to(torch.uint8)


def by_hand(one: np.ndarray, two: np.ndarray) -> float:
    """Dowson and Landau 1982, of means and unbiased covariances."""

    def root(matrix: np.ndarray) -> np.ndarray:
        values, vectors = np.linalg.eigh(matrix)
        return (vectors * np.sqrt(values.clip(0))) @ vectors.T

    cov_one, cov_two = np.cov(one.T), np.cov(two.T)
    middle = root(root(cov_one) @ cov_two @ root(cov_one))
    means = np.square(one.mean(0) - two.mean(0)).sum()
    return float(means + np.trace(cov_one) + np.trace(cov_two) - 2 * np.trace(middle))


@pytest.mark.parametrize("counts", [(40, 50), (9, 30), (6, 7)])
def test_distance_of_features_is_that_of_torchmetrics(counts):
    rng = torch.Generator().manual_seed(0)
    mix = torch.randn(12, 12, generator=rng)
    one, two = (torch.randn(n, 12, generator=rng, dtype=torch.float32) for n in counts)
    two = two @ mix + 0.3
    identity = nn.Identity()
    identity.num_features = 12
    theirs = FrechetInceptionDistance(identity)
    theirs.update(one, real=True)
    theirs.update(two, real=False)
    found = frechet_distance(one, two)
    assert found == pytest.approx(float(theirs.compute()), rel=1e-4)
    assert found == pytest.approx(by_hand(one.double().numpy(), two.double().numpy()), rel=1e-4)
    assert frechet_distance(one, one) == pytest.approx(0, abs=1e-9)


@torch.no_grad()
def test_distance_is_that_of_the_formula(folder):
    name = f"dinov2:{folder / 'dinov2'}"
    real, made = frames(0), frames(1, 45) // 2
    encoder = load_baseline(name)
    features = [encoder.hidden_states(x[:, None], [3])[3].mean(1) for x in (real, made)]
    expected = by_hand(*(x.double().numpy() for x in features))
    distance = Frechet(load_features(name, "cpu"), real, 16)
    assert expected > 0.1 and distance(made) == pytest.approx(expected, rel=1e-4)
    # The real frames' features stay.
    assert distance(made[:30]) != pytest.approx(expected, rel=1e-4)
    assert distance(made) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("kind", ["dinov2", "inception"])
def test_the_same_is_at_no_distance_and_noise_is_farther_and_farther(folder, kind):
    name = {
        "dinov2": f"dinov2:{folder / 'dinov2'}",
        "inception": f"inception:{folder}/inception.pt",
    }
    real = frames(0)
    distance = Frechet(load_features(name[kind], "cpu"), real, 32)
    noise = torch.randn(real.shape, generator=torch.Generator().manual_seed(3))
    found = [
        distance((real + level * noise).round().clamp(0, 255).to(torch.uint8))
        for level in (0, 10, 30, 90)
    ]
    assert found[0] == pytest.approx(0, abs=1e-6)
    assert found == sorted(found) and found[1] < 0.5 * found[3]


def test_features_of_torchscript_are_asked_for_as_inceptions(folder):
    features = load_features(f"inception:{folder}/inception.pt", "cpu")
    some = frames(0, 3)
    torch.testing.assert_close(features(some), Network()(some, return_features=True))


def test_evaluation_has_distances_where_features_are(folder, tmp_path):
    save_tokenizer(tmp_path / "tokenizer")
    make_images(tmp_path / "images", 12, side=SIDE)
    items = read_sources([str(tmp_path / "images")])
    name = f"dinov2:{folder / 'dinov2'}"
    result = evaluate(
        [tmp_path / "tokenizer"], items, tmp_path / "out", size=SIDE, workers=0, features=name
    )
    of_one = result.tokenizers[0]
    qualities = [result.mean_colour, of_one.quality, of_one.jpeg]
    lines = result.text().splitlines()
    assert lines[0] == f"12 frames of 32 px, on cpu; Fréchet distances of {name}"
    assert lines[1].split()[:4] == ["PSNR", "SSIM", "Fréchet", "bits"]
    for quality, line in zip(qualities, lines[2:], strict=True):
        assert f"{quality.frechet:.3f}" in line.split() and quality.frechet > 0
    said = read_json(tmp_path / "out" / "tokenizers.json", "an evaluation")
    assert said["features"] == name
    assert said["tokenizers"][0]["quality"]["frechet"] == of_one.quality.frechet


def test_what_gives_no_features(folder, tmp_path):
    (tmp_path / "weights.pt").write_bytes(b"no archive")
    for name, said in (
        (f"inception:{tmp_path}/weights.pt", "holds no TorchScript"),
        (f"inception:{tmp_path}/none.pt", "no such file"),
        ("incepton:weights.pt", "unknown encoder"),
    ):
        with pytest.raises(UserError, match=said):
            load_features(name, "cpu")
    with pytest.raises(UserError, match="frames 1: a Fréchet distance needs at least 2"):
        Frechet(load_features(f"inception:{folder}/inception.pt", "cpu"), frames(0, 1), 8)
