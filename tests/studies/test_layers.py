"""Where in a trunk which knowledge lies, where it has been put there."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from tests.studies.pairs import load
from toto.errors import UserError
from toto.files import only_writer
from toto.probing.clips import probe_splits
from toto.studies.layers import LeastSquares, _measure, study_layers


def test_least_squares_are_numpys():
    random = np.random.default_rng(0)
    states, targets = random.normal(size=(300, 5)), random.integers(0, 3, 300)
    states[:, 0] += targets
    own = LeastSquares(5, 3)
    for part in np.split(np.arange(300), 3):
        own.add(torch.from_numpy(states[part]).float(), torch.from_numpy(targets[part]))
    own.solve()
    own.test(torch.from_numpy(states).float(), torch.from_numpy(targets))
    rows = np.hstack((states, np.ones((300, 1))))
    mapped = rows @ np.linalg.lstsq(rows, np.eye(3)[targets], rcond=None)[0]
    assert own.accuracy == pytest.approx((mapped.argmax(1) == targets).mean(), abs=0.02)


class Planted:
    """Layer 0 holds the code that was read, layer 1 the one after it."""

    layers, heads, width, fingerprint = 1, 1, 30, "planted"
    device = torch.device("cpu")

    def hidden_states(self, inputs, layers):
        codes = F.one_hot(inputs.long().flatten(1), 30).float()
        return {0: codes, 1: codes.roll(-1, dims=1)}


def test_planted_knowledge_is_found_where_it_is(images):
    train, _, test, classes = probe_splits(images[0], 0.0, 1, "image")
    result = _measure(Planted(), train, test, classes)
    assert result.read[0] == 1 > result.read[1]
    assert result.next[1] == 1 > result.next[0]
    assert result.items == [59, 24]
    lines = result.text().splitlines()
    assert len(lines) == 4 and "100.0%" in lines[2]


def test_a_trunk_from_end_to_end(images, tmp_path):
    codes, pixels = images
    result = study_layers(load(codes, 4), codes, tmp_path / "out", items=20)
    assert result.items == [20, 20] and len(result.label) == 3
    assert all(0 <= x <= 1 for x in (*result.read, *result.next, *result.label))
    assert "<svg" in (tmp_path / "out/layers.svg").read_text()
    assert study_layers(load(codes, 4), codes, tmp_path / "out", items=20) == result
    with only_writer(tmp_path / "out"), pytest.raises(UserError, match="another process"):
        study_layers(load(codes, 4), codes, tmp_path / "out", items=20)
    with pytest.raises(UserError, match="does not hold codes"):
        study_layers(load(codes, 4), pixels, tmp_path / "new")
    with pytest.raises(UserError, match="items 20, not 10"):
        study_layers(load(codes, 4), codes, tmp_path / "out", items=10)
