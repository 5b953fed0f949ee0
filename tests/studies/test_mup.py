import json

import pytest

from toto.errors import UserError
from toto.files import only_writer
from toto.studies.config import MupStudy
from toto.studies.mup import MupResult, markov_chains, study_mup

STUDY = MupStudy(
    widths=(16, 32), layers=1, heads=2, steps=3, log2_rates=(-8, -6), seeds=2, device="cpu"
)


def test_a_study_that_was_stopped_goes_on(tmp_path):
    whole = study_mup(STUDY, tmp_path / "whole")
    assert len(whole.rows) == 2 * 2 * 2 * (1 + 2)
    made = json.loads((tmp_path / "whole" / "mup.json").read_text())["rows"]
    assert made == whole.rows

    (tmp_path / "stopped").mkdir()
    half = [row | {"seen": True} for row in made[:7]]
    (tmp_path / "stopped" / "mup.json").write_text(json.dumps({"rows": half}))
    resumed = study_mup(STUDY, tmp_path / "stopped").rows
    assert resumed == half + made[7:]

    for name in ("coordinates.svg", "transfer.svg"):
        pictures = [(tmp_path / folder / name).read_bytes() for folder in ("whole", "stopped")]
        assert pictures[0] == pictures[1] and b"standard parametrisation" in pictures[0]
    with pytest.raises(UserError, match="steps 3, not 4"):
        study_mup(MupStudy(**{**vars(STUDY), "steps": 4}), tmp_path / "whole")


def test_a_folder_has_one_writer(tmp_path):
    with only_writer(tmp_path), pytest.raises(UserError, match="another process is writing"):
        study_mup(STUDY, tmp_path)
    assert not (tmp_path / "config.json").exists()


def test_what_a_study_says():
    """Changes that grow as the root of the width, and rates that halve as it doubles."""
    rows = []
    for mup in (True, False):
        for width in (64, 128, 256):
            run = {"mup": mup, "width": width}
            shift = 0 if mup else (width // 64).bit_length() - 1
            for seed in (0, 1):
                size = (1 if mup else (width / 64) ** 0.5) * (1 + 0.5 * seed)
                rows.append(run | {"check": "coordinates", "seed": seed, "change": {"x": size}})
                for rate in (-9, -8, -7, -6):
                    loss = (rate + 7 + shift) ** 2 + 0.1 * seed
                    rows.append(run | {"check": "transfer", "seed": seed})
                    rows[-1] |= {"log2_rate": rate, "loss": float(loss)}
    result = MupResult(rows[::-1])
    assert result.changes(mup=True)["x"] == pytest.approx({64: 1.25, 128: 1.25, 256: 1.25})
    assert result.slopes(mup=True)["x"] == pytest.approx(0, abs=1e-9)
    assert result.slopes(mup=False)["x"] == pytest.approx(0.5)
    assert result.best(mup=True) == {64: -7, 128: -7, 256: -7}
    assert result.best(mup=False) == {64: -7, 128: -8, 256: -9}
    assert result.losses(mup=False)[128][-7] == pytest.approx(1.05)
    assert "best learning rate: 2^-7 at 64, 2^-8 at 128, 2^-9 at 256" in result.text()


def test_the_chains_can_be_learnt_but_not_known():
    codes = markov_chains(64, 4000, 12, (3,))
    assert codes.shape == (4000, 12) and (codes.min(), codes.max()) == (0, 63)
    # Given the code before, the next is far from uniform, and the sequence's own chain says more.
    counts = [[0.0] * 64 for _ in range(64)]
    for before, after in codes.unfold(1, 2, 1).reshape(-1, 2).tolist():
        counts[before][after] += 1
    largest = sum(max(row) for row in counts) / codes[:, 1:].numel()
    assert 2 / 64 < largest < 0.5
    assert not (codes == markov_chains(64, 4000, 12, (4,))).all()
    assert (codes == markov_chains(64, 4000, 12, (3,))).all()
