import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from toto.errors import UserError
from toto.world.layouts import LAYOUTS, write_world
from toto.world.layouts.driver import TRAIN, VAL, split_and_class

# For each layout: a small world, a smaller one that grows into it, and how its items are counted.
SMALL = {
    "actions": ({"size": 16, "frames": 8}, 12, 5),
    "images": ({"size": 16}, 170, 160),
    "davis": ({"size": 16, "frames": 4}, 4, 2),
    "cater": ({"size": 16, "frames": 64, "policy": "max2action"}, 5, 2),
    "ego4d": ({"size": 32, "frames": 60}, 4, 2),
}

MEDIA = (".mp4", ".avi", ".JPEG", ".jpg", ".png")


def contents(folder: Path) -> dict[str, bytes]:
    files = [p for p in folder.rglob("*") if p.is_file() and p.name != ".lock"]
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


@pytest.fixture(scope="module", params=LAYOUTS)
def made(request, tmp_path_factory) -> tuple[str, Path]:
    settings, count, _ = SMALL[request.param]
    out = tmp_path_factory.mktemp("world") / request.param
    write_world(LAYOUTS[request.param], out, count, 0, workers=2, **settings)
    return request.param, out


def test_every_layout_has_a_test():
    assert list(LAYOUTS) == list(SMALL)
    assert all(name == layout.name for name, layout in LAYOUTS.items())


def test_the_record_says_what_the_folder_was_made_from(made):
    name, out = made
    settings, count, _ = SMALL[name]
    layout = LAYOUTS[name]
    usual = {key: getattr(layout, key) for key in ("size", "frames", "fps")} | dict(layout.options)
    expected = {"layout": name, "seed": 0, "count": count, "version": 1} | usual | settings
    assert json.loads((out / "world.json").read_text()) == expected
    names = {path.name for path in out.iterdir()}
    assert not names & {"world.partial.json", ".partial"}


def test_growing_gives_what_would_have_been_made_at_once_by_other_workers(made, tmp_path):
    name, out = made
    settings, count, fewer = SMALL[name]
    write_world(LAYOUTS[name], tmp_path / "w", fewer, 0, workers=1, **settings)
    early = contents(tmp_path / "w")
    write_world(LAYOUTS[name], tmp_path / "w", count, 0, workers=1, **settings)
    whole = contents(out)
    assert contents(tmp_path / "w") == whole
    media = {path: data for path, data in early.items() if path.endswith(MEDIA)}
    assert len(media) >= fewer
    assert all(whole[path] == data for path, data in media.items())


def test_other_settings_are_refused(made):
    name, out = made
    settings, count, fewer = SMALL[name]
    before = contents(out)
    changes = [
        ({"size": 48}, f"size {settings['size']}, not 48"),
        ({"seed": 1}, "seed 0, not 1"),
        ({"count": fewer}, f"count {count}, not {fewer}"),
    ]
    for change, message in changes:
        with pytest.raises(UserError, match=message):
            write_world(LAYOUTS[name], out, **({"count": count, "seed": 0} | settings | change))
    assert contents(out) == before


def test_a_layouts_own_options_are_settings_too(tmp_path):
    cater, small = LAYOUTS["cater"], {"size": 16, "frames": 32}
    write_world(cater, tmp_path, 1, 0, workers=1, **small)
    with pytest.raises(UserError, match="camera_motion False, not True"):
        write_world(cater, tmp_path, 1, 0, camera_motion=True, **small)
    with pytest.raises(UserError, match="did you mean 'max2action'"):
        write_world(cater, tmp_path / "w", 1, 0, policy="max2actions", **small)
    with pytest.raises(UserError, match="layout 'actions' has no camera-motion"):
        write_world(LAYOUTS["actions"], tmp_path / "w", 1, 0, camera_motion=True)
    with pytest.raises(UserError, match="size 33: an even number"):
        write_world(cater, tmp_path / "w", 1, 0, size=33)
    assert not (tmp_path / "w").exists()


def test_what_a_layout_cannot_have_is_refused(tmp_path):
    with pytest.raises(UserError, match="frames 8: layout 'images' has no frames"):
        write_world(LAYOUTS["images"], tmp_path / "w", 200, 0, frames=8)
    with pytest.raises(UserError, match="count 100: at least 160"):
        write_world(LAYOUTS["images"], tmp_path / "w", 100, 0)
    with pytest.raises(UserError, match="frames 59: at least 60"):
        write_world(LAYOUTS["ego4d"], tmp_path / "w", 1, 0, frames=59)
    with pytest.raises(UserError, match="count 0: at least 1"):
        write_world(LAYOUTS["actions"], tmp_path / "w", 0, 0)
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(UserError, match="holds other files"):
        write_world(LAYOUTS["actions"], tmp_path, 3, 0)


@pytest.mark.parametrize(
    ("name", "pattern"), [("actions", "videos/*.mp4"), ("davis", "Annotations/480p/*/*.png")]
)
def test_a_killed_run_continues_to_the_same_bytes(name, pattern, tmp_path):
    settings = SMALL[name][0] | {"workers": 1}
    out, whole = tmp_path / "w", tmp_path / "whole"
    write_world(LAYOUTS[name], whole, 30, 0, **settings)
    code = (
        "from pathlib import Path; from toto.world.layouts import LAYOUTS, write_world\n"
        f"if __name__ == '__main__':\n"
        f"    write_world(LAYOUTS[{name!r}], Path({str(out)!r}), 30, 0, **{settings!r})"
    )
    run = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60

    def there() -> int:
        return len(list(out.glob(pattern)))

    while there() < 6 and time.monotonic() < deadline:
        time.sleep(0.002)
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    items = len(list(whole.glob(pattern)))
    assert 6 <= there() < items
    assert not (out / "world.json").exists()
    time.sleep(0.3)  # its worker sees that it is gone
    times = {p: p.stat().st_mtime_ns for p in out.glob("videos/*.mp4")}
    (out / ".partial" / "29").mkdir(parents=True, exist_ok=True)
    (out / ".partial" / "29" / "half").write_text("half a video")
    write_world(LAYOUTS[name], out, 30, 0, **settings)
    assert contents(out) == contents(whole)
    assert all(path.stat().st_mtime_ns == time_then for path, time_then in times.items())


def test_a_folder_has_one_writer(tmp_path):
    from toto.files import only_writer

    with only_writer(tmp_path), pytest.raises(UserError, match="another process"):
        write_world(LAYOUTS["actions"], tmp_path, 3, 0)


def test_every_split_goes_through_all_classes_at_any_count():
    splits = (TRAIN, TRAIN, VAL, TRAIN)
    for count in (48, 480, 777):
        seen = Counter(split_and_class(3, i, splits, 6) for i in range(count))
        for split, share in ((TRAIN, 0.75), (VAL, 0.25)):
            per_class = [seen[split, label] for label in range(6)]
            assert max(per_class) - min(per_class) <= 1
            assert abs(sum(per_class) - share * count) < 3
