"""Small tokenizers, media and data sets, made on the spot."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from toto.media.sources import read_sources
from toto.media.view import View
from toto.media.write import write_video
from toto.models.llama import Llama
from toto.models.saved import save_model
from toto.models.sizes import LlamaSize
from toto.tokenizers.dvae import DVAE
from toto.tokenizers.patches import Patches
from toto.tokenizers.sizes import DVAESize, PatchesSize
from toto.tokens.config import Ingest
from toto.tokens.ingest import ingest
from toto.tokens.store import TokenDataset
from toto.tokens.vocabulary import Vocabulary

DVAE_SIZE = DVAESize(codebook_size=30, width=8, groups=2, blocks=1, decoder_input=8, patch=2)


def tokenizer(seed: int = 0, size: DVAESize = DVAE_SIZE) -> DVAE:
    """A random dVAE of 4 pixels a code."""
    torch.manual_seed(seed)
    return DVAE(size).eval().requires_grad_(False)


def save_tokenizer(folder: Path, seed: int = 0) -> Path:
    tokenizer(seed).save(folder)
    return folder


def pictures(count: int, side: int, seed: int) -> np.ndarray:
    """A coarse random pattern that moves: `(count, 3, side, side)`."""
    rng = np.random.default_rng(seed)
    pattern = rng.integers(0, 256, (3, side // 2, side // 2), np.uint8).repeat(2, 1).repeat(2, 2)
    return np.stack([np.roll(pattern, (i, 2 * i), (1, 2)) for i in range(count)])


def make_videos(
    folder: Path, lengths: Sequence[int], side: int = 16, seed: int = 0, width: int = 0
) -> Path:
    """One MP4 for each length in frames."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, length in enumerate(lengths):
        frames = pictures(length, max(side, width), 1000 * seed + i)[:, :, :side]
        write_video(folder / f"video{i:03d}.mp4", frames, fps=25)
    return folder


def make_images(folder: Path, count: int, side: int = 16, seed: int = 0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        pixels = pictures(1, side, 1000 * seed + i + 500)[0].transpose(1, 2, 0)
        Image.fromarray(np.ascontiguousarray(pixels)).save(folder / f"image{i:03d}.png")
    return folder


def make_dataset(
    source: Path, tokenizer_folder: Path, out: Path, side: int = 8, **settings: int
) -> TokenDataset:
    """The data set of a source: frames of `side` pixels, so 2x2 codes, stride 1."""
    items = read_sources([str(source)])
    how = Ingest(View(stride=1, size=side), **settings)
    return ingest(items, tokenizer_folder, out, how, command="toto tokenize", workers=0)


def save_model_of(tokenizer_folder: Path, side: int, folder: Path) -> Path:
    """A random model of four frames of `side` pixels, videos or images, and two blocks."""
    visual = DVAE.load(tokenizer_folder)
    grid = side // visual.downsample
    vocabulary = Vocabulary(visual.codebook_size, grid, grid)
    torch.manual_seed(3)
    size = LlamaSize(width=16, layers=2, heads=2, mlp_width=24, init_std=0.4)
    details = {
        "vocabulary": vocabulary.to_dict(),
        "frames": 4,
        "kinds": ["image", "video"],
        "view": {"stride": 1, "size": side},
        "tokenizer": visual.fingerprint,
    }
    save_model(Llama(size, vocabulary.size), details, tokenizer_folder, folder)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """The bytes of all files below."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


def save_patches(folder: Path, patch: int = 4) -> Path:
    Patches(PatchesSize(patch=patch)).save(folder)
    return folder
