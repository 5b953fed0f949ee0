"""Probes of a model of patches: the same command as for codes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.tasks.test_recognition import CLASSES, TRAINING
from tests.tiny import make_dataset, save_patches
from toto.models.patches import PatchLlama
from toto.models.sizes import LlamaSize
from toto.probing.clips import probe_splits
from toto.probing.encoder import TrainedEncoder
from toto.tasks.question import Question
from toto.tasks.recognition import recognise
from toto.tokens.patches import patchify
from toto.tokens.store import TokenDataset


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> TokenDataset:
    """Pictures of noise on six colours, in folders by split and class."""
    folder = tmp_path_factory.mktemp("pixels")
    random = np.random.default_rng(0)
    for name in CLASSES:
        colour = np.array(Image.new("RGB", (8, 8), name), np.int64)
        for split, count in (("train", 24), ("val", 6)):
            (folder / "source" / split / name).mkdir(parents=True)
            for i in range(count):
                noisy = (colour + random.integers(-30, 31, (8, 8, 3))).clip(0, 255)
                path: Path = folder / "source" / split / name / f"{i}.png"
                Image.fromarray(noisy.astype(np.uint8)).save(path)
    return make_dataset(folder / "source", save_patches(folder / "patches"), folder / "data")


def test_an_image_is_its_start_and_its_patches(data):
    train, _, _, _ = probe_splits(data, 0.3, 1, "image")
    clips = train.middle()
    sequences = clips.inputs()
    assert sequences.shape == (len(train), 1 + 4, 48)
    for patches, item in zip(sequences.numpy(), clips.items, strict=True):
        assert set(patches[0]) == {3}
        assert (patches[1:] == patchify(data.codes(item), 4)[0]).all()


def test_images_are_recognised(data, tmp_path):
    torch.manual_seed(0)
    size = LlamaSize(width=16, layers=2, heads=2, mlp_width=24, init_std=0.2)
    model = PatchLlama(size, 4).eval().requires_grad_(False)
    training = replace(TRAINING, probes=("mean",))
    result = recognise(
        Question(TrainedEncoder(model), data, "image", 1, training), tmp_path / "out"
    )
    assert result.accuracy > 0.8 > result.chance == pytest.approx(1 / 6)
