"""Where CATER's snitch is, on videos of the embedded world in CATER's layout."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.tiny import make_dataset, make_videos, save_model_of, save_tokenizer
from toto.errors import UserError
from toto.media.video import read_clip, read_frames
from toto.media.view import View
from toto.tasks.cater import CELLS, PermanenceResult, check_cater, evenly, read_cater
from toto.tokens.store import TokenDataset
from toto.world.layouts import LAYOUTS, write_world

FRAMES, SIDE = 31, 16


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Twenty short videos, of which six are tested on, and a random model."""
    folder = tmp_path_factory.mktemp("permanence")
    write_world(LAYOUTS["cater"], folder / "cater", 20, 0, size=24, frames=FRAMES, workers=1)
    save_model_of(save_tokenizer(folder / "tokenizer"), SIDE, folder / "model")
    return folder


def command(folder: Path, data: str, out: Path, *more: str) -> list[str]:
    """More frames than the model was trained on: the paper's has 32, and 16."""
    where = ["finetune", "permanence", str(folder / "model"), data, "--out", str(out)]
    how = "--frames 6 --epochs 1 --batch 4 --micro-batch 2 --workers 1 --device cpu".split()
    return [*where, *how, *more]


def test_it_is_fine_tuned_and_measured_as_cater_does(folder, tmp_path, warm):
    said = warm.made(folder, *command(folder, "cater", tmp_path / "out"))
    result = json.loads((tmp_path / "out/result.json").read_text())
    confusion = np.array(result["confusion"])
    assert confusion.shape == (36, 36) and confusion.sum() == result["clips"][2] == 6
    apart = [
        abs(a // 6 - b // 6) + abs(a % 6 - b % 6)
        for a, b in np.argwhere(confusion)
        for _ in range(confusion[a, b])
    ]
    assert result["l1"] == pytest.approx(np.mean(apart))
    low, high = result["l1_interval"]
    assert low <= result["l1"] <= high
    assert [line for line in said if line.startswith("  L1 ")] and said[-1].endswith("/out")
    assert any("62.8% / 72.9%" in line for line in said)
    # The very cells that the lists name.
    listed = (folder / "cater/lists/localize/val.txt").read_text().split()[1::2]
    assert np.array_equal(confusion.sum(1), np.bincount([*map(int, listed)], minlength=36))
    assert warm.made(folder, *command(folder, "cater", tmp_path / "out")) == said

    tokens = tmp_path / "out/tokens"
    assert set(TokenDataset(tokens).column("frames").tolist()) == {6}
    again = warm.made(folder, *command(folder, str(tokens), tmp_path / "again"))
    assert again[:-1] == said[:-1]
    done = warm.toto(folder, *command(folder, str(tokens), tmp_path / "x", "--frames", "5"))
    assert done.returncode == 2 and "has 6 frames, not 5: the videos must be" in done.stderr
    # Another task does not go on in its folder.
    words = command(folder, str(tokens), tmp_path / "out", "--recipe", "cater")
    words[1] = "actions"
    words.remove("--frames"), words.remove("6")
    done = warm.toto(folder, *words)
    assert done.returncode == 2 and "(frames 6, not 4, task permanence, not actions)" in done.stderr


@pytest.mark.parametrize("frames", [2, 5, 6, 7, 16, 31])
def test_frames_are_even_from_the_first_to_the_last_and_whole(folder, frames):
    item = read_cater(folder / "cater")[0]
    path, view = item.location.path, evenly([item], frames, 12)
    every = np.concatenate([*read_frames(path, View(stride=1, size=12, whole=True))])
    wanted = np.linspace(0, FRAMES - 1, frames)
    kept = np.concatenate([*read_frames(path, view)])
    assert every.shape == (FRAMES, 3, 12, 12) and len(kept) == frames
    nearest = np.floor(wanted + 0.5).astype(int), np.ceil(wanted - 0.5).astype(int)
    for i, frame in enumerate(kept):
        assert any(np.array_equal(frame, every[which[i]]) for which in nearest)
    assert np.array_equal(read_clip(path, frames - 1, 1, view)[0], every[-1])


def test_steps_are_counted_row_by_row():
    labels = [np.array([0, 1]), np.array([0]), np.array([0, 7, 35, 35])]
    guesses = np.array([[0], [2], [0], [34]])  # 0, 1 + 1, 5 + 5, 1
    rest = {"views": 1, "unread": {}, "attention": "causal", "paper": []}
    result = PermanenceResult.of(guesses, labels, CELLS, **rest)
    assert result.l1 == pytest.approx((0 + 2 + 10 + 1) / 4)
    assert f"L1          {result.l1:.2f}" in result.table()


def test_folders_that_are_not_cater(folder, tmp_path):
    with pytest.raises(UserError, match=r"holds no lists/localize/train.txt, as CATER does"):
        read_cater(tmp_path)
    shutil.copytree(folder / "cater/lists", tmp_path / "lists")
    items = read_cater(tmp_path)
    assert {item.split for item in items} == {"train", "val"}
    with pytest.raises(UserError, match=r"CATER_new_.*avi: no such file"):
        evenly(items, 6, 12)
    with pytest.raises(UserError, match=r"frames 40: .*avi has 31"):
        evenly(read_cater(folder / "cater"), 40, 12)
    listed = tmp_path / "lists/localize/val.txt"
    for line in ("CATER_new_000000.avi 36", "CATER_new_000000.avi", "video.avi 3,5", "x y"):
        listed.write_text(f"\n{line}\n")
        with pytest.raises(UserError, match=r"val.txt, line 2: .*expected a file and 0 to 35"):
            read_cater(tmp_path)
    listed.write_text("\n")
    with pytest.raises(UserError, match=r"val.txt is empty"):
        read_cater(tmp_path)
    listed.write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match=r"val.txt': not UTF-8 text"):
        read_cater(tmp_path)
    shutil.copy(tmp_path / "lists/localize/train.txt", listed)
    with pytest.raises(UserError, match=r"'CATER_new_000000.avi' is listed twice"):
        read_cater(tmp_path)


def test_videos_of_another_length_and_labels_that_are_no_cells_are_refused(folder, tmp_path):
    """The last frame that is read would not be the one that the label is of."""
    visual = folder / "tokenizer"
    videos = make_videos(tmp_path / "videos" / "07", [6, 6, 8], side=24).parent
    dataset = make_dataset(videos, visual, tmp_path / "data", shard_items=9)
    with pytest.raises(UserError, match=r"07/video002.mp4 has 8 frames, not 6: the videos must be"):
        check_cater(dataset, 6)
    other = make_videos(tmp_path / "other" / "lift", [6, 6], side=24).parent
    with pytest.raises(UserError, match=r"label 'lift' is no cell"):
        check_cater(make_dataset(other, visual, tmp_path / "others"), 6)
