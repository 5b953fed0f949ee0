import numpy as np
import pytest
import torch

from tests.tiny import make_images, save_tokenizer
from toto.errors import UserError
from toto.media.sources import read_sources
from toto.media.view import View
from toto.tokenizers.base import load_tokenizer
from toto.tokens.config import Ingest
from toto.tokens.ingest import ingest


def test_a_data_set_keeps_the_precision_of_its_codes(tmp_path):
    folder = save_tokenizer(tmp_path / "tokenizer")
    items = read_sources([str(make_images(tmp_path / "images", 40))])

    def codes(precision, tokenizer=folder):
        how = Ingest(View(stride=1, size=16), precision=precision)
        name = f"{tokenizer.parent.name}-{precision}"
        made = ingest(items, tokenizer, tmp_path / name, how, "toto tokenize", workers=0)
        assert made.info.tokenizer == load_tokenizer(made.tokenizer_folder).fingerprint
        return made, np.load(made.folder / "shards/00000.npy")

    exact, plain = codes("fp32")
    rough, rounded = codes("bf16")
    assert exact.info.tokenizer == load_tokenizer(folder).fingerprint
    assert exact.info.tokenizer != rough.info.tokenizer
    assert 0.9 < (plain == rounded).mean() < 1
    # The tokenizer of a data set goes on in its own precision, unless another is asked for.
    assert np.array_equal(codes(None, rough.tokenizer_folder)[1], rounded)
    assert np.array_equal(codes("fp32", rough.tokenizer_folder)[1], plain)
    frames = torch.randint(256, (2, 3, 16, 16), dtype=torch.uint8)
    assert load_tokenizer(rough.tokenizer_folder).encode(frames).shape == (2, 4, 4)
    with pytest.raises(UserError, match="precision fp32, not bf16"):
        how = Ingest(View(stride=1, size=16), precision="bf16")
        ingest(items, folder, exact.folder, how, "toto tokenize", workers=0)
