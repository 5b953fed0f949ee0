"""Which folders must be there, and what is said when one is not; mounts: tests/tokens."""

from pathlib import Path

import pytest

from toto.media.item import Item, Location
from toto.media.sources.roots import Roots, roots_of


def items(source: str, *paths: Path | str) -> list[Item]:
    return [Item(Location(str(path)), str(path), source=source) for path in paths]


def folders(tmp_path: Path, *names: str) -> list[Path]:
    for name in names:
        (tmp_path / name).mkdir(parents=True)
    return [tmp_path / name for name in names]


def test_the_folders_are_those_that_hold_a_sources_files(tmp_path):
    a, b, c = folders(tmp_path, "k/train/run", "k/train/runner", "other")
    listed = items("k", b / "1.mp4", a / "2.mp4", a / "3.mp4", tmp_path / "missing/x/4.mp4")
    listed += items("o", c / "1.mp4", f"zip://in/2.png::{a}/3.zip", "https://host/5.mp4")
    assert roots_of(listed) == sorted(map(str, [a.parent, tmp_path]))
    assert roots_of(items("k", a / "1.mp4")) == [str(a)]
    assert roots_of(items("k", tmp_path / "missing/1.mp4", "s3://bucket/2.mp4")) == []


def test_relative_paths_are_meant_from_here(tmp_path, monkeypatch):
    (a,) = folders(tmp_path, "a")
    monkeypatch.chdir(tmp_path)
    assert roots_of(items("k", "a/1.mp4", "./a/../a/2.mp4")) == [str(a)]
    Roots([str(a)]).check("a/1.mp4")
    monkeypatch.chdir(a)
    roots = Roots([str(a)])
    a.rename(tmp_path / "b")
    roots.check(str(tmp_path / "b/1.mp4"))  # of no source
    with pytest.raises(OSError, match=r"is its mount gone\?"):
        roots.check(str(a / "1.mp4"))


def test_a_folder_that_is_gone_is_no_matter_of_files_elsewhere(tmp_path):
    a, ab = folders(tmp_path, "a", "ab")
    roots = Roots([str(a), str(ab)])
    for path in (a / "x/1.mp4", ab / "1.mp4"):
        roots.check(str(path))
    a.rmdir()
    roots.check(str(ab / "1.mp4"))
    roots.check(f"zip://a::{ab}/1.zip")
    roots.check("https://host/1.mp4")
    for path in (str(a / "x/1.mp4"), f"zip://1.png::{a}/1.zip"):
        with pytest.raises(OSError, match="no such folder") as error:
            roots.check(path)
        assert error.value.filename == str(a)
    a.write_text("a file now")
    with pytest.raises(OSError, match="no such folder"):
        roots.check(str(a / "1.mp4"))
    with pytest.raises(OSError, match=r"is its mount gone\?"):
        Roots([str(tmp_path / "nowhere")])
