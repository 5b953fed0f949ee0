import json
from pathlib import Path

import pytest

from toto.errors import UserError
from toto.studies.curves import draw_curves


def write_run(folder: Path, steps: int, frames: int) -> Path:
    """A log as pre-training writes it: the curriculum cuts its first half shorter."""
    folder.mkdir()
    rows = []
    for step in range(1, steps + 1):
        row = {
            "step": step,
            "loss": 5 / step,
            "tokens": 1e6 * step,
            "model/gradient_norm": 1 / step,
        }
        seen = frames if step > steps // 2 else frames // 2
        row |= {f"frame_loss/{frame:02}": 5 / step + 1 / frame for frame in range(1, seen + 1)}
        rows.append(row)
    rows.append({"step": steps, "validation_loss": 6 / steps})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_runs_of_any_length_are_drawn_side_by_side(tmp_path):
    runs = [write_run(tmp_path / "short", 4, 4), write_run(tmp_path / "long", 400, 8)]
    draw_curves(runs, tmp_path / "out" / "curves.svg")
    text = (tmp_path / "out" / "curves.svg").read_text()
    for name in ("short", "long"):
        assert f"{name}, training" in text and f"{name}, validation" in text
    draw_curves(runs, tmp_path / "again.svg")
    assert (tmp_path / "again.svg").read_text() == text
    draw_curves(runs[:1], tmp_path / "one.svg")
    assert len((tmp_path / "one.svg").read_text()) < len(text)


def test_a_run_before_its_first_validation_is_drawn(tmp_path):
    log = write_run(tmp_path / "run", 4, 4) / "metrics.jsonl"
    log.write_text("".join(log.read_text().splitlines(keepends=True)[:-1]))
    draw_curves([tmp_path / "run"], tmp_path / "curves.svg")
    text = (tmp_path / "curves.svg").read_text()
    assert "run, training" in text
    assert ">o<" not in text  # the marker is no value on an axis


def test_what_cannot_be_drawn_is_refused(tmp_path):
    run = write_run(tmp_path / "run", 4, 4)
    with pytest.raises(UserError, match=r"curves.gif: .svg can be written"):
        draw_curves([run], tmp_path / "curves.gif")
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer/metrics.jsonl").write_text('{"step": 1, "loss": 0.5, "frames": 9}\n')
    for other in ("tokenizer", "nowhere"):
        with pytest.raises(UserError, match=f"{other} holds no metrics of pre-training"):
            draw_curves([run, tmp_path / other], tmp_path / "curves.svg")
