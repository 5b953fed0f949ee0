import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import toto
from tests.tiny import contents, make_dataset, make_videos, pictures, save_tokenizer
from toto.errors import UserError
from toto.media.view import View
from toto.tokens.store import TokenDataset
from toto.training.adopt import adopt

FRAMES, FRAME = 4, 4  # frames of 2x2 codes


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A data set, and a LLaMA that was trained on its tokens by a loop of somebody else's."""
    folder = tmp_path_factory.mktemp("adopt")
    save_tokenizer(folder / "tokenizer")
    data = make_dataset(make_videos(folder / "videos", [20]), folder / "tokenizer", folder / "data")
    train_elsewhere(data, folder / "theirs", rows=128)
    return folder


def train_elsewhere(data: TokenDataset, folder: Path, rows: int) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=rows,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=FRAMES * FRAME,
    )
    model = LlamaForCausalLM(config)
    codes = np.load(data.folder / "shards" / "00000.npy").astype(np.int64) + 4
    clips = torch.from_numpy(codes[:20].reshape(-1, FRAMES * FRAME))
    tokens = torch.cat((torch.ones(len(clips), 1, dtype=torch.long), clips), 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(30):
        model(tokens, labels=tokens).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert model(tokens, labels=tokens).loss < 1.5
    model.eval().save_pretrained(folder)
    return model


@torch.no_grad()
def test_a_model_that_was_trained_elsewhere_reads_videos(folder, tmp_path):
    adopt(folder / "theirs", folder / "data", tmp_path / "model", FRAMES)
    model = toto.load(tmp_path / "model", "cpu")
    assert (model.frames, model.view) == (FRAMES, View(stride=1, size=8))
    theirs = LlamaForCausalLM.from_pretrained(folder / "theirs")
    frames = pictures(FRAMES, 8, seed=3)
    codes = 4 + model.tokenize(frames).reshape(1, -1)
    tokens = torch.cat((torch.ones(1, 1, dtype=torch.long), codes), 1)
    output = theirs(tokens, output_hidden_states=True)
    torch.testing.assert_close(model.model(tokens), output.logits, atol=1e-4, rtol=0.0)
    hidden = model.features(frames)[1]
    torch.testing.assert_close(hidden, output.hidden_states[1][0, 1:], atol=1e-4, rtol=0.0)
    assert model.predict(frames, frames=3).shape == (3, 3, 8, 8)


def test_a_table_of_any_height_that_holds_the_codes(folder, tmp_path):
    theirs = train_elsewhere(TokenDataset(folder / "data"), tmp_path / "theirs", rows=34)
    adopt(tmp_path / "theirs", folder / "data", tmp_path / "model", FRAMES)
    model = toto.load(tmp_path / "model", "cpu")
    tokens = torch.arange(34)[None]
    expected = theirs(tokens).logits.detach()
    torch.testing.assert_close(model.model(tokens), expected, atol=1e-4, rtol=0.0)
    assert model.predict(pictures(FRAMES, 8, seed=3), frames=3).shape == (3, 3, 8, 8)


def test_what_does_not_fit_is_refused(folder, tmp_path):
    small = tmp_path / "small"
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=33,
            hidden_size=8,
            intermediate_size=8,
            num_hidden_layers=1,
            num_attention_heads=1,
        )
    ).save_pretrained(small)
    theirs, data, out = folder / "theirs", folder / "data", tmp_path / "out"
    with pytest.raises(UserError, match=r"small has a table of 33 rows .* 30 codes .* take 34"):
        adopt(small, data, out, FRAMES)
    with pytest.raises(UserError, match=r"theirs reads 16 positions .* 5 frames of 2x2 .* 20"):
        adopt(theirs, data, out, 5)
    with pytest.raises(UserError, match="frames 0: at least 1"):
        adopt(theirs, data, out, 0)
    with pytest.raises(UserError, match="not a saved model"):
        adopt(tmp_path, data, out, FRAMES)
    with pytest.raises(UserError, match="token data set"):
        adopt(theirs, tmp_path, out, FRAMES)
    assert not out.exists()


def test_neither_another_tokenizer_nor_another_folder_is_overruled(folder, tmp_path):
    adopt(folder / "theirs", folder / "data", tmp_path / "model", FRAMES)
    before = contents(tmp_path / "model")
    with pytest.raises(UserError, match="model exists: choose another folder"):
        adopt(folder / "theirs", folder / "data", tmp_path / "model", FRAMES)
    # With `toto` kept but the tokenizer lost, as transformers writes it, it can be adopted again.
    shutil.copytree(tmp_path / "model", tmp_path / "lost")
    shutil.rmtree(tmp_path / "lost" / "tokenizer")
    adopt(tmp_path / "lost", folder / "data", tmp_path / "found", FRAMES)
    assert contents(tmp_path / "found") == contents(tmp_path / "model") == before
    save_tokenizer(tmp_path / "other tokenizer", seed=1)
    videos = make_videos(tmp_path / "videos", [8])
    other = make_dataset(videos, tmp_path / "other tokenizer", tmp_path / "other")
    with pytest.raises(UserError, match=f"tokenizer .*, .* has {other.info.tokenizer}"):
        adopt(tmp_path / "model", other.folder, tmp_path / "third", FRAMES)
