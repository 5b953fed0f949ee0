"""A tokenizer's folder on disk: whole or not at all."""

import json
import resource
from pathlib import Path

import pytest

from tests.children import run, run_until_write
from tests.tiny import contents, tokenizer
from toto.errors import UserError
from toto.tokenizers.base import load_tokenizer

OLD, NEW = 0, 1  # seeds


def save_new(folder: Path) -> None:
    tokenizer(NEW).save(folder)


def save_on_a_full_disk(folder: Path) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    tokenizer(NEW).save(folder)


def whole_in(folder: Path) -> str | None:
    """Fingerprint of the tokenizer that a reader finds; None if it finds no folder."""
    if not folder.exists():
        return None
    found = load_tokenizer(folder).fingerprint
    assert json.loads((folder / "config.json").read_text())["fingerprint"] == found
    return found


@pytest.mark.parametrize("existed", [False, True])
def test_a_tokenizer_is_whole_or_absent_at_every_kill(tmp_path, existed):
    folder, seen = tmp_path / "tokenizer", []
    before = tokenizer(OLD).fingerprint if existed else None
    for moment in range(1, 20):
        if existed:
            tokenizer(OLD).save(folder)
        ended = run_until_write(moment, tmp_path, save_new, folder)
        seen.append(whole_in(folder))
        if ended == 0:
            break
    after = tokenizer(NEW).fingerprint
    assert ended == 0
    assert len(seen) > 3
    assert seen[0] == before
    assert seen[-1] == after
    assert set(seen) <= {before, after, None}
    assert [path.name for path in tmp_path.iterdir()] == ["tokenizer"]


@pytest.mark.parametrize("existed", [False, True])
def test_a_write_that_fails_leaves_what_was_there(tmp_path, existed):
    folder = tmp_path / "tokenizer"
    if existed:
        tokenizer(OLD).save(folder)
    assert run(save_on_a_full_disk, folder) == 1
    assert whole_in(folder) == (tokenizer(OLD).fingerprint if existed else None)
    tokenizer(NEW).save(folder)
    assert whole_in(folder) == tokenizer(NEW).fingerprint
    assert [path.name for path in tmp_path.iterdir()] == ["tokenizer"]


def test_a_folder_of_something_else_is_not_replaced(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="holds something else: choose another folder"):
        tokenizer().save(tmp_path)
    assert contents(tmp_path) == {"notes.txt": b"mine"}
