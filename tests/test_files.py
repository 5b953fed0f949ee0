from pathlib import Path

import pytest

from tests.children import run, run_until_write, start
from toto.errors import UserError, unknown
from toto.files import folder_atomically, only_writer, refuse_occupied, write_atomically

OLD, NEW = b"old" * 1000, b"new!" * 1000


def overwrite(path: Path) -> None:
    write_atomically(path, NEW)


def refill(path: Path) -> None:
    with folder_atomically(path) as partial:
        for name in "ab":
            (partial / name).write_bytes(NEW)


def test_a_file_is_the_old_or_the_new_one_at_every_kill(tmp_path):
    path = tmp_path / "file"
    found = []
    for moment in range(1, 10):
        path.write_bytes(OLD)
        ended = run_until_write(moment, tmp_path, overwrite, path)
        found.append(path.read_bytes())
        if ended == 0:
            break
    assert ended == 0
    assert len(found) == 3  # killed before opening, before renaming, and not at all
    assert found == [OLD, OLD, NEW]


@pytest.mark.parametrize("existed", [False, True])
def test_a_folder_is_never_half_there(tmp_path, existed):
    path = tmp_path / "folder"
    seen = set()
    for moment in range(1, 10):
        if existed:
            path.mkdir(exist_ok=True)
            for name in "ab":
                (path / name).write_bytes(OLD)
        ended = run_until_write(moment, tmp_path, refill, path)
        files = {p.name: p.read_bytes() for p in path.iterdir()} if path.exists() else None
        assert files in (None, {"a": OLD, "b": OLD}, {"a": NEW, "b": NEW})
        seen.add(None if files is None else files["a"])
        if ended == 0:
            break
    assert ended == 0
    assert files == {"a": NEW, "b": NEW}
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


def test_an_error_while_filling_leaves_the_old_folder(tmp_path):
    refill(tmp_path / "folder")
    with pytest.raises(ZeroDivisionError), folder_atomically(tmp_path / "folder") as partial:
        (partial / "a").write_bytes(OLD)
        raise ZeroDivisionError
    assert (tmp_path / "folder/a").read_bytes() == NEW


def hold(folder: Path, ready: Path) -> None:
    import time

    with only_writer(folder):
        ready.touch()
        time.sleep(60)


def try_to_write(folder: Path) -> None:
    with only_writer(folder):
        pass


def test_there_is_one_writer_and_its_lock_ends_with_it(tmp_path):
    child = start(hold, tmp_path / "folder", tmp_path / "ready")
    while not (tmp_path / "ready").exists():
        assert child.is_alive()
    with (
        pytest.raises(UserError, match="another process is writing"),
        only_writer(tmp_path / "folder"),
    ):
        pass
    child.kill()
    child.join()
    assert run(try_to_write, tmp_path / "folder") == 0


def test_unknown_names_get_a_hint():
    assert str(unknown("recipe", "bas", ["large", "base"])) == (
        "unknown recipe 'bas': did you mean 'base'?"
    )
    assert str(unknown("recipe", "zzz", ["large", "base"])) == (
        "unknown recipe 'zzz': known: base, large"
    )


def test_a_linked_folder_is_filled_where_it_lies(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    for _ in range(2):
        refill(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "disk/a").read_bytes() == NEW
    assert sorted(path.name for path in tmp_path.iterdir()) == ["disk", "link"]


def test_the_present_folder_is_not_replaced(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in (".", tmp_path, f"../{tmp_path.name}"):
        with pytest.raises(UserError, match="is the folder that you are in"):
            refuse_occupied(Path(name))
