import os
import re
import zipfile
from pathlib import Path

import pytest

from toto.errors import UserError
from toto.media.file import open_file
from toto.media.item import Item, Location
from toto.media.sources import Source, open_source, read_source, read_sources


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
    assert [Path(item.location.path).read_bytes() for item in items] == [b"x"] * 3
    assert {item.source for item in items} == {str(tmp_path)}


def test_folder_of_classes(tmp_path):
    touch(tmp_path, "run/1.mp4", "jump/x/2.mp4")
    assert table(read_source(str(tmp_path))) == [
        ("jump/x/2.mp4", "jump", None),
        ("run/1.mp4", "run", None),
    ]


def test_folder_of_splits(tmp_path):
    touch(tmp_path, "train/run/1.mp4", "validation/jump/2.mp4")
    assert table(read_source(str(tmp_path))) == [
        ("train/run/1.mp4", "run", "train"),
        ("validation/jump/2.mp4", "jump", "val"),
    ]
    touch(tmp_path, "test/3.mp4")
    assert [item.label for item in read_source(str(tmp_path))] == [None] * 3


def test_links(tmp_path):
    data = touch(tmp_path / "data", "a/1.mp4")
    (data / "circle").symlink_to(data)
    (data / "b").symlink_to(data / "a")
    (data / "a" / "dangling.mp4").symlink_to("nowhere")
    keys = [item.key for item in read_source(str(data))]
    assert keys == ["a/1.mp4", "a/dangling.mp4", "b/1.mp4", "b/dangling.mp4"]


def test_one_file(tmp_path):
    touch(tmp_path, "a.mp4", "what?split=val")
    path = str(tmp_path / "a.mp4")
    assert read_source(path) == [Item(Location(path), "a.mp4", source=path)]
    assert read_source(f"file://{path}")[0].location.path == path
    assert read_source(f"{path}?split=val")[0].split == "val"
    assert table(read_source(str(tmp_path / "what?split=val"))) == [("what?split=val", None, None)]


def test_the_protocol(tmp_path):
    source = open_source(str(touch(tmp_path, "a.mp4")))
    assert isinstance(source, Source)
    assert (source.name, len(list(source.items()))) == (str(tmp_path), 1)


def test_home_and_here(tmp_path, monkeypatch):
    touch(tmp_path, "d/a.mp4")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    places = {"~/d": f"{tmp_path}/d/a.mp4", "folder:~/d": f"{tmp_path}/d/a.mp4", "d": "d/a.mp4"}
    for name, path in places.items():
        (item,) = read_source(name)
        assert (item.location.path, item.source) == (path, name)
    with pytest.raises(UserError, match="listed twice"):
        read_sources(["~/d", "folder:d"])


def test_splits_of_whole_sources(tmp_path):
    touch(tmp_path / "flat", "a.mp4")
    touch(tmp_path / "split", "train/a.mp4", "val/b.mp4")
    assert [i.split for i in read_source(f"{tmp_path}/flat?split=validation")] == ["val"]
    with pytest.raises(UserError, match=r"'val/b\.mp4' is of split 'val', not 'train'"):
        read_source(f"{tmp_path}/split?split=train")
    with pytest.raises(UserError, match="'tain': train, val or test"):
        read_source(f"{tmp_path}/flat?split=tain")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("{}/none", "no such file or folder"),
        ("{}/empty", "nothing to read"),
        ("imagefoldr:{}", "unknown layout 'imagefoldr': did you mean 'imagefolder'"),
        ("folder:{}?splt=val", "unknown option of layout 'folder': 'splt': did you mean 'split'"),
        ("{}/d?fps=25", "unknown option of layout 'folder': 'fps'"),
        ("frames:{}?fps=fast", "fps 'fast': expected a number"),
        ("frames:{}/frames?fps=-1", "-1.0 frames a second"),
        ("{}?split", "expected option=value"),
        ("folder:", "expected [layout:]location"),
        ("folder:{}/none", "no such folder"),
        ("frames:{}", "no numbered images"),
        ("imagefolder:{}", "no images or videos"),
        ("imagefolder:{}/loose", "'loose.jpg': expected class/file"),
        ("imagefolder:{}/split", "'train/loose.jpg': expected split/class/file"),
        ("{}/*.mp4", "patterns name tar archives"),
        ("nosuch://bucket/a", "Protocol not known"),
        ("memory://none", "no such file or folder"),
        ("folder:memory://none", "nothing to read"),
    ],
)
def test_mistakes(tmp_path, name, message):
    touch(tmp_path, "d/a", "empty/.hidden", "loose/a/1.jpg", "loose/loose.jpg", "frames/1.jpg")
    touch(tmp_path, "split/train/a/1.jpg", "split/train/loose.jpg")
    if "frames:" in name or name == "imagefolder:{}":
        tmp_path = tmp_path / ("" if "/frames" in name else "d")
    with pytest.raises(UserError, match=re.escape(message)) as error:
        read_source(name.format(tmp_path))
    assert "\n" not in str(error.value)


def test_several_sources(tmp_path):
    one, two = touch(tmp_path / "one", "a.mp4"), touch(tmp_path / "two", "b.mp4")
    assert [item.key for item in read_sources([str(two), str(one)])] == ["b.mp4", "a.mp4"]
    with pytest.raises(UserError, match="listed twice"):
        read_sources([str(one), str(one / "a.mp4")])
    touch(two, "a.mp4")
    with pytest.raises(UserError, match=r"one/a\.mp4.*two/a\.mp4.*same key"):
        read_sources([str(one), str(two)])


def test_nothing_is_written_into_a_folder_of_files(tmp_path, monkeypatch):
    touch(tmp_path / "one", "a.mp4", "b/c.mp4")
    monkeypatch.chdir(tmp_path)
    for out in ("one", "one/tokens", "two/../one/b/tokens"):
        with pytest.raises(UserError, match="lies in the source"):
            read_sources(["one"], Path(out))
    for out in ("two", "ones", "one/.tokens"):
        assert len(read_sources(["one"], Path(out))) == 2
    assert len(read_sources(["one/a.mp4"], Path("one/tokens"))) == 1


def published_image_folder(root: Path) -> list[tuple[str, str]]:
    """(file, class) by the rule in torchvision's documentation: sorted classes, all files below."""
    classes = sorted(entry.name for entry in os.scandir(root) if entry.is_dir())
    return [
        (f"{folder}/{file}", name)
        for name in classes
        for folder, _, files in sorted(os.walk(root / name))
        for file in sorted(files)
        if file.lower().endswith((".jpg", ".jpeg", ".png"))
    ]


def test_image_folder(tmp_path):
    names = "n02/b.JPEG n02/a.JPEG n01/images/c.png n01/boxes.txt n10/d.jpg words.txt"
    touch(tmp_path, *names.split())
    items = read_source(f"imagefolder:{tmp_path}?split=train")
    listed = [(item.location.path, item.label) for item in items]
    assert listed == published_image_folder(tmp_path)
    assert {item.split for item in items} == {"train"}
    touch(tmp_path / "s", "val/n1/a.jpg", "train/n2/b.jpg", "README.md")
    assert table(read_source(f"imagefolder:{tmp_path}/s")) == [
        ("train/n2/b.jpg", "n2", "train"),
        ("val/n1/a.jpg", "n1", "val"),
    ]


def test_tiny_imagenet(tmp_path):
    """As its archive is: below one folder, the classes of `val` in a list, `test` without any."""
    root = tmp_path / "tiny-imagenet-200"
    names = "train/n1/images/n1_0.JPEG train/n2/images/n2_0.JPEG val/images/val_0.JPEG"
    touch(root, *names.split(), "val/images/val_1.JPEG", "test/images/test_0.JPEG", "words.txt")
    annotations = "val_1.JPEG\tn1\t0\t32\t44\t62\nval_0.JPEG\tn2\t52\t55\t57\t59\n"
    (root / "val" / "val_annotations.txt").write_text(annotations)
    expected = [
        ("test/images/test_0.JPEG", None, "test"),
        ("train/n1/images/n1_0.JPEG", "n1", "train"),
        ("train/n2/images/n2_0.JPEG", "n2", "train"),
        ("val/images/val_0.JPEG", "n2", "val"),
        ("val/images/val_1.JPEG", "n1", "val"),
    ]
    assert table(read_source(f"imagefolder:{root}")) == expected
    below = [(f"tiny-imagenet-200/{key}", *rest) for key, *rest in expected]
    assert table(read_source(f"imagefolder:{tmp_path}")) == below
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for path in sorted(root.rglob("*.*")):
            archive.write(path, path.relative_to(tmp_path))
    assert table(read_source(f"imagefolder:{tmp_path}/a.zip")) == below


def test_folders_of_frames(tmp_path):
    names = "train/run/1/img_001.jpg train/run/1/img_002.jpg val/jump/2/9.png val/jump/2/notes.txt"
    touch(tmp_path, *names.split(), "val/jump/cover.jpg")
    items = read_source(f"frames:{tmp_path}?fps=12.5")
    assert table(items) == [("train/run/1", "run", "train"), ("val/jump/2", "jump", "val")]
    assert items[1].location == Location(str(tmp_path / "val/jump/2"), "frames", fps=12.5)
    (one,) = read_source(f"frames:{tmp_path}/train/run/1")
    assert (one.key, one.location.part, one.location.fps) == ("1", "frames", None)
    touch(tmp_path, "0.jpg")
    with pytest.raises(UserError, match="is the folder one video"):
        read_source(f"frames:{tmp_path}")


def test_remote_folders(memory, tmp_path):
    for name in ("train/run/1.mp4", "val/jump/2.mp4", ".hidden/3.mp4", "val/.4.mp4"):
        memory.pipe(f"/data/{name}", name.encode())
    items = read_source("memory://data")
    assert table(items) == [
        ("train/run/1.mp4", "run", "train"),
        ("val/jump/2.mp4", "jump", "val"),
    ]
    for item in items:
        with open_file(item.location) as file:
            assert file.read().decode() == item.key
    assert table(read_source("memory://data/train/run/1.mp4")) == [("1.mp4", None, None)]
    assert len(read_sources(["memory://data", "memory://data/train/run/1.mp4?split=val"][:1])) == 2
    with pytest.raises(UserError, match="listed twice"):
        read_sources(["memory://data", "memory://data/train/run/1.mp4"])
    memory.pipe("/frames/a/1.jpg", b"x")
    assert read_source("frames:memory://frames")[0].location.path == "memory://frames/a"


def test_zip_archives(tmp_path, memory, monkeypatch):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in ("top/n01/a.jpg", "top/n02/b.jpg", "top/.DS_Store"):
            archive.writestr(name, name)
    memory.pipe("/a.zip", (tmp_path / "a.zip").read_bytes())
    for name in (
        f"zip://top::{tmp_path}/a.zip",
        f"zip://top/*::{tmp_path}/a.zip",
        f"imagefolder:zip://top::{tmp_path}/a.zip",
        "zip://top::memory://a.zip",
        "zip://top::simplecache::memory://a.zip",
    ):
        items = read_source(name)
        assert table(items) == [("n01/a.jpg", "n01", None), ("n02/b.jpg", "n02", None)]
        for item in items:
            with open_file(item.location) as file:
                assert file.read().decode() == f"top/{item.key}"
    for name in (f"{tmp_path}/a.zip", "memory://a.zip", f"zip://*::{tmp_path}/a.zip"):
        assert [item.key for item in read_source(name)] == ["top/n01/a.jpg", "top/n02/b.jpg"]
    monkeypatch.chdir(tmp_path)
    assert read_source("a.zip")[0].location == read_source(f"{tmp_path}/a.zip")[0].location
    with pytest.raises(UserError):
        read_source(f"zip://top::{tmp_path}/none.zip")
    (tmp_path / "bad.zip").write_bytes(b"no zip")
    with pytest.raises((UserError, OSError), match="zip"):
        read_source(f"{tmp_path}/bad.zip")


def test_many_items_are_compared_quickly(tmp_path):
    lines = "".join(f"v/{i:07d}.mp4,{i % 400}\n" for i in range(5_000))
    (tmp_path / "a.csv").write_text("path,label\n" + lines)
    (tmp_path / "b.csv").write_text("path,label\n" + lines.replace("v/", "w/"))
    assert len(read_sources([f"{tmp_path}/{name}.csv" for name in "ab"])) == 10_000
    (tmp_path / "b.csv").write_text("path,label\nv/0002345.mp4,1\n")
    with pytest.raises(UserError, match=r"v/0002345\.mp4' is listed twice"):
        read_sources([f"{tmp_path}/{name}.csv" for name in "ab"])
