"""Real collections, read as they were published."""

import csv
import io
import random
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.media.test_sources_archives import contents, write_tar
from tests.media.test_sources_folders import published_image_folder
from toto.media.file import open_file
from toto.media.sources import read_source, read_sources

pytestmark = pytest.mark.real


def test_tiny_imagenet_in_its_zip(real):
    archive = real / "images/tiny-imagenet-100.zip"
    items = read_source(f"imagefolder:zip://tiny-imagenet-100::{archive}")
    splits = [item.split for item in items]
    assert (splits.count("train"), splits.count("val")) == (25_000, 5_000)
    assert len({item.label for item in items}) == 100
    for item in random.Random(0).sample(items, 50):
        with open_file(item.location) as file, Image.open(file) as image:
            assert image.size == (64, 64)
            image.load()


def test_tiny_imagenet_in_folders(real):
    root = real / "images/seshuad_IMagenet/tiny-imagenet-200/train"
    items = read_source(f"imagefolder:{root}?split=train")
    assert [(item.location.path, item.label) for item in items] == published_image_folder(root)
    assert len(items) == 1000


def test_the_same_pictures_in_an_archive(real, tmp_path):
    folder = real / "images/YoongiKim_CIFAR-10-images/test"
    items = read_source(f"imagefolder:{folder}")[:300]
    files = {item.key: data for item, data in zip(items, contents(items), strict=True)}
    write_tar(tmp_path / "a.tar", files)
    write_tar(tmp_path / "b.tar.gz", files, "w:gz")
    for name in ("a.tar", "b.tar.gz"):
        assert contents(read_source(f"{tmp_path}/{name}")) == list(files.values())


def test_folders_of_frames(real):
    items = read_sources(
        [
            f"frames:{real}/actions/tyagi-iiitv_UCF101_release/images_class1?fps=25",
            f"frames:{real}/actions/RaivoKoot_Video-Dataset-Loading-Pytorch/demo_dataset",
        ]
    )
    assert len(items) == 6 + 4
    assert {item.label for item in items} == {None, "running", "jumping"}
    assert all(any(Path(item.location.path).glob("*.jpg")) for item in items)


def test_labelled_segments(real, tmp_path):
    """The segments of a real table, in seconds, as a manifest."""
    folder = real / "actions/noahzhy_FIR-Image-Action-Dataset"
    with (folder / "segments_derived.csv").open() as file:
        rows = list(csv.DictReader(file))
    lines = [
        f"{row['video']},{int(row['start_frame']) / 25},{int(row['end_frame']) / 25},{row['label']}"
        for row in rows
    ]
    (tmp_path / "a.csv").write_text("path,start,end,label\n" + "\n".join(lines))
    items = read_source(f"{tmp_path}/a.csv?root={folder}/video")
    assert len(items) == 182 and len({item.label for item in items}) == 8
    assert all(Path(item.location.path).is_file() for item in items)
    assert np.isclose(items[0].location.start, 114 / 25)


def test_real_pictures_through_datasets(real, tmp_path):
    datasets = pytest.importorskip("datasets")
    paths = sorted((real / "images/EliSchwartz_imagenet-sample-images").glob("*.JPEG"))
    rows = {"image": [str(path) for path in paths]}
    features = datasets.Features({"image": datasets.Image()})
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(tmp_path / "saved")
    datasets.load_from_disk(tmp_path / "saved").to_parquet(tmp_path / "a.parquet")
    for name in ("saved", "a.parquet"):
        found = contents(read_source(f"{tmp_path}/{name}"))
        assert found == [path.read_bytes() for path in paths]
    with Image.open(io.BytesIO(found[0])) as image:
        image.load()
