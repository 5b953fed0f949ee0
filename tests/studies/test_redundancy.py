"""Losses by place against those of transformers, and of codes that are planted."""

import json

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from transformers import AutoModelForCausalLM

from tests.studies.pairs import load, pair
from tests.tiny import make_dataset, make_videos
from toto.errors import UserError
from toto.studies.redundancy import RedundancyResult, study_redundancy
from toto.studies.yardsticks import measure
from toto.tokens.mixture import in_validation
from toto.tokens.store import TokenDataset

FRAMES = 3


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> tuple[TokenDataset, TokenDataset]:
    """Thirty videos as codes and as pixels, some of them shorter than a clip."""
    folder = tmp_path_factory.mktemp("redundancy")
    make_videos(folder / "source", [3, 2] * 15)
    return pair(folder)


def test_losses_are_transformers_place_by_place(videos, tmp_path):
    codes, _ = videos
    model = load(codes, FRAMES)
    result = study_redundancy(model, codes, tmp_path / "out", fraction=0.4)
    theirs = AutoModelForCausalLM.from_pretrained(model.folder).eval()
    found = []
    for row in range(len(codes)):
        item = codes.item(row)
        if not in_validation(item.key, 0.4) or item.frames < FRAMES:
            continue
        clip = np.load(codes.folder / "shards/00000.npy")[item.first :][:FRAMES].astype(np.int64)
        tokens = torch.tensor([[1, *(clip.ravel() + 4).tolist()]])  # 1: a video begins
        with torch.no_grad():
            logits = theirs(tokens).logits[0, :-1]
        found.append(F.cross_entropy(logits, tokens[0, 1:], reduction="none").view(FRAMES, 2, 2))
    assert result.clips == len(found) > 3
    torch.testing.assert_close(torch.tensor(result.loss), torch.stack(found).mean(0))
    seen, measured = (
        [
            np.load(codes.folder / "shards/00000.npy")[item.first :][: item.frames]
            for item in map(codes.item, range(len(codes)))
            if in_validation(item.key, 0.4) == held_out
        ]
        for held_out in (False, True)
    )
    whole = [clip for clip in measured if len(clip) == FRAMES]
    from_second = measure(seen, whole, 30, 1)
    assert result.unigram[0] == pytest.approx(result.previous_frame[0])
    assert np.mean(result.unigram[1:]) == pytest.approx(from_second.unigram, rel=0.02)
    assert np.mean(result.previous_frame[1:]) == pytest.approx(from_second.previous_frame, rel=0.2)
    assert np.mean(result.unigram) == pytest.approx(measure(seen, whole, 30).unigram, rel=0.02)
    assert result.by_frame == pytest.approx(np.mean(result.loss, axis=(1, 2)))


def test_what_the_past_says():
    loss = np.full((4, 2, 2), 1.0)
    loss[0] = 3.0
    loss[1:, 0, 0] = 2.0
    result = RedundancyResult(5, loss.tolist(), [3.0, 2.0, 2.0, 2.0], [3.0] * 4)
    text = result.text()
    assert "the past says 1.750 of the 3.000 nats of a code, 58%" in text
    assert "the first code 2.000, all others 1.000" in text
    assert text.splitlines()[1].split() == ["frame", "1", "2", "3", "4"]


def test_it_is_there_to_stay_and_mistakes_are_told(videos, tmp_path):
    codes, pixels = videos
    model = load(codes, FRAMES)
    result = study_redundancy(model, codes, tmp_path / "out", fraction=0.4)
    assert study_redundancy(model, codes, tmp_path / "out", fraction=0.4) == result
    assert json.loads((tmp_path / "out/result.json").read_text())["clips"] == result.clips
    assert "previous frame" in (tmp_path / "out/places.svg").read_text()
    with pytest.raises(UserError, match=r"begun with other settings.*clips 500, not 3"):
        study_redundancy(model, codes, tmp_path / "out", clips=3, fraction=0.4)
    with pytest.raises(UserError, match="does not hold codes that"):
        study_redundancy(model, pixels, tmp_path / "new")
    with pytest.raises(UserError, match=r"fraction 2.0: from 0 to 1"):
        study_redundancy(model, codes, tmp_path / "new", fraction=2.0)
    larger = make_dataset(
        codes.folder.parent / "source", codes.tokenizer_folder, tmp_path / "l", 16
    )
    with pytest.raises(UserError, match="does not hold codes that"):
        study_redundancy(model, larger, tmp_path / "new")
    long = load(codes, 9)
    with pytest.raises(UserError, match="no held-out clip has 9 frames"):
        study_redundancy(long, codes, tmp_path / "long", fraction=0.4)
