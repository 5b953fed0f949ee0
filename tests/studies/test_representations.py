import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.studies.pairs import load, pair
from tests.tiny import make_dataset, make_videos
from toto.errors import UserError
from toto.files import only_writer
from toto.probing.config import ProbeTraining
from toto.studies.config import RepresentationStudy
from toto.studies.representations import (
    CodeEncoder,
    PixelEncoder,
    _resampled,
    study_representations,
)
from toto.tasks.results import quantiles

PROBES = ProbeTraining(epochs=6, batch=8, learning_rates=(2e-2,), weight_decays=(0.1,), heads=2)
NAMES = ["pre-trained", "random", "codes", "pixels"]


def test_contestants_are_compared_on_the_same_items(images, tmp_path):
    codes, pixels = images
    study = RepresentationStudy(seeds=2, probes=PROBES)
    with only_writer(tmp_path / "out"), pytest.raises(UserError, match="another process"):
        study_representations(load(codes, 4), codes, pixels, tmp_path / "out", study)
    result = study_representations(load(codes, 4), codes, pixels, tmp_path / "out", study)
    assert [own.name for own in result.standings] == NAMES
    assert (result.items, result.units, result.classes) == (24, 24, 3)
    trunk, *others = result.standings
    assert trunk.lead == 0 and trunk.lead_interval == (0, 0)
    for own in others:
        assert own.lead == pytest.approx(trunk.accuracy - own.accuracy)
        low, high = own.lead_interval
        assert low <= own.lead <= high
    assert result.standings[3].accuracy > 0.9  # colours of pixels are plain to see
    assert [len(curve) for curve in trunk.curves] == [3, 3]
    assert [len(own.curves[0]) for own in others] == [3, 1, 1]
    assert "pre-trained" in result.text() and "24 test items" in result.text()
    assert "<svg" in (tmp_path / "out" / "layers.svg").read_text()

    # Done, it is read again, and nothing is trained.
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("test.parquet")}
    again = study_representations(load(codes, 4), codes, pixels, tmp_path / "out", study)
    assert again == result
    assert before == {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("test.parquet")}
    with pytest.raises(UserError, match="another folder"):
        other = replace(study, seeds=1)
        study_representations(load(codes, 4), codes, pixels, tmp_path / "out", other)
    with pytest.raises(UserError, match="must hold"):
        study_representations(load(codes, 4), pixels, codes, tmp_path / "new", study)
    for wrong, said in (({"heads": 4}, "30 channels of codes"), ({"rope_base": 5e4}, "as it is")):
        other = replace(study, probes=replace(PROBES, **wrong))
        with pytest.raises(UserError, match=said):
            study_representations(load(codes, 4), codes, pixels, tmp_path / "new", other)
    assert not (tmp_path / "new").exists()


def test_pixels_of_other_frames_are_refused(images, tmp_path):
    codes, pixels = images
    coarse = make_dataset(
        pixels.folder.parent / "source", pixels.tokenizer_folder, tmp_path / "coarse", side=16
    )
    with pytest.raises(UserError, match=r"size 16, not 8"):
        study_representations(
            load(codes, 4), codes, coarse, tmp_path / "out", RepresentationStudy(probes=PROBES)
        )


def test_files_are_left_out_one_by_one(tmp_path):
    for seed, name in enumerate(("spin", "fall")):
        make_videos(tmp_path / "source" / name, [6] * 3, seed=seed)
    codes, pixels = pair(tmp_path)
    probes = replace(PROBES, epochs=1, batch=2, held_out=0.5)
    study = RepresentationStudy(seeds=1, by_file=True, probes=probes)
    result = study_representations(load(codes, 4), codes, pixels, tmp_path / "out", study)
    assert (result.items, result.units, result.classes) == (6, 6, 2)
    assert [len(own.chosen[0]) for own in result.standings] == [6] * 4
    assert len(list((tmp_path / "out" / "codes" / "seed-0").iterdir())) == 6


def test_resamples_are_of_units():
    """A mean of n coins has the binomial's spread; coins that fall alike in tens that of n / 10."""
    random = np.random.default_rng(0)
    for size in (1, 10):
        values = random.permutation(np.arange(400) < 120).astype(float).repeat(size)
        low, high = quantiles(_resampled(values, np.arange(400).repeat(size)))
        assert high - low == pytest.approx(2 * 1.96 * math.sqrt(0.3 * 0.7 / 400), rel=0.1)


def test_codes_and_pixels_are_what_they_are(images):
    codes, pixels = images
    cpu = torch.device("cpu")
    stored = torch.tensor([[[[0, 29], [3, 1]]]], dtype=torch.uint16)
    one_hot = CodeEncoder(codes.vocabulary, cpu).hidden_states(stored, [0])[0]
    assert one_hot.argmax(-1).tolist() == [[0, 29, 3, 1]] and one_hot.sum() == 4
    frames = torch.randint(0, 256, (1, 2, 3, 8, 8), dtype=torch.uint8)
    states = PixelEncoder(pixels.layout, cpu).hidden_states(frames, [0])[0]
    assert states.shape == (1, 8, 48)
    first = frames[0, 1, :, :4, 4:].permute(1, 2, 0).flatten() / 255
    assert torch.equal(states[0, 5], first)
