import numpy as np
import pytest
from PIL import Image

from tests.studies.pairs import pair
from toto.tokens.store import TokenDataset


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> tuple[TokenDataset, TokenDataset]:
    """Noisy pictures of three colours."""
    folder = tmp_path_factory.mktemp("representations")
    random = np.random.default_rng(0)
    for split, count in (("train", 20), ("val", 8)):
        for name in ("black", "red", "white"):
            (folder / "source" / split / name).mkdir(parents=True)
            colour = np.array(Image.new("RGB", (8, 8), name), np.int64)
            for i in range(count):
                pixels = (colour + random.integers(-30, 31, (8, 8, 3))).clip(0, 255)
                path = folder / "source" / split / name / f"{i}.png"
                Image.fromarray(pixels.astype(np.uint8)).save(path)
    return pair(folder)
