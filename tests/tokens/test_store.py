import resource
import shutil
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.common import opening, random_dataset, random_index
from toto.config import read_json, write_json
from toto.errors import UserError
from toto.media.item import Location
from toto.tokens import reading
from toto.tokens.loader import Sequences, freeze
from toto.tokens.rows import ROW_GROUP, ROWS, write_rows
from toto.tokens.store import TokenDataset, Unfinished, unfinished

LENGTHS = [5, 1, 12, 7]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> TokenDataset:
    """Four videos and three images, two crops of each, in three shards; every other is "train"."""
    folder = tmp_path_factory.mktemp("store") / "data"
    splits = ["train", "test"]
    random_dataset(folder, 4, LENGTHS, 2, 30, images=3, crops=2, shard_items=3, splits=splits)
    return TokenDataset(folder)


def rows_of(data: TokenDataset) -> list[dict]:
    """The index as another reader sees it."""
    return pq.read_table(data.folder / "index.parquet").to_pylist()


def test_rows_and_columns_are_those_of_the_index(data):
    rows = rows_of(data)
    assert len(data) == len(rows) == 14
    for name in ("key", "path", "label", "split", "kind", "part"):
        assert data.column(name).tolist() == [row[name] for row in rows]
    for name in ("hash", "group", "crop", "shard", "first", "frames"):
        values = data.column(name)
        assert values.dtype == ROWS.field(name).type.to_pandas_dtype()
        assert values.tolist() == [row[name] for row in rows]
    rates = data.column("rate")
    assert np.isnan(rates).tolist() == [row["rate"] is None for row in rows]
    videos = data.matching("rate", lambda rate: rate > 0)
    assert data.column("first", videos, np.int32).tolist() == [
        row["first"] for row in rows if row["kind"] == "video"
    ]
    asked = np.array([13, 0, 5, 5])
    for item, row in zip(data.items(asked), asked, strict=True):
        assert item == data.item(int(row))
        assert vars(item) == {name: rows[row][name] for name in vars(item)}
        assert item.location == Location(item.path, None, None, None, item.fps)
    assert data.items(np.empty(0, np.int64)) == []


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 400), st.integers(1, 300), st.integers(0, 9))
def test_strings_are_encoded_as_they_are(tmp_path_factory, count, different, seed):
    rng = np.random.default_rng(seed)
    labels = [f"label {i}" if i else None for i in rng.integers(different, size=count)]
    folder = tmp_path_factory.mktemp("encoded")
    random_dataset(folder / "data", 1, 1, 1, 2)
    table = pa.Table.from_pylist([{"label": label} for label in labels], schema=ROWS)
    write_rows(folder / "data" / "index.parquet", [table])
    names, places = TokenDataset(folder / "data").encoded("label")
    assert len(set(names)) == len(names)
    assert [names[i] if i >= 0 else None for i in places] == labels
    assert places.itemsize == (1 if len(names) < 128 else 2)


def test_codes_are_those_of_the_shards(data):
    whole = [np.load(data.folder / f"shards/{shard:05d}.npy") for shard in range(3)]
    rows = np.array([9, 0, 4, 13, 4])
    firsts, frames = np.array([0, 1, 7, 0, 0]), np.array([1, 3, 5, 1, 12])
    at = np.array([21, 4, 8, 3, 9]) - 3
    at[1] = 1
    out = np.full((30, 2, 2), 999, np.uint16)
    expected = out.copy()
    items = data.items(rows)
    for item, first, count, place in zip(items, firsts, frames, at, strict=True):
        own = whole[item.shard][item.first : item.first + item.frames]
        expected[place : place + count] = own[first : first + count]
        assert np.array_equal(data.codes(item), own)
        assert np.array_equal(data.codes(item, int(first), 3), own[first : first + 3])
    data.gather(rows, firsts, frames, at, out)
    # Two of them overlap on purpose; the rest are where they belong.
    assert np.array_equal(out[:4], expected[:4])
    assert np.array_equal(out[18:], expected[18:])
    assert data.codes(items[0], 50).shape == (0, 2, 2)


@pytest.mark.parametrize("at_once", [1, 2, 7, 4096])
def test_codes_are_counted_exactly(data, at_once, monkeypatch):
    monkeypatch.setattr(reading, "_AT_ONCE", at_once)
    whole = [np.load(data.folder / f"shards/{shard:05d}.npy") for shard in range(3)]
    everything = np.concatenate([codes.ravel() for codes in whole])
    assert data.code_counts().tolist() == np.bincount(everything, minlength=30).tolist()
    rng = np.random.default_rng(0)
    for count in (0, 1, 5, 13):
        rows = rng.permutation(len(data))[:count]
        codes = [data.codes(item).ravel() for item in data.items(rows)]
        plain = np.bincount(np.concatenate([np.empty(0, int), *codes]), minlength=30)
        assert data.code_counts(rows).tolist() == plain.tolist()


def test_hours_count_each_video_once(data):
    assert data.hours() == pytest.approx(sum(LENGTHS) / 7.5 / 3600)


def test_thousands_of_shards_take_no_descriptors(tmp_path):
    random_dataset(tmp_path / "data", 300, 4, 1, 30, shard_items=1)
    read = Sequences(freeze([TokenDataset(tmp_path / "data")], (), 4, 0, "train", 0.1))
    opened = Path("/proc/self/fd")
    before = len([*opened.iterdir()])
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before + 8, hard))
    try:
        read.batch(0, read.clips)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert len([*opened.iterdir()]) <= before + 1


def test_data_sets_of_other_versions_and_unfinished_ones_are_refused(data, tmp_path):
    shutil.copytree(data.folder, tmp_path / "data")
    info = read_json(tmp_path / "data" / "dataset.json", "")
    write_json(tmp_path / "data" / "dataset.json", info | {"version": 1})
    with pytest.raises(UserError, match="version 1, version 3 is read here"):
        TokenDataset(tmp_path / "data")
    write_json(tmp_path / "data" / "dataset.json", info)
    (tmp_path / "data" / "index.parquet").unlink()
    with pytest.raises(UserError, match="not finished: run `none` again"):
        TokenDataset(tmp_path / "data")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"grid": "4x4"}, "grid"),
        ({"settings": {"view": {}}, "dtype": "int8"}, "dtype"),
        ({"checksums": None}, "checksums"),
        ({"owner": "me"}, "owner"),
        ({"checksums": {}, "shards": 3}, "fewer checksums than shards"),
    ],
)
def test_a_data_set_that_says_odd_things_of_itself_is_refused(data, tmp_path, changed, said):
    shutil.copytree(data.folder, tmp_path / "data")
    path = tmp_path / "data" / "dataset.json"
    write_json(path, read_json(path, "") | changed)
    with pytest.raises(UserError, match=rf"dataset.json (does not fit Info|is damaged): .*{said}"):
        TokenDataset(tmp_path / "data")


def test_an_index_that_is_cut_short_is_refused(data, tmp_path):
    shutil.copytree(data.folder, tmp_path / "data")
    index = tmp_path / "data" / "index.parquet"
    whole = index.read_bytes()
    for kept in (0, 3, len(whole) // 2, len(whole) - 1):
        index.write_bytes(whole[:kept])
        with pytest.raises(UserError, match=r"index.parquet is damaged: "):
            TokenDataset(tmp_path / "data")
    pq.write_table(pa.table({"key": ["a"]}), index)
    with pytest.raises(UserError, match="its columns are not those of an index"):
        TokenDataset(tmp_path / "data")
    # Its end in order, what it tells of not.
    end = int.from_bytes(whole[-8:-4], "little") + 8
    index.write_bytes(whole[:4] + bytes(len(whole) - 4 - end) + whole[-end:])
    opened = TokenDataset(tmp_path / "data")
    for read in (lambda: opened.column("frames"), lambda: opened.item(0)):
        with pytest.raises(UserError, match=r"index.parquet is damaged"):
            read()


def test_an_unfinished_data_set_tells_how_far_it_came(data, tmp_path):
    assert unfinished(data.folder) is None
    out = tmp_path / "data"
    (out / "shards").mkdir(parents=True)
    info = read_json(data.folder / "dataset.json", "")
    write_json(out / "dataset.json", info | {"command": "toto tokenize it", "shards": 9})
    assert unfinished(out) == Unfinished("toto tokenize it", 0, 9, 0, 0)
    for shard, reasons in ((3, [None, "empty", None]), (5, ["cut off"]), (6, [])):
        table = pa.Table.from_pylist([{"failure": reason} for reason in reasons], schema=ROWS)
        # As a shard is written: by pyarrow's own settings.
        pq.write_table(table, out / "shards" / f"{shard:05d}.parquet")
    np.save(out / "shards" / "00007.npy", np.zeros((1, 2, 2), np.uint16))
    assert unfinished(out) == Unfinished("toto tokenize it", 3, 9, 2, 2)
    with pytest.raises(UserError, match="not a token data set"):
        unfinished(tmp_path)


@pytest.mark.parametrize("sizes", [[], [0], [3], [1000] * 40, [ROW_GROUP], [2 * ROW_GROUP + 1, 5]])
def test_rows_of_any_portions_come_out_in_whole_groups(tmp_path, sizes):
    keys = iter(range(10**6))
    tables = [
        pa.Table.from_pylist([{"crop": next(keys) % 30_000} for _ in range(size)], schema=ROWS)
        for size in sizes
    ]
    write_rows(tmp_path / "rows.parquet", iter(tables))
    file = pq.ParquetFile(tmp_path / "rows.parquet")
    assert file.read().column("crop").to_pylist() == [i % 30_000 for i in range(sum(sizes))]
    groups = [file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups)]
    assert all(size == ROW_GROUP for size in groups[:-1])
    assert [path.name for path in tmp_path.iterdir()] == ["rows.parquet"]


def test_rows_that_cannot_be_written_leave_what_was_there(tmp_path):
    def broken():
        yield ROWS.empty_table()
        raise OSError("no space left")

    write_rows(tmp_path / "rows.parquet", [])
    before = (tmp_path / "rows.parquet").read_bytes()
    with pytest.raises(OSError, match="no space"):
        write_rows(tmp_path / "rows.parquet", broken())
    assert (tmp_path / "rows.parquet").read_bytes() == before


def opens_in(folder: Path, seconds: float, mebibytes: float, tries: int) -> None:
    """Or longer where the columns that it reads, bare, take long on this machine, too."""
    opened = opening(folder, tries)
    begun = time.perf_counter()
    columns = ["kind", "split", "hash", "group", "frames", "crop"]
    pq.read_table(folder / "index.parquet", columns=columns, use_threads=False)
    assert opened["seconds"] < max(seconds, 8 * (time.perf_counter() - begun))
    assert opened["peak_mib"] < mebibytes


def test_a_million_rows_open_quickly(tmp_path):
    random_index(tmp_path / "data", 1_000_000, 4, 100)
    opens_in(tmp_path / "data", seconds=1, mebibytes=512, tries=2)


@pytest.mark.slow
def test_ten_million_rows_open_in_two_seconds_and_one_gibibyte(tmp_path):
    random_index(tmp_path / "data", 10_000_000, 4, 100)
    opens_in(tmp_path / "data", seconds=2, mebibytes=1024, tries=3)
