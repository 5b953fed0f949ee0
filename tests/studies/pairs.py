"""Items as codes and as pixels, and a model of the codes."""

from pathlib import Path

import torch

from tests.tiny import make_dataset, save_tokenizer
from toto.api import Toto
from toto.models.llama import Llama
from toto.models.saved import save_model
from toto.models.sizes import LlamaSize
from toto.tokenizers.patches import Patches
from toto.tokenizers.sizes import PatchesSize
from toto.tokens.store import TokenDataset
from toto.training.adopt import details_of


def pair(folder: Path) -> tuple[TokenDataset, TokenDataset]:
    """The items of folder/source as codes and as pixels."""
    Patches(PatchesSize(patch=4)).save(folder / "patches")
    codes = make_dataset(folder / "source", save_tokenizer(folder / "tokenizer"), folder / "codes")
    return codes, make_dataset(folder / "source", folder / "patches", folder / "pixels")


def load(dataset: TokenDataset, frames: int) -> Toto:
    torch.manual_seed(0)
    size = LlamaSize(width=8, layers=2, heads=2, mlp_width=12, init_std=0.3)
    model = Llama(size, dataset.vocabulary.size)
    folder = dataset.folder.parent / "model"
    save_model(model, details_of(dataset, frames), dataset.tokenizer_folder, folder)
    return Toto.load(folder, "cpu")
