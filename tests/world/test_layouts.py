import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from toto.errors import UserError
from toto.world.actions import ACTIONS, sample_scene
from toto.world.layouts import LAYOUTS, split_and_action, write_actions
from toto.world.render import render

GOLDEN_LABELS = [2, 4, 5, 0, 5, 3, 3, 1, 3, 2, 1, 0, 4, 3, 5, 2, 4, 4, 1, 5]
SMALL = {"seed": 0, "size": 16, "frames": 8}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("world") / "actions"
    write_actions(out, 30, workers=2, **SMALL)
    return out


def test_golden_labels():
    labels = [split_and_action(0, i) for i in range(20)]
    assert [label for _, label in labels] == GOLDEN_LABELS
    assert "".join(split[1] for split, _ in labels) == "rrerrarrer" * 2


def test_every_split_is_balanced_at_any_count():
    for count in (60, 600, 777):
        seen = Counter(split_and_action(3, i) for i in range(count))
        for split, share in (("train", 0.7), ("val", 0.1), ("test", 0.2)):
            per_class = [seen[split, label] for label in range(len(ACTIONS))]
            assert max(per_class) - min(per_class) <= 1
            assert abs(sum(per_class) - share * count) < 3
    assert [split_and_action(3, i) for i in range(60)] != [
        split_and_action(4, i) for i in range(60)
    ]


def test_the_folder_is_kinetics(folder):
    assert (folder / "classes.txt").read_text().split() == list(ACTIONS)
    rows = {}
    for split in ("train", "val", "test"):
        for line in (folder / f"{split}.csv").read_text().splitlines():
            path, label = line.split(" ")
            rows[path] = (split, int(label))
    assert rows == {f"videos/{i:06d}.mp4": split_and_action(0, i) for i in range(30)}
    assert all((folder / path).stat().st_size for path in rows)
    settings = {"layout": "actions", "seed": 0, "count": 30, "size": 16, "frames": 8, "fps": 30}
    assert json.loads((folder / "world.json").read_text()) == settings | {"version": 1}
    assert len(contents(folder)) == 30 + 5
    assert LAYOUTS["actions"] is write_actions


def test_a_video_holds_its_scene(folder):
    import av

    with av.open(str(folder / "videos/000007.mp4")) as container:
        decoded = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
    # Grey, as the file keeps colours at half resolution.
    grey = np.stack(decoded).mean(-1)
    distance = []
    for index in (7, 6, 8):
        _, label = split_and_action(0, index)
        drawn = render(sample_scene(0, index, ACTIONS[label], 8), 16).mean(1)
        distance.append(np.abs(grey - drawn).mean())
    assert distance[0] < 4.5
    assert min(distance[1:]) > 2 * distance[0]


def test_growing_gives_what_would_have_been_made_at_once_by_other_workers(folder, tmp_path):
    write_actions(tmp_path / "w", 8, workers=1, **SMALL)
    early = contents(tmp_path / "w")
    write_actions(tmp_path / "w", 30, workers=1, **SMALL)
    assert contents(tmp_path / "w") == contents(folder)
    assert all(contents(folder)[name] == data for name, data in early.items() if "mp4" in name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": 32}, "size 16, not 32"),
        ({"seed": 1}, "seed 0, not 1"),
        ({"count": 12}, "count 30, not 12"),
    ],
)
def test_other_settings_are_refused(folder, change, message):
    before = contents(folder)
    with pytest.raises(UserError, match=message):
        write_actions(folder, **({"count": 30} | SMALL | change))
    assert contents(folder) == before


def test_a_folder_with_other_files_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(UserError, match="holds other files"):
        write_actions(tmp_path, 3, **SMALL)
    with pytest.raises(UserError, match="count 0: at least 1"):
        write_actions(tmp_path, 0, **SMALL)


def test_a_killed_run_continues_to_the_same_bytes(folder, tmp_path):
    out = tmp_path / "w"
    code = (
        "from pathlib import Path; from toto.world.layouts import write_actions\n"
        f"if __name__ == '__main__': write_actions(Path({str(out)!r}), 30, 0, 16, 8, workers=1)"
    )
    run = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while len(list(out.glob("videos/*.mp4"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.002)
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    assert 3 <= len(list(out.glob("videos/*.mp4"))) < 30
    assert not (out / "world.json").exists()
    (out / "videos" / ".000029.mp4.1.tmp").write_text("half a video")
    write_actions(out, 30, workers=1, **SMALL)
    assert contents(out) == contents(folder)
