"""Where items come from: a folder, one file, or a CSV file of the Kinetics form."""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from toto.errors import UserError

_SPLITS = ("train", "val", "test")
# A path ends in a suffix, and its label follows the last one: both may contain spaces and commas.
_WITH_SUFFIX = re.compile(r"^(.*\.\w+)(?:\s*,\s*|\s+)(\S.*)$")
_WITHOUT_SUFFIX = re.compile(r"^(.*\S)(?:\s*,\s*|\s+)([^\s,/.]+)$")
_ENDS_IN_SUFFIX = re.compile(r"\.[A-Za-z]\w{1,4}$")


@dataclass(frozen=True, slots=True)
class Item:
    """One media file of a source.

    Attributes:
        path: where the file is.
        key: what it is called within its sources, with forward slashes; unique among them.
        label: its class, where the source tells.
        split: "train", "val" or "test", where the source tells.
    """

    path: str
    key: str
    label: str | None
    split: str | None


def read_source(source: str) -> list[Item]:
    """List the items of one source.

    A source is one of

    - a folder: all files below it, sorted by key, hidden ones left out. If every file lies below
      folders named train, val or test, these are the splits. The label is the next folder's name
      if every file lies in one;
    - a `.csv` file of lines `path label` or `path,label`, without a header, as Kinetics and
      SlowFast have it. Relative paths start at the CSV's folder. The split is the file's stem if
      that is train, val or test. Integer labels become lines of `classes.txt` if it lies beside;
    - any other file: the one item.

    Raises:
        UserError: there is nothing to read, or a line of the CSV makes no sense.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        return _read_folder(path)
    if not path.is_file():
        raise UserError(f"source {source!r}: no such file or folder")
    if path.suffix.lower() == ".csv":
        return _read_csv(path)
    return [Item(str(path), path.name, None, None)]


def read_sources(sources: Sequence[str]) -> list[Item]:
    """List the items of several sources, one source after the other.

    Raises:
        UserError: a source is bad, a file is listed twice, or two files have the same key.
    """
    items = [item for source in sources for item in read_source(source)]
    _check_unique(items)
    return items


def _check_unique(items: Sequence[Item]) -> None:
    paths: set[str] = set()
    keys: dict[str, str] = {}
    for item in items:
        path = os.path.abspath(item.path)  # noqa: PTH100  Path.absolute keeps "..", resolve stats
        if path in paths:
            raise UserError(f"{item.path!r} is listed twice")
        if item.key in keys:
            raise UserError(f"{keys[item.key]!r} and {item.path!r} have the same key {item.key!r}")
        paths.add(path)
        keys[item.key] = item.path


def _read_folder(folder: Path) -> list[Item]:
    keys = sorted(_walk(folder, "", set()))
    if not keys:
        raise UserError(f"folder {str(folder)!r}: no files in it")
    parts = [key.split("/") for key in keys]
    has_splits = all(len(part) > 1 and part[0] in _SPLITS for part in parts)
    level = 1 if has_splits else 0
    has_labels = all(len(part) > level + 1 for part in parts)
    return [
        Item(
            path=str(folder / key),
            key=key,
            label=part[level] if has_labels else None,
            split=part[0] if has_splits else None,
        )
        for key, part in zip(keys, parts, strict=True)
    ]


def _walk(folder: Path, prefix: str, above: set[tuple[int, int]]) -> Iterator[str]:
    """Yield the keys of the files below; links to folders are followed, but not in circles."""
    status = folder.stat()
    here = (status.st_dev, status.st_ino)
    if here in above:
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                yield from _walk(Path(entry.path), f"{prefix}{entry.name}/", above | {here})
            # A dangling link is kept: that it cannot be read is reported, not hidden.
            elif entry.is_file() or entry.is_symlink():
                yield prefix + entry.name


def _read_csv(path: Path) -> list[Item]:
    classes = _read_classes(path.with_name("classes.txt"))
    split = path.stem if path.stem in _SPLITS else None
    items = []
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        name, label = _split_line(line, where)
        if classes is not None and label is not None and label.isdecimal():
            if int(label) >= len(classes):
                raise UserError(
                    f"{where}: label {label}: classes.txt has {len(classes)} lines, "
                    f"so 0 to {len(classes) - 1} would be accepted"
                )
            label = classes[int(label)]
        items.append(Item(str(path.parent / name), PurePath(name).as_posix(), label, split))
    if not items:
        raise UserError(f"{str(path)!r}: no lines in it")
    _check_unique(items)
    return items


def _split_line(line: str, where: str) -> tuple[str, str | None]:
    line = line.strip()
    if "\0" in line or line[0] == ",":
        raise UserError(f"{where}: {line!r}: expected 'path label' or 'path,label'")
    match = _WITH_SUFFIX.match(line)
    if match and not _ENDS_IN_SUFFIX.search(match[2]):
        return match[1], match[2]
    if _ENDS_IN_SUFFIX.search(line):
        return line, None
    match = _WITHOUT_SUFFIX.match(line)
    return (match[1], match[2]) if match else (line.rstrip(", "), None)


def _read_classes(path: Path) -> list[str] | None:
    return [line.strip() for line in _lines(path)] if path.is_file() else None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise UserError(f"{str(path)!r}: not UTF-8 text") from None
