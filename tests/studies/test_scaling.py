"""Scaling laws that were planted are found again."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.tiny import save_tokenizer
from toto.errors import UserError
from toto.models.llama import Llama
from toto.models.saved import save_model
from toto.models.sizes import LlamaSize
from toto.studies.config import ScalingStudy
from toto.studies.scaling import (
    Law,
    RunCurve,
    best_sizes,
    lower_envelope,
    offset_law,
    study_scaling,
)
from toto.tokens.vocabulary import Vocabulary

WIDTHS = (8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
LAYERS, PLACES, FRAMES, ROWS = 2, 4, 4, 128
# Hoffmann et al. (2022): L = E + A / N^alpha + B / D^beta.
A, B, ALPHA, BETA = 20.0, 29.4, 0.34, 0.28
EXPONENT = -ALPHA * BETA / (ALPHA + BETA)
GROWTH = BETA / (ALPHA + BETA)


def weights(width: int) -> int:
    """Those in matrix products, by hand: q, k, v, o and SwiGLU's three, and the head."""
    return LAYERS * (4 * width**2 + 3 * width * 2 * width) + ROWS * width


def plant(folder: Path, visual: Path, width: int, offset: float, tokenizer: str = "0") -> Path:
    """A finished run whose log follows the law; its clips, shorter at first, are easier then."""
    run = folder / f"width-{width}"
    size = LlamaSize(width=width, layers=LAYERS, heads=2, mlp_width=2 * width)
    details = {
        "vocabulary": Vocabulary(30, 2, 2).to_dict(),
        "frames": FRAMES,
        "kinds": ["video"],
        "view": {"stride": 1, "size": 8},
        "tokenizer": tokenizer,
    }
    save_model(Llama(size, ROWS), details, visual, run / "model")
    rows, tokens = [], np.geomspace(1e3, 3e9, 1500)
    for step, seen in enumerate(tokens.tolist(), 1):
        loss = offset + A / weights(width) ** ALPHA + B / seen**BETA
        frames = FRAMES if step > 100 else FRAMES // 2
        loss -= 0.0 if step > 100 else 3.0
        rows.append({"step": step, "loss": loss, "tokens": seen, "frames": float(frames)})
    rows.append({"step": len(tokens), "validation_loss": 1.0})
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (run / "config.json").write_text(json.dumps({"recipe": {"init_from": None}}))
    return run


@pytest.fixture(scope="module")
def visual(tmp_path_factory) -> Path:
    return save_tokenizer(tmp_path_factory.mktemp("visual") / "tokenizer")


def planted(folder: Path, visual: Path, offset: float) -> list[Path]:
    torch.manual_seed(0)
    return [plant(folder, visual, width, offset) for width in WIDTHS]


# Between the first computes and the last, the best size is among those that were tried.
MIDDLE = ScalingStudy(least=3e8)


def test_exponents_are_found_again(tmp_path, visual):
    result = study_scaling(planted(tmp_path, visual, 0.0), tmp_path / "out", MIDDLE)
    inner = [point for point in result.envelope if point[0] < 1e13]
    assert len(inner) > 50
    assert result.law.b == pytest.approx(EXPONENT, rel=0.08)
    assert result.fit > 0.99
    assert result.interval[0] <= result.law.b <= result.interval[1]
    assert len(result.best) > 3
    assert result.growth == pytest.approx(GROWTH, rel=0.1)
    for compute, size in result.best:
        tokens = compute / size
        assert ALPHA * A / size**ALPHA == pytest.approx(BETA * B / tokens**BETA, rel=0.25)
    assert result.runs[0].parameters == weights(8)
    written = json.loads((tmp_path / "out/result.json").read_text())
    assert written["law"]["b"] == result.law.b
    picture = (tmp_path / "out/scaling.svg").read_text()
    assert "width-256" in picture and "forward MACs" in picture
    assert f"C^{result.law.b:.4f}" in result.text()


def test_an_offset_is_found_again(tmp_path, visual):
    result = study_scaling(planted(tmp_path, visual, 1.7), tmp_path / "out", MIDDLE)
    assert result.offset.c == pytest.approx(1.7, rel=0.05)
    assert result.offset.b == pytest.approx(EXPONENT, rel=0.15)
    assert abs(result.law.b) < abs(result.offset.b) / 2  # without an offset it seems flatter


@pytest.mark.parametrize(
    ("law", "compute"),
    [
        (Law(45.32, -0.2063, 2.70), (2.6e13, 1e17)),  # an early one of the paper's
        (Law(7.32, -0.0378, 0.0), (2.6e13, 1e17)),
        (Law(20.0, -0.1, 1.5), (1e15, 1e16)),
    ],
)
def test_the_fit_with_an_offset_ends_at_its_minimum(law, compute):
    along = np.geomspace(*compute, 100)
    found = offset_law(np.stack((along, law.at(along)), 1))
    np.testing.assert_allclose(found.at(along), law.at(along), rtol=1e-4)
    if law.c:
        assert (found.b, found.c) == pytest.approx((law.b, law.c), rel=0.02)


def test_compute_is_counted_as_it_was_spent(tmp_path, visual):
    """By hand: (N + L d T) a token, where T grows; and three times the whole for training."""
    run = plant(tmp_path, visual, 16, 0.0)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()[:-1]]
    spent, before = np.zeros(2), 0.0
    for row in rows:
        pairs = LAYERS * 16 * row["frames"] * PLACES
        macs, flops = weights(16) + pairs, 6 * weights(16) + 12 * pairs
        spent += (row["tokens"] - before) * np.array([macs, flops])
        before = row["tokens"]
    other = plant(tmp_path / "other", visual, 24, 0.0)
    for which, compute in enumerate(("forward_macs", "training_flops")):
        study = ScalingStudy(compute=compute, per_decade=100_000)
        result = study_scaling([run, other], tmp_path / compute, study)
        assert result.runs[0].compute[-1] == pytest.approx(spent[which])
        assert len(result.runs[0].compute) == len(rows) - 100  # those of whole clips


def test_the_envelope_is_what_nothing_beats():
    one = RunCurve("one", 10, [1.0, 3.0, 9.0], [5.0, 3.0, 2.9])
    other = RunCurve("other", 20, [2.0, 4.0, 8.0], [6.0, 3.5, 1.0])
    assert lower_envelope([one, other]).tolist() == [[1, 5], [3, 3], [8, 1]]


def test_of_equal_sizes_the_best_counts_and_gaps_say_nothing():
    """In any order; where no three sizes were tried, no best one is known."""
    good, bad, small, large = (
        RunCurve(name, size, [1e3, 1e6], [level, level])
        for name, size, level in (("a", 20, 1.0), ("b", 20, 9.0), ("c", 10, 2.0), ("d", 40, 2.0))
    )
    found = best_sizes([good, bad, small, large])
    assert found == best_sizes([large, bad, good, small]) and len(found) == 12
    assert all(size == pytest.approx(20) for _, size in found)
    early = [RunCurve(str(i), i, [1.0, 10.0], [2.0, 1.0]) for i in (1, 2, 3)]
    late = [RunCurve(str(i), i, [1e3, 1e4], [2.0, 1.0]) for i in (4, 5, 6)]
    assert best_sizes(early[:2] + late[:1]) == []
    assert all(compute <= 10 or compute >= 1e3 for compute, _ in best_sizes(early + late))


def test_runs_that_make_no_law_are_refused(tmp_path, visual):
    run, other = (plant(tmp_path, visual, width, 0.0) for width in (16, 24))
    foreign = plant(tmp_path / "foreign", visual, 16, 0.0, "1")

    def refused(runs: list[Path], said: str, study: ScalingStudy = MIDDLE) -> None:
        with pytest.raises(UserError, match=said):
            study_scaling(runs, tmp_path / "out", study)

    refused([run], "1 runs: a law wants two or more, each once")
    refused([run, run], "2 runs: a law wants two or more, each once")
    refused([run, tmp_path / "nowhere"], "nowhere is not a saved model")
    refused([run, foreign], "foreign/width-16 has tokenizer 1, not 0 of .*width-16")
    late = ScalingStudy(least=1e30)
    refused([run, other], r"width-16 has logged no losses of 4 frames from 1e\+30 on", late)
    (other / "config.json").write_text(json.dumps({"recipe": {"init_from": "runs/base"}}))
    refused([run, other], "width-24 went on from runs/base")
    (other / "config.json").write_text("{}")
    log = other / "metrics.jsonl"
    log.write_text(log.read_text() + '{"step": 9999, "loss": 0.0, "tokens": 4e9, "frames": 4.0}\n')
    refused([run, other], "width-24 has logged a loss of 0.0")
    log.unlink()
    refused([run, other], "width-24 has logged no losses")
