"""WebDataset, tables that hold files, Hugging Face datasets: each written by its own library."""

import io
import json
import tarfile
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.media.test_sources_folders import table, touch
from toto.errors import UserError
from toto.media.file import open_file
from toto.media.item import Item
from toto.media.sources import read_source, read_sources


def picture(seed: int) -> bytes:
    """A PNG unlike all others."""
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    Image.fromarray(pixels).save(buffer := io.BytesIO(), "png")
    return buffer.getvalue()


def contents(items: list[Item]) -> list[bytes]:
    found = []
    for item in items:
        with open_file(item.location) as file:
            found.append(file.read())
    return found


def write_shard(path: Path, samples: range, split: str | None = None) -> None:
    webdataset = pytest.importorskip("webdataset")
    path.parent.mkdir(parents=True, exist_ok=True)
    with webdataset.TarWriter(str(path), encoder=False) as sink:
        for i in samples:
            sample = {"__key__": f"sample{i:04d}", "png": picture(i), "cls": f"{i % 3}".encode()}
            if split:
                sample["json"] = json.dumps({"split": split, "fps": 12, "label": "no"}).encode()
            sink.write(sample)


def read_by_webdataset(path: Path) -> list[tuple[str, bytes, str]]:
    webdataset = pytest.importorskip("webdataset")
    found = webdataset.WebDataset(str(path), shardshuffle=False)
    return [(sample["__key__"], sample["png"], sample["cls"].decode()) for sample in found]


@pytest.mark.parametrize("suffix", ["tar", "tar.gz", "tgz"])
def test_what_webdataset_wrote_and_reads(tmp_path, suffix):
    path = tmp_path / f"train-000.{suffix}"
    write_shard(path, range(7))
    items = read_source(str(path))
    ours = [
        (item.key.removeprefix("train-000/"), data, item.label)
        for item, data in zip(items, contents(items), strict=True)
    ]
    assert ours == read_by_webdataset(path) and len(ours) == 7
    kinds = {item.location.part.partition(":")[0] for item in items}
    assert kinds == ({"bytes"} if suffix == "tar" else {"member"})
    assert all(item.location.is_random_access == (suffix == "tar") for item in items)
    backwards = items[::-1]
    assert contents(backwards) == [picture(i) for i in reversed(range(7))]


def test_patterns_of_shards(tmp_path):
    for i in range(3):
        write_shard(tmp_path / f"train/shard-{i:06d}.tar", range(2 * i, 2 * i + 2), "train")
    write_shard(tmp_path / "val/shard-000000.tar", range(6, 8), "val")
    names = [f"shard-{i // 2:06d}/sample{i:04d}" for i in range(6)]
    for name in ("shard-{000000..000002}.tar", "shard-*.tar"):
        items = read_source(f"{tmp_path}/train/{name}")
        assert [item.key for item in items] == names
    assert table(items)[:2] == [(names[0], "0", "train"), (names[1], "1", "train")]
    assert items[0].location.fps == 12
    for name in ("wds:{}", "{}/{{train,val}}/*.tar", "{}/**/*.tar"):
        items = read_source(name.format(tmp_path))
        assert [item.key for item in items[-2:]] == [
            "val/shard-000000/sample0006",
            "val/shard-000000/sample0007",
        ]
        assert [item.split for item in items] == ["train"] * 6 + ["val"] * 2
        assert contents(items) == [picture(i) for i in range(8)]


def test_remote_shards(tmp_path, memory):
    for i in range(2):
        write_shard(tmp_path / f"s-{i}.tar", range(3 * i, 3 * i + 3))
        memory.pipe(f"/d/s-{i}.tar", (tmp_path / f"s-{i}.tar").read_bytes())
    for name in ("memory://d/s-{0..1}.tar", "memory://d/s-*.tar", "wds:memory://d"):
        items = read_source(name)
        assert [item.key for item in items] == [f"s-{i // 3}/sample{i:04d}" for i in range(6)]
        assert contents(items) == [picture(i) for i in range(6)]
    assert fsspec.filesystem("memory").exists("/d/s-0.tar")


def write_tar(path: Path, files: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def test_samples_of_other_forms(tmp_path):
    files = {
        "./d/a.left.jpg": b"left",
        "./d/a.right.jpg": b"right",
        "./d/a.json": b'{"label": 5, "caption": "x"}',
        "./d/b.txt": b"only text",
        "./d/c.left.JPG": b"c",
        "README": b"no sample",
    }
    path = write_tar(tmp_path / "a.tar", files)
    with pytest.raises(UserError, match=r"'\./d/a' has left\.jpg and right\.jpg: choose with ext="):
        read_source(str(path))
    items = read_source(f"{path}?ext=left.jpg")
    assert [(item.key, item.label) for item in items] == [("a/./d/a", "5"), ("a/./d/c", None)]
    assert contents(items) == [b"left", b"c"]
    long = "x" * 300 + "/é/v.mp4"  # which takes an extended header
    path = write_tar(tmp_path / "b.tar", {"v.json": b"[1]", long: b"video"})
    items = read_source(str(path))
    assert contents(items) == [b"video"] and items[0].key == f"b/{long[:-4]}"


def test_broken_archives(tmp_path):
    path = tmp_path / "a.tar"
    path.write_bytes(b"no tar" * 200)
    with pytest.raises(UserError, match=r"a\.tar': truncated, or no tar"):
        read_source(str(path))
    for text in (b"\xff", b"{"):
        bad = write_tar(tmp_path / "c.tar", {"a.json": text, "a.png": b"x"})
        with pytest.raises(UserError, match=r"member 'a\.json': expected JSON"):
            read_source(str(bad))
    bad = write_tar(tmp_path / "c.tar", {"a.json": b'{"fps": "fast"}', "a.png": b"x"})
    with pytest.raises(UserError, match="sample 'a', column 'fps': 'fast'"):
        read_source(str(bad))
    same = write_tar(tmp_path / "d.tar", {"a.png": b"x", "b.png": b"y", "a.jpg": b"z"})
    with pytest.raises(UserError, match="have the same key 'd/a'"):
        read_source(str(same))
    with pytest.raises(UserError, match="no tar archives"):
        read_source(f"wds:{touch(tmp_path / 'e', 'a.txt')}")


@pytest.mark.parametrize("suffix", ["tar", "tar.gz"])
def test_cut_archives_are_refused(tmp_path, suffix):
    """Wherever it is cut: unless all of it is there, or it ends between two members."""
    path = tmp_path / f"a.{suffix}"
    write_shard(path, range(4))
    whole = path.read_bytes()
    complete = read_source(str(path))
    refused = 0
    for cut in range(1, len(whole), 37):
        path.write_bytes(whole[:cut])
        try:
            items = read_source(str(path))
        except UserError as error:
            assert "truncated" in str(error)
            refused += 1
        else:
            assert items == complete[: len(items)]
            assert items == complete or (suffix == "tar" and cut % 512 == 0)
    assert refused > 10


@pytest.fixture
def hugging_face(tmp_path):
    """A dataset of pictures and classes, kept in several Arrow files, and its folder of files."""
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    paths = []
    for i in range(7):
        path = tmp_path / "files" / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(picture(i))
        paths.append(str(path))
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "label": datasets.ClassLabel(names=["cat", "dog"]),
            "caption": datasets.Value("string"),
        }
    )
    rows = {"image": paths, "label": [0, 1, 0, 1, 0, 1, -1], "caption": ["x"] * 7}
    return datasets.Dataset.from_dict(rows, features=features)


NAMES = ["cat", "dog", "cat", "dog", "cat", "dog", None]


def test_saved_datasets(tmp_path, hugging_face):
    hugging_face.save_to_disk(tmp_path / "saved", num_shards=3)
    for name in (f"{tmp_path}/saved", f"hf:{tmp_path}/saved?column=image"):
        items = read_source(name)
        assert [item.label for item in items] == NAMES
        assert [item.key for item in items] == [f"saved/{i:08d}" for i in range(7)]
        assert contents(items) == [picture(i) for i in range(7)]
    assert len({item.location.path for item in items}) == 3
    assert {item.location.part for item in items} >= {"row:0:image", "row:2:image"}


def test_saved_splits(tmp_path, hugging_face):
    from datasets import DatasetDict

    splits = {"train": hugging_face, "validation": hugging_face.select([6, 2])}
    DatasetDict(splits).save_to_disk(tmp_path / "both")
    items = read_source(f"{tmp_path}/both")
    assert [item.split for item in items] == ["train"] * 7 + ["val"] * 2
    assert contents(items) == [picture(i) for i in (*range(7), 6, 2)]
    items = read_source(f"hf:{tmp_path}/both?split=validation")
    assert table(items)[1] == ("both/validation/00000001", "cat", "val")
    for option, message in {
        "split=valid": "unknown split of .*did you mean 'validation'",
        "split=train[:10%25]": "without slices",
        "column=img": "unknown column of images or videos",
        "columm=image": "did you mean 'column'",
    }.items():
        with pytest.raises(UserError, match=message):
            read_source(f"hf:{tmp_path}/both?{option}")


def test_datasets_of_scripts_and_files(tmp_path, hugging_face, monkeypatch):
    """What `load_dataset` makes: of a Parquet file, with the bytes; of a folder, with the paths."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "repo").mkdir()
    hugging_face.to_parquet(tmp_path / "repo" / "train.parquet")
    items = read_source(f"hf:{tmp_path}/repo")
    assert table(items)[1] == ("repo/train/00000001", "dog", "train")
    assert contents(items) == [picture(i) for i in range(7)]
    for i in range(4):
        path = tmp_path / "folder" / "train" / ("ant", "bee")[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(i))
    items = read_source(f"hf:{tmp_path}/folder?split=train")
    assert sorted((item.label, Path(item.location.path).name) for item in items) == [
        ("ant", "0.png"),
        ("ant", "2.png"),
        ("bee", "1.png"),
        ("bee", "3.png"),
    ]
    assert {item.location.part for item in items} == {None}
    assert sorted(contents(items)) == sorted(picture(i) for i in range(4))


def test_videos_in_datasets(tmp_path):
    datasets = pytest.importorskip("datasets")
    table = pa.table({"video": [{"bytes": b"one", "path": "1.mp4"}], "image": ["not media"]})
    features = datasets.Features({"video": datasets.Video(), "image": datasets.Value("string")})
    datasets.Dataset(table.cast(features.arrow_schema)).save_to_disk(tmp_path / "saved")
    assert contents(read_source(f"{tmp_path}/saved")) == [b"one"]


def test_user_errors_of_datasets(tmp_path, hugging_face):
    hugging_face.remove_columns("image").save_to_disk(tmp_path / "none")
    with pytest.raises(UserError, match="no column"):
        read_source(f"{tmp_path}/none")
    with pytest.raises(UserError, match="hf:"):
        read_source(f"hf:{tmp_path}/nowhere/at/all")


def test_parquet_written_by_datasets(tmp_path, hugging_face):
    """The files themselves are in the table; a part of them stayed outside."""
    import datasets

    path = tmp_path / "train-00000-of-00001.parquet"
    hugging_face.save_to_disk(tmp_path / "saved")  # which takes the files in
    datasets.load_from_disk(tmp_path / "saved").to_parquet(path, batch_size=3)
    items = read_source(str(path))
    assert [item.label for item in items] == NAMES
    assert items[3].key == "train-00000-of-00001/00000003"
    assert items[3].location.part == "row:3:image"
    assert contents(items) == [picture(i) for i in range(7)]
    mixed = [
        {"bytes": None, "path": "files/5.png"},
        {"bytes": picture(1), "path": "gone.png"},
        {"bytes": None, "path": str(tmp_path / "files/3.png")},
    ]
    rows = {"media": mixed, "label": ["a", None, "c"], "fps": [None, 2.0, 3.0]}
    pq.write_table(pa.table(rows), tmp_path / "mixed.parquet")
    items = read_source(f"{tmp_path}/mixed.parquet?split=test")
    assert contents(items) == [picture(i) for i in (5, 1, 3)]
    assert [item.location.part for item in items] == [None, "row:1:media", None]
    assert [item.location.fps for item in items] == [None, 2.0, 3.0]
    assert {item.split for item in items} == {"test"}


def test_parquet_with_several_columns_of_bytes(tmp_path):
    rows = {"left": [b"l"], "right": [b"r"], "key": ["mine"]}
    pq.write_table(pa.table(rows), tmp_path / "a.parquet")
    with pytest.raises(UserError, match="columns left, right: choose with column="):
        read_source(f"{tmp_path}/a.parquet")
    (item,) = read_source(f"{tmp_path}/a.parquet?column=right")
    assert (item.key, contents([item])) == ("mine", [b"r"])
    with pytest.raises(UserError, match="did you mean 'right'"):
        read_source(f"{tmp_path}/a.parquet?column=rihgt")


def test_layouts_side_by_side(tmp_path, hugging_face):
    write_shard(tmp_path / "a.tar", range(2))
    hugging_face.save_to_disk(tmp_path / "saved")
    names = [f"{tmp_path}/files", f"{tmp_path}/a.tar", f"{tmp_path}/saved"]
    items = read_sources(names)
    assert [item.source for item in items] == [names[0]] * 7 + [names[1]] * 2 + [names[2]] * 7
    assert contents(items) == [picture(i) for i in (*range(7), *range(2), *range(7))]
