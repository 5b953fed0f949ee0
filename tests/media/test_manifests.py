import json

import pyarrow.parquet as pq
import pytest

from tests.media.test_sources_folders import table, touch
from toto.errors import UserError
from toto.media.manifests import KINDS, ego4d, howto100m, make_manifest
from toto.media.sources import read_source

# The head of the released file (antoine77340/howto100m), and a video that two tasks list.
HOWTO = """video_id,category_1,category_2,rank,task_id
nVbIUDjzWY4,Cars & Other Vehicles,Motorcycles,27,52907
CTPAZ2euJ2Q,Cars & Other Vehicles,Motorcycles,35,109057
_97kyZVWVG0,Hobbies and Crafts,Crafts,34,119814
gkjnR3-ZVts,,,6,25938
nVbIUDjzWY4,Food and Entertaining,Drinks,3,25938
"""


@pytest.fixture
def howto(tmp_path):
    (tmp_path / "HowTo100M_v1.csv").write_text(HOWTO)
    touch(tmp_path / "videos", "n/nVbIUDjzWY4.mp4", "_97kyZVWVG0.webm", "gkjnR3-ZVts.mkv", "x.mp4")
    return tmp_path


def test_howto100m(howto):
    made = howto100m(f"{howto}/HowTo100M_v1.csv", f"{howto}/videos")
    assert made.missing == 1
    assert made.table.to_pylist()[0] == {
        "path": f"{howto}/videos/n/nVbIUDjzWY4.mp4",
        "key": "n/nVbIUDjzWY4.mp4",
        "label": "Food and Entertaining",
        "split": None,
        "fps": None,
        "category_1": "Food and Entertaining",
        "category_2": "Drinks",
        "rank": 3,
        "task_id": "25938",
    }
    out = howto / "made" / "howto.parquet"
    assert make_manifest("howto100m", f"{howto}/HowTo100M_v1.csv", f"{howto}/videos", out) == made
    items = read_source(str(out))
    assert table(items) == [
        ("n/nVbIUDjzWY4.mp4", "Food and Entertaining", None),
        ("_97kyZVWVG0.webm", "Hobbies and Crafts", None),
        ("gkjnR3-ZVts.mkv", None, None),
    ]
    assert items[1].location.path == f"{howto}/videos/_97kyZVWVG0.webm"
    assert [path.name for path in out.parent.iterdir()] == ["howto.parquet"]


def video(number: int, scenarios: list[str], fps: float = 30.0, **splits: str | None) -> dict:
    """An entry by the published schema (ego4d-data.org/docs/data/annotations-schemas)."""
    return {
        "video_uid": f"{number:08d}-1c3b-4c5d-8e6f-000000000000",
        "duration_sec": 480.5,
        "scenarios": scenarios,
        "video_metadata": {"fps": fps, "num_frames": 14415, "video_codec": "h264"},
        "split_em": None,
        "split_av": None,
        "split_fho": None,
        "s3_path": "s3://ego4d/v2/full_scale",
        "device": "GoPro Hero 7",
        **splits,
    }


@pytest.fixture
def ego(tmp_path):
    videos = [
        video(0, ["Cooking"], split_em="train", split_fho="train"),
        video(1, ["Cooking", "Eating"], split_em="train", split_av="val"),
        video(2, [], split_em="val", split_fho="test"),
        video(3, ["Biology experiments"], fps=25.0),
        video(4, ["Cooking"], split_fho="multi", split_em="train"),
        video(5, ["Cooking"], split_goalstep="val", split_em="train"),
        video(6, ["Cooking"]),
    ]
    release = {"date": "230208", "version": "2.0", "description": "x", "videos": videos}
    (tmp_path / "ego4d.json").write_text(json.dumps(release))
    touch(tmp_path / "full_scale", *(f"{v['video_uid']}.mp4" for v in videos[:-1]))
    return tmp_path


def test_ego4d(ego):
    made = ego4d(f"{ego}/ego4d.json", f"{ego}/full_scale")
    assert made.missing == 1
    rows = made.table.to_pylist()
    assert [row["split"] for row in rows] == ["train", "val", "test", None, "test", "val"]
    assert [row["label"] for row in rows[:4]] == ["Cooking", None, None, "Biology experiments"]
    assert rows[1]["scenarios"] == ["Cooking", "Eating"]
    assert (rows[0]["duration"], rows[0]["frames"]) == (480.5, 14415)
    out = ego / "ego4d.parquet"
    make_manifest("ego4d", f"{ego}/ego4d.json", f"{ego}/full_scale", out)
    items = read_source(str(out))
    assert [item.location.fps for item in items] == [30, 30, 30, 25, 30, 30]
    assert items[0].key == "00000000-1c3b-4c5d-8e6f-000000000000.mp4"


def test_user_errors(howto, ego, tmp_path):
    csv, out = f"{howto}/HowTo100M_v1.csv", tmp_path / "out.parquet"
    for kind, file, videos, message in (
        ("howto", csv, "videos", "unknown kind of manifest 'howto': did you mean 'howto100m'"),
        ("howto100m", f"{howto}/none.csv", "videos", "no such file"),
        ("howto100m", csv, "none", "no such folder"),
        ("howto100m", csv, "full_scale", "none of the 4 listed videos is there"),
        ("howto100m", f"{ego}/ego4d.json", "videos", "no column 'video_id'"),
        ("ego4d", csv, "videos", "not JSON"),
        ("ego4d", f"{ego}/bad.json", "videos", "no list 'videos'"),
        ("ego4d", f"{ego}/odd.json", "videos", "video 0, video_metadata, column 'fps': 'x'"),
    ):
        (ego / "bad.json").write_text('{"video": []}')
        odd = {"video_uid": "a", "video_metadata": {"fps": "x"}}
        (ego / "odd.json").write_text(json.dumps({"videos": [odd]}))
        with pytest.raises(UserError, match=message):
            make_manifest(kind, file, f"{tmp_path}/{videos}", out)
    assert not out.exists()
    with pytest.raises(UserError, match=r"a manifest is a \.parquet"):
        make_manifest("howto100m", csv, f"{howto}/videos", tmp_path / "out.csv")


def test_a_manifest_is_replaced_whole(howto):
    out = howto / "a.parquet"
    for _ in range(2):
        make_manifest("howto100m", f"{howto}/HowTo100M_v1.csv", f"{howto}/videos", out)
    assert pq.read_table(out).num_rows == 3
    assert set(KINDS) == {"howto100m", "ego4d"}
