import errno
import os
import resource
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from tests.children import run, run_until_write
from tests.tiny import make_dataset, make_videos, save_tokenizer
from tests.training.toys import PRETRAIN
from toto.api import Toto
from toto.tasks.features import export_features
from toto.training.runs import pretrain
from toto.weights import write_weights

OLD, NEW = {"a": torch.zeros(2000)}, {"a": torch.ones(2000)}


@pytest.fixture
def umask(request) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def modes(folder: Path) -> dict[str, int]:
    """Permissions of all files and folders below."""
    return {
        str(path.relative_to(folder)): path.stat().st_mode & 0o777 for path in folder.rglob("*")
    }


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077, 0o002], indirect=True)
def test_who_may_read_weights_the_umask_says(tmp_path, umask):
    path = tmp_path / "a.safetensors"
    (tmp_path / ".a.safetensors.partial").touch(0o600)  # of a write that was killed
    for _ in range(2):
        write_weights(path, NEW)
        assert modes(tmp_path) == {"a.safetensors": 0o666 & ~umask}
        path.chmod(0o600)


@pytest.mark.parametrize("umask", [0o027], indirect=True)
def test_others_may_read_all_that_a_run_leaves(tmp_path, umask):
    tokenizer = save_tokenizer(tmp_path / "tokenizer")
    # As someone else keeps it for himself: what is copied of it is not.
    for path in tokenizer.iterdir():
        path.chmod(0o600)
    tokenizer.chmod(0o700)
    source = make_videos(tmp_path / "videos", [9, 4, 6] * 4)
    dataset = make_dataset(source, tokenizer, tmp_path / "all/data")
    for path in dataset.tokenizer_folder.iterdir():
        path.chmod(0o600)
    dataset.tokenizer_folder.chmod(0o700)
    pretrain(replace(PRETRAIN, data=(dataset.folder,)), tmp_path / "all/run")
    loaded = Toto.load(tmp_path / "all/run/model", "cpu")
    export_features(loaded, dataset, tmp_path / "all/features", "1", "mean")
    found = modes(tmp_path / "all")
    assert {path.rsplit(".", 1)[-1] for path in found} > {"safetensors", "json", "distcp", "npy"}
    mine = {path for path in found if path.startswith("data/tokenizer")}
    for path in found.keys() - mine:
        wanted = 0o750 if (tmp_path / "all" / path).is_dir() else 0o640
        assert (path, oct(found[path])) == (path, oct(wanted))


def test_weights_come_back_with_what_is_said_of_them(tmp_path):
    path = tmp_path / "a.safetensors"
    weights = {
        "turned": torch.randn(3, 5).T,
        "row": torch.randn(4, 4)[1],
        "half": torch.ones(2).half(),
    }
    write_weights(path, weights, {"format": "pt"})
    found = load_file(path)
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[name], weights[name]) for name in weights)
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"format": "pt"}


def overwrite(path: Path) -> None:
    write_weights(path, NEW)


def test_weights_are_the_old_or_the_new_ones_at_every_kill(tmp_path):
    path, found = tmp_path / "a.safetensors", []
    for moment in range(1, 10):
        write_weights(path, OLD)
        ended = run_until_write(moment, tmp_path, overwrite, path)
        found.append(float(load_file(path)["a"].mean()))
        if ended == 0:
            break
    assert ended == 0
    assert found[0] == 0
    assert found[-1] == 1
    assert found == sorted(found)
    assert len(found) > 2
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


def overwrite_on_a_full_disk(path: Path) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    with pytest.raises(OSError, match="too large") as caught:
        write_weights(path, NEW)
    assert (caught.value.errno, caught.value.filename) == (errno.EFBIG, str(path))


def test_a_write_that_fails_leaves_the_old_weights_and_says_where(tmp_path):
    path = tmp_path / "a.safetensors"
    write_weights(path, OLD)
    assert run(overwrite_on_a_full_disk, path) == 0
    assert torch.equal(load_file(path)["a"], OLD["a"])
