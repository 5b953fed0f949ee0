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
from toto.studies.scaling import RunCurve, lower_envelope, study_scaling
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


def plant(folder: Path, visual: Path, width: int, offset: float) -> Path:
    """A finished run whose log follows the law; its clips grow longer on the way."""
    run = folder / f"width-{width}"
    size = LlamaSize(width=width, layers=LAYERS, heads=2, mlp_width=2 * width)
    details = {
        "vocabulary": Vocabulary(30, 2, 2).to_dict(),
        "frames": FRAMES,
        "kinds": ["video"],
        "view": {"stride": 1, "size": 8},
        "tokenizer": "0",
    }
    save_model(Llama(size, ROWS), details, visual, run / "model")
    rows, tokens = [], np.geomspace(1e3, 3e9, 1500)
    for step, seen in enumerate(tokens.tolist(), 1):
        loss = offset + A / weights(width) ** ALPHA + B / seen**BETA
        frames = FRAMES if step > 100 else FRAMES // 2
        rows.append({"step": step, "loss": loss, "tokens": seen, "frames": float(frames)})
    rows.append({"step": len(tokens), "validation_loss": 1.0})
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
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
        assert len(result.runs[0].compute) == len(rows)


def test_the_envelope_is_what_nothing_beats():
    one = RunCurve("one", 10, [1.0, 3.0, 9.0], [5.0, 3.0, 2.9])
    other = RunCurve("other", 20, [2.0, 4.0, 8.0], [6.0, 3.5, 1.0])
    assert lower_envelope([one, other]).tolist() == [[1, 5], [3, 3], [8, 1]]


def test_what_is_no_run_is_refused(tmp_path, visual):
    run = plant(tmp_path, visual, 16, 0.0)
    with pytest.raises(UserError, match="1 runs: a law wants two or more"):
        study_scaling([run], tmp_path / "out", ScalingStudy())
    with pytest.raises(UserError, match=r"no such|is no|not that of"):
        study_scaling([tmp_path / "nowhere", run], tmp_path / "out", ScalingStudy())
    with pytest.raises(UserError, match="width-16 ends before compute 1e\\+30"):
        study_scaling([run, run], tmp_path / "out", ScalingStudy(least=1e30))
    (run / "metrics.jsonl").unlink()
    with pytest.raises(UserError, match="no finished run of pre-training on tokens"):
        study_scaling([run, run], tmp_path / "out", ScalingStudy())
