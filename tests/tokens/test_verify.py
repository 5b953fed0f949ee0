"""What `toto inspect --deep` finds."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.tiny import make_dataset, make_videos, save_tokenizer
from toto.config import read_json, write_json
from toto.errors import UserError
from toto.studies.inspect import describe
from toto.tokens.rows import ROWS, write_rows
from toto.tokens.store import TokenDataset
from toto.tokens.verify import verify


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Four videos and one file that is none, in three shards."""
    folder = tmp_path_factory.mktemp("verify")
    source = make_videos(folder / "source", [4, 6, 8, 10])
    (source / "video001b.mp4").write_text("no")
    visual = save_tokenizer(folder / "tokenizer")
    return make_dataset(source, visual, folder / "data", shard_items=2).folder


@pytest.fixture
def data(made, tmp_path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "data"))


def flip(path: Path, place: int) -> None:
    damaged = bytearray(path.read_bytes())
    damaged[place] ^= 1
    path.write_bytes(damaged)


def test_a_flipped_bit_in_a_shard(data):
    verify(TokenDataset(data))
    checksums = TokenDataset(data).info.checksums
    assert len(checksums) == 6
    for name in checksums:
        healthy = (data / name).read_bytes()
        flip(data / name, -5)
        with pytest.raises(UserError, match=f"{name} is not what"):
            verify(TokenDataset(data))
        (data / name).unlink()
        with pytest.raises(UserError, match=f"{name} is not what"):
            verify(TokenDataset(data))
        (data / name).write_bytes(healthy)
    verify(TokenDataset(data))


def test_a_checksum_that_is_not_there(data):
    info = read_json(data / "dataset.json", "")
    for name in info["checksums"]:
        others = {key: value for key, value in info["checksums"].items() if key != name}
        write_json(data / "dataset.json", info | {"checksums": others})
        with pytest.raises(UserError, match=f"it has no checksum of .*{name}"):
            verify(TokenDataset(data))


def reversed_rows(rows: pa.Table) -> pa.Table:
    return rows.take(list(reversed(range(len(rows)))))


def another_first(rows: pa.Table) -> pa.Table:
    place = ROWS.get_field_index("first")
    return rows.set_column(place, ROWS.field("first"), pa.array([1] * len(rows), pa.int64()))


def without_last(rows: pa.Table) -> pa.Table:
    return rows.slice(0, len(rows) - 1)


def twice(rows: pa.Table) -> pa.Table:
    return pa.concat_tables([rows, rows])


@pytest.mark.parametrize("change", [reversed_rows, another_first, without_last, twice])
def test_an_index_of_other_rows(data, change: Callable[[pa.Table], pa.Table]):
    path = data / "index.parquet"
    write_rows(path, [change(pq.read_table(path, schema=ROWS))])
    with pytest.raises(UserError, match=r"index\.parquet does not hold the rows of the shards"):
        describe(data, deep=True)


def test_failures_that_are_no_more(data):
    write_rows(data / "failures.parquet", [])
    with pytest.raises(UserError, match=r"failures\.parquet does not hold the rows"):
        describe(data, deep=True)
    (data / "failures.parquet").write_bytes(b"PAR1 nonsense PAR1")
    with pytest.raises(UserError, match=r"failures\.parquet does not hold the rows"):
        verify(TokenDataset(data))


def test_an_index_in_other_portions_is_the_same(data):
    path = data / "index.parquet"
    pq.write_table(pq.read_table(path, schema=ROWS), path, row_group_size=1)
    assert "everything as recorded" in describe(data, deep=True)


def test_another_tokenizer_than_the_recorded(data):
    flip(data / "tokenizer/model.safetensors", -5)
    with pytest.raises(UserError, match="tokenizer is not the tokenizer"):
        describe(data, deep=True)
    (data / "tokenizer/model.safetensors").unlink()
    with pytest.raises(UserError, match=r"model\.safetensors does not fit"):
        describe(data, deep=True)
