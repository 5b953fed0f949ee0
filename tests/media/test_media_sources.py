from pathlib import Path

import pytest

from toto.errors import UserError
from toto.media.sources import Item, read_source, read_sources


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    return folder


def table(items: list[Item]) -> list[tuple[str, str | None, str | None]]:
    return [(item.key, item.label, item.split) for item in items]


def test_flat_folder(tmp_path):
    touch(tmp_path, "b.mp4", "a.mp4", ".hidden", ".git/c.mp4", "deep/er/c.mp4")
    items = read_source(str(tmp_path))
    assert table(items) == [(k, None, None) for k in ("a.mp4", "b.mp4", "deep/er/c.mp4")]
    assert [Path(item.path).read_bytes() for item in items] == [b"x"] * 3


def test_folder_of_classes(tmp_path):
    touch(tmp_path, "run/1.mp4", "jump/x/2.mp4")
    assert table(read_source(str(tmp_path))) == [
        ("jump/x/2.mp4", "jump", None),
        ("run/1.mp4", "run", None),
    ]


def test_folder_of_splits(tmp_path):
    touch(tmp_path, "train/run/1.mp4", "val/jump/2.mp4")
    assert table(read_source(str(tmp_path))) == [
        ("train/run/1.mp4", "run", "train"),
        ("val/jump/2.mp4", "jump", "val"),
    ]
    touch(tmp_path, "val/3.mp4")
    assert [item.label for item in read_source(str(tmp_path))] == [None] * 3


def test_links(tmp_path):
    data = touch(tmp_path / "data", "a/1.mp4")
    (data / "circle").symlink_to(data)
    (data / "b").symlink_to(data / "a")
    (data / "a" / "dangling.mp4").symlink_to("nowhere")
    keys = [item.key for item in read_source(str(data))]
    assert keys == ["a/1.mp4", "a/dangling.mp4", "b/1.mp4", "b/dangling.mp4"]


def test_one_file(tmp_path):
    touch(tmp_path, "a.mp4")
    path = str(tmp_path / "a.mp4")
    assert read_source(path) == [Item(path, "a.mp4", None, None)]


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
def test_csv_lines(tmp_path, line, key, label):
    (tmp_path / "list.csv").write_text(f"\n{line}\n")
    (item,) = read_source(str(tmp_path / "list.csv"))
    assert (item.key, item.label, item.split) == (key, label, None)
    assert Path(item.path) == tmp_path / key


def test_csv_classes_and_split(tmp_path):
    (tmp_path / "classes.txt").write_text("run\nlong jump\n")
    (tmp_path / "val.csv").write_text("a.mp4 1\nb.mp4 0\nc.mp4 other\n")
    items = read_source(str(tmp_path / "val.csv"))
    assert [item.label for item in items] == ["long jump", "run", "other"]
    assert {item.split for item in items} == {"val"}
    (tmp_path / "val.csv").write_text("a.mp4 1\nb.mp4 2\n")
    with pytest.raises(UserError, match=r"line 2: label 2: classes\.txt has 2 lines"):
        read_source(str(tmp_path / "val.csv"))


def test_user_errors(tmp_path):
    with pytest.raises(UserError, match="no such file or folder"):
        read_source(str(tmp_path / "none"))
    with pytest.raises(UserError, match="no files"):
        read_source(str(touch(tmp_path / "empty", ".hidden")))
    csv = tmp_path / "list.csv"
    for text, message in {
        "": "no lines",
        "a.mp4 1\n,2\n": "line 2",
        "a.mp4 1\n./a.mp4 2\n": "listed twice",
    }.items():
        csv.write_text(text)
        with pytest.raises(UserError, match=message) as error:
            read_source(str(csv))
        assert "\n" not in str(error.value)
    csv.write_bytes(b"caf\xe9.mp4 1\n")
    with pytest.raises(UserError, match="UTF-8"):
        read_source(str(csv))


def test_several_sources(tmp_path):
    one, two = touch(tmp_path / "one", "a.mp4"), touch(tmp_path / "two", "b.mp4")
    assert [item.key for item in read_sources([str(two), str(one)])] == ["b.mp4", "a.mp4"]
    with pytest.raises(UserError, match="listed twice"):
        read_sources([str(one), str(one / "a.mp4")])
    touch(two, "a.mp4")
    with pytest.raises(UserError, match=r"one/a\.mp4.*two/a\.mp4.*same key"):
        read_sources([str(one), str(two)])
