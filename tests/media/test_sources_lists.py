"""Lists of files: Kinetics, Something-Something, manifests."""

import csv
import json
import re
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.media.test_sources_folders import table, touch
from toto.errors import UserError
from toto.media.item import Location
from toto.media.sources import read_source


@pytest.mark.parametrize(
    ("line", "key", "label"),
    [
        ("a.mp4 3", "a.mp4", "3"),
        ("a.mp4,3", "a.mp4", "3"),
        ("a.mp4, 3", "a.mp4", "3"),
        ("a.mp4", "a.mp4", None),
        ("my video.mp4 3", "my video.mp4", "3"),
        ("my video.mp4", "my video.mp4", None),
        ("a,b.mp4 3", "a,b.mp4", "3"),
        ("a b.mp4,3", "a b.mp4", "3"),
        ("a.mp4,playing guitar", "a.mp4", "playing guitar"),
        ("Mr. Smith.mp4 3", "Mr. Smith.mp4", "3"),
        ("frames/clip 3", "frames/clip", "3"),
        ("frames/clip", "frames/clip", None),
        ("./x//a.mp4\t3", "x/a.mp4", "3"),
    ],
)
def test_lines_of_lists(tmp_path, line, key, label):
    (tmp_path / "list.csv").write_text(f"\n{line}\n")
    (item,) = read_source(str(tmp_path / "list.csv"))
    assert (item.key, item.label, item.split) == (key, label, None)
    assert Path(item.location.path) == tmp_path / key


def test_classes_and_split_of_lists(tmp_path):
    (tmp_path / "classes.txt").write_text("run\nlong jump\n")
    (tmp_path / "val.csv").write_text("a.mp4 1\nb.mp4 0\nc.mp4 other\n")
    items = read_source(str(tmp_path / "val.csv"))
    assert [item.label for item in items] == ["long jump", "run", "other"]
    assert {item.split for item in items} == {"val"}
    (tmp_path / "val.csv").write_text("a.mp4 1\nb.mp4 2\n")
    with pytest.raises(UserError, match=r"line 2: label 2: classes\.txt has 2 lines"):
        read_source(str(tmp_path / "val.csv"))


def test_options_of_lists(tmp_path):
    (tmp_path / "train.csv").write_text("a b.mp4|jump, high\n")
    (item,) = read_source(f"kinetics:{tmp_path}/train.csv?root=/videos%20here&sep=|")
    assert item.location.path == "/videos here/a b.mp4"
    assert table([item]) == [("a b.mp4", "jump, high", "train")]
    with pytest.raises(UserError, match="of split 'train', not 'val'"):
        read_source(f"{tmp_path}/train.csv?split=val")


def test_frame_folders_in_lists(tmp_path):
    touch(tmp_path, "clip/000001.jpg")
    (tmp_path / "train.csv").write_text("clip 3\nnone 4\n")
    assert [item.location.part for item in read_source(f"{tmp_path}/train.csv")] == ["frames", None]


def test_user_errors_of_lists(tmp_path):
    path = tmp_path / "list.csv"
    for text, message in {
        "": "nothing to read",
        "a.mp4 1\n,2\n": "line 2",
        "a.mp4 1\n./a.mp4 2\n": "listed twice",
    }.items():
        path.write_text(text)
        with pytest.raises(UserError, match=message) as error:
            read_source(str(path))
        assert "\n" not in str(error.value)
    path.write_bytes(b"caf\xe9.mp4 1\n")
    with pytest.raises(UserError, match="UTF-8"):
        read_source(str(path))


RELEASED = """label,youtube_id,time_start,time_end,split
testifying,---QUuC4vJs,84,94,validate
"air, drumming",--nQbRBEz2s,104,114,validate
washing feet,--GkrdYZ9Tc,0,10,validate
yoga,absent_____,5,15,validate
"""


def test_released_kinetics(tmp_path):
    touch(
        tmp_path,
        "k600/val/testifying/---QUuC4vJs_000084_000094.mp4",
        "k600/val/--nQbRBEz2s_104_114.webm",
        "k600/val/--GkrdYZ9Tc.mkv",
    )
    (tmp_path / "kinetics_val.csv").write_text(RELEASED)
    items = read_source(f"{tmp_path}/kinetics_val.csv?root={tmp_path}/k600")
    assert table(items) == [
        ("val/testifying/---QUuC4vJs_000084_000094.mp4", "testifying", "val"),
        ("val/--nQbRBEz2s_104_114.webm", "air, drumming", "val"),
        ("val/--GkrdYZ9Tc.mkv@0-10", "washing feet", "val"),
        ("absent______000005_000015.mp4", "yoga", "val"),
    ]
    places = [item.location for item in items]
    assert places[0] == Location(f"{tmp_path}/k600/{items[0].key}")
    assert places[2] == Location(f"{tmp_path}/k600/val/--GkrdYZ9Tc.mkv", start=0.0, end=10.0)
    assert places[3].path == f"{tmp_path}/k600/absent______000005_000015.mp4"


def test_released_kinetics_tests_have_no_labels(tmp_path):
    (tmp_path / "test.csv").write_text("youtube_id,time_start,time_end,split\nabc,1,11,test\n")
    assert table(read_source(f"{tmp_path}/test.csv")) == [("abc_000001_000011.mp4", None, "test")]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("yoga,abc,x,10,val", "line 2, column 'time_start': 'x': expected a number"),
        ("yoga,,0,10,val", "line 2: expected youtube_id, time_start and time_end"),
        ("yoga,abc,0,10,dev", "line 2, column 'split': 'dev': expected train, val or test"),
        ("yoga,two,0,10,val", "both 'a/two_000000_000010.mp4' and 'b/two_000000_000010.webm'"),
        ("yoga,whole,10,5,val", "line 2: .*a segment from 10.0 to 5.0 s"),
    ],
)
def test_user_errors_of_released_kinetics(tmp_path, row, message):
    touch(tmp_path, "a/two_000000_000010.mp4", "b/two_000000_000010.webm", "whole.mp4")
    (tmp_path / "a.csv").write_text(RELEASED.splitlines()[0] + f"\n{row}\n")
    with pytest.raises(UserError, match=message):
        read_source(str(tmp_path / "a.csv"))


TEMPLATES = ["Closing [something]", "Moving [something] and [something] away from each other"]


@pytest.fixture
def something(tmp_path):
    """A folder as it is released: ids are text, templates have brackets, labels have none."""
    entries = [
        {
            "id": str(100 + i),
            "label": "closing a box",
            "template": TEMPLATES[i % 2],
            "placeholders": ["a box"],
        }
        for i in range(3)
    ]
    labels = {re.sub(r"[\[\]]", "", template): str(i) for i, template in enumerate(TEMPLATES)}
    for name, value in {
        "train": entries,
        "validation": [{**entries[0], "id": "200"}],
        "test": [{"id": "300"}],
        "labels": labels,
    }.items():
        (tmp_path / f"something-something-v2-{name}.json").write_text(json.dumps(value))
    touch(tmp_path / "20bn-something-something-v2", "100.webm", "101.webm", "102.mp4", "200.webm")
    return tmp_path


def test_something_something(something):
    items = read_source(f"{something}/something-something-v2-train.json")
    closing, moving = "Closing something", "Moving something and something away from each other"
    assert table(items) == [
        ("100.webm", closing, "train"),
        ("101.webm", moving, "train"),
        ("102.mp4", closing, "train"),
    ]
    folder = something / "20bn-something-something-v2"
    assert items[2].location == Location(str(folder / "102.mp4"))
    (item,) = read_source(f"ssv2:{something}/something-something-v2-validation.json")
    assert table([item]) == [("200.webm", closing, "val")]
    (item,) = read_source(f"{something}/something-something-v2-test.json?videos=/dev/shm")
    assert table([item]) == [("300.webm", None, "test")]
    assert item.location.path == "/dev/shm/300.webm"


def test_user_errors_of_something_something(something):
    path = something / "something-something-v2-train.json"
    for text, message in {
        "[]": "expected a list",
        '{"id": 1}': "expected a list",
        "[": "not JSON",
        '[{"id": "1", "template": "Eating [something]"}]': "entry 0: class 'Eating something'",
        '[{"id": "1", "template": 3}]': "entry 0: template 3: expected text",
    }.items():
        path.write_text(text)
        with pytest.raises(UserError, match=message):
            read_source(f"ssv2:{path}")


ROWS = [
    {"path": "a.mp4", "start": 0.0, "end": 2.5, "label": "run", "split": "train", "fps": 25.0},
    {"path": "a.mp4", "start": 2.5, "end": None, "label": "jump", "split": "val", "fps": None},
    {"path": "/x/b.mp4", "start": None, "end": 1 / 3, "label": None, "split": None, "fps": None},
    {"path": "s3://c/d.mp4", "start": None, "end": None, "label": "7", "split": "validation"},
    {"path": "./e.jpg", "key": "my key", "start": 1.0, "unknown": "é"},
]
LISTED = [
    ("a.mp4@0-2.5", "run", "train"),
    ("a.mp4@2.5-", "jump", "val"),
    ("/x/b.mp4@0-0.333333", None, None),
    ("s3://c/d.mp4", "7", "val"),
    ("my key", None, None),
]


def write_manifest(path: Path, rows: list[dict]) -> Path:
    names = list(dict.fromkeys(name for row in rows for name in row))
    if path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pq.write_table(pa.Table.from_pylist([{n: r.get(n) for n in names} for r in rows]), path)
    return path


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_manifests(tmp_path, suffix):
    path = write_manifest(tmp_path / f"all{suffix}", ROWS)
    items = read_source(str(path))
    assert table(items) == LISTED
    assert [item.location for item in items] == [
        Location(f"{tmp_path}/a.mp4", None, 0.0, 2.5, 25.0),
        Location(f"{tmp_path}/a.mp4", None, 2.5),
        Location("/x/b.mp4", None, None, 1 / 3),
        Location("s3://c/d.mp4"),
        Location(f"{tmp_path}/e.jpg", None, 1.0),
    ]
    assert read_source(f"{path}?root=/r")[0].location.path == "/r/a.mp4"


def test_quoted_cells_may_have_several_lines(tmp_path):
    (tmp_path / "a.csv").write_text('path,label\n"a, b.mp4","long\njump"\nc.mp4,x\n')
    items = read_source(f"{tmp_path}/a.csv")
    assert table(items) == [("a, b.mp4", "long\njump", None), ("c.mp4", "x", None)]


def test_manifests_of_whole_numbers(tmp_path):
    rows = [{"path": "a.mp4", "start": 1, "end": 2, "label": 3}]
    for suffix in ("csv", "jsonl", "parquet"):
        items = read_source(str(write_manifest(tmp_path / f"a.{suffix}", rows)))
        assert table(items) == [("a.mp4@1-2", "3", None)]


def test_manifest_patterns(tmp_path):
    for i in range(3):
        write_manifest(tmp_path / f"part-{i}.parquet", [{"path": f"{i}.mp4"}])
    for pattern in ("part-*.parquet", "part-{0..2}.parquet"):
        assert [i.key for i in read_source(f"{tmp_path}/{pattern}")] == ["0.mp4", "1.mp4", "2.mp4"]
    with pytest.raises(UserError, match=r"part-7\.parquet': no such file"):
        read_source(f"{tmp_path}/part-{{1,7}}.parquet")


def test_remote_manifests(memory):
    memory.pipe("/d/a.csv", b"path,label\nx.mp4,run\n")
    (item,) = read_source("memory://d/a.csv")
    assert (item.location.path, item.label) == ("memory://d/x.mp4", "run")
    memory.pipe("/d/train.csv", b"x.mp4 0\n")
    memory.pipe("/d/classes.txt", b"walk\n")
    (item,) = read_source("memory://d/train.csv")
    assert (item.location.path, item.label, item.split) == ("memory://d/x.mp4", "walk", "train")
    assert fsspec.filesystem("memory").exists(item.location.path) is False


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "path,start\na.mp4,soon\n", "line 2, column 'start': 'soon': expected a number"),
        ("a.csv", "path,label\n,run\n", "line 2: no path"),
        ("a.csv", "path\na.mp4,run\n", "line 2: more cells"),
        ("a.csv", "path,start,end\na.mp4,5,3\n", "line 2: .*a segment from 5.0 to 3.0 s"),
        ("a.csv", "path,fps\na.mp4,0\n", "line 2: .*0.0 frames a second"),
        ("a.csv", "path,split\na.mp4,dev\n", "line 2, column 'split': 'dev'"),
        ("a.csv", "path\n", "nothing to read"),
        ("a.jsonl", '{"path": "a.mp4"}\n{"path": 3.5}\n', "line 2, column 'path': 3.5"),
        ("a.jsonl", '{"path": "a.mp4", "label": ["x"]}\n', "column 'label'.*expected text"),
        ("a.jsonl", '{"path": "a.mp4", "end": true}\n', "column 'end': True"),
        ("a.jsonl", "[1]\n", "line 1: expected an object"),
        ("a.jsonl", "{\n", "line 1: not JSON"),
        ("a.parquet", "no table", "no Parquet file"),
    ],
)
def test_user_errors_of_manifests(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message) as error:
        read_source(f"{tmp_path}/{name}")
    assert "\n" not in str(error.value)


def test_user_errors_of_parquet(tmp_path):
    path = write_manifest(tmp_path / "a.parquet", [{"path": "a.mp4", "start": "soon"}])
    with pytest.raises(UserError, match="row 0, column 'start': 'soon': expected a number"):
        read_source(str(path))
    path = write_manifest(tmp_path / "b.parquet", [{"file": "a.mp4"}])
    with pytest.raises(UserError, match="no column 'path'"):
        read_source(str(path))
    with pytest.raises(UserError, match=r"manifest is a \.csv, \.jsonl or \.parquet"):
        read_source(f"manifest:{touch(tmp_path, 'a.txt')}/a.txt")
