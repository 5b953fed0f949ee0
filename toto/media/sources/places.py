"""Folders and files by name, local or behind a URL: what is there, and what is below."""

import io
import os
import re
from collections.abc import Callable, Iterable, Iterator
from glob import glob
from pathlib import Path, PurePosixPath
from typing import Any

from toto.errors import MediaError, UserError
from toto.media.item import is_url

_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"^(\d+)\.\.(\d+)$")


def is_folder(place: str) -> bool:
    """Whether it is a folder, or the root of an archive."""
    if is_url(place):
        files, path = _filesystem(place)
        return bool(_asked(place, lambda: files.isdir(path)))
    return os.path.isdir(place)  # noqa: PTH112


def is_file(place: str) -> bool:
    """Whether it is a file."""
    if is_url(place):
        files, path = _filesystem(place)
        return bool(_asked(place, lambda: files.isfile(path)))
    return os.path.isfile(place)  # noqa: PTH113


def name_of(place: str) -> str:
    """The last name of the path, without what a URL adds: "b.tar" of "https://x/a/b.tar?token=1"."""
    if not is_url(place):
        return os.path.basename(place.rstrip("/"))  # noqa: PTH119
    scheme, _, rest = place.partition("://")
    path = rest.partition("::")[0]
    if scheme.rpartition("::")[2] in ("http", "https"):
        path = path.partition("?")[0]
    name = path.rstrip("/").rpartition("/")[2]
    return name or name_of(rest.partition("::")[2] or ".")


def above(place: str) -> str:
    """The folder that holds a file."""
    if not is_url(place):
        return os.path.dirname(place) or "."  # noqa: PTH120
    scheme, _, rest = place.partition("://")
    path, chained, outer = rest.partition("::")
    return f"{scheme}://{path.rpartition('/')[0]}{chained}{outer}"


def joiner(folder: str) -> Callable[[str], str]:
    """How a name below a folder becomes a path or a URL; absolute paths and URLs stay."""
    head, tail = folder, ""
    if is_url(folder):
        # Of "zip://a::s3://b.zip", and of "simplecache::s3://a", the names belong after "a".
        scheme, _, rest = folder.partition("://")
        path, chained, outer = rest.partition("::")
        head, tail = f"{scheme}://{path}", chained + outer
    head = "" if head == "." else head if head.endswith("/") else f"{head}/"

    def join(name: str) -> str:
        return name if name[:1] == "/" or is_url(name) else head + name + tail

    return join


def tidy(name: str) -> str:
    """A path or a URL without "./" and double slashes: "a/b.mp4" of "./a//b.mp4"."""
    if ("//" not in name and "./" not in name) or is_url(name):
        return name
    return PurePosixPath(name).as_posix()


def files_below(folder: str) -> list[str]:
    """The names of all files below a folder, sorted, with slashes; hidden ones left out.

    Links to folders are followed, but not in circles.

    Raises:
        UserError: no such folder.
    """
    if not is_url(folder):
        if not Path(folder).is_dir():
            raise UserError(f"{folder!r}: no such folder")
        return sorted(_walk(folder, "", frozenset()))
    files, path = _filesystem(folder)
    root = path.rstrip("/")
    found = _asked(folder, lambda: files.find(path))
    names = (name[len(root) :].lstrip("/") for name in found)
    return sorted(name for name in names if name and not _is_hidden(name))


def expand(pattern: str) -> list[str]:
    """The places that a pattern names: `{000..009}` and `{a,b}` in order, `*` as it matches.

    A place that is there under that very name is no pattern.

    Raises:
        UserError: nothing is there.
    """
    if not is_pattern(pattern):
        return [pattern]
    found = [place for one in _braces(pattern) for place in (_glob(one) if "*" in one else [one])]
    if not found:
        raise UserError(f"{pattern!r}: no such file")
    return found


def is_pattern(place: str) -> bool:
    """Whether it has braces or a `*`, and is not the name of something that is there."""
    has_braces = _BRACES.search(place) is not None
    if is_url(place):
        return has_braces or "*" in place.partition("://")[2].partition("::")[0]
    return (has_braces or "*" in place) and not os.path.lexists(place)


def lines(place: str) -> Iterator[str]:
    """The lines of a text file, with their ends.

    Raises:
        UserError: no such file, or it is not UTF-8 text.
    """
    try:
        with open_bytes(place) as file, io.TextIOWrapper(file, encoding="utf-8-sig") as text:
            yield from text
    except UnicodeDecodeError:
        raise UserError(f"{place!r}: not UTF-8 text") from None


def open_bytes(place: str) -> io.BufferedReader:
    """Open a file of a source's own: a table, an archive.

    Raises:
        UserError: no such file.
    """
    if not is_url(place):
        try:
            return Path(place).open("rb")
        except (FileNotFoundError, NotADirectoryError):
            raise UserError(f"{place!r}: no such file") from None
    from toto.media.remote import Remote

    try:
        return io.BufferedReader(Remote(place), 2**17)
    except MediaError as error:
        raise UserError(f"{place!r}: {error}") from None


def _walk(folder: str, prefix: str, above: frozenset[tuple[int, int]]) -> Iterator[str]:
    status = os.stat(folder)  # noqa: PTH116  a Path for each folder costs more than the reading
    here = (status.st_dev, status.st_ino)
    if here in above:
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                yield from _walk(entry.path, f"{prefix}{entry.name}/", above | {here})
            # A dangling link is kept: that it cannot be read is reported, not hidden.
            elif entry.is_file() or entry.is_symlink():
                yield prefix + entry.name


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or "/." in name


def _braces(pattern: str) -> Iterator[str]:
    match = _BRACES.search(pattern)
    if match is None:
        yield pattern
        return
    for word in _alternatives(match[1]):
        yield from _braces(pattern[: match.start()] + word + pattern[match.end() :])


def _alternatives(text: str) -> Iterable[str]:
    numbers = _RANGE.match(text)
    if numbers is None:
        return text.split(",")
    first, last = numbers[1], numbers[2]
    return [f"{i:0{len(first)}d}" for i in range(int(first), int(last) + 1)]


def _glob(pattern: str) -> list[str]:
    escaped = pattern.replace("[", "[[]").replace("?", "[?]")
    if not is_url(pattern):
        return sorted(glob(escaped, recursive=True))  # noqa: PTH207  Path.glob drops "./"
    scheme, _, rest = pattern.partition("://")
    path, chained, outer = rest.partition("::")
    folder = f"{scheme}://{path[: path.index('*')].rpartition('/')[0]}{chained}{outer}"
    files, path = _filesystem(escaped)
    root = _filesystem(folder)[1].rstrip("/")
    join = joiner(folder)
    return sorted(join(name[len(root) :].lstrip("/")) for name in files.glob(path))


def _filesystem(url: str) -> tuple[Any, str]:
    from toto.media.remote import filesystem

    try:
        return filesystem(url)
    except FileNotFoundError:
        raise UserError(f"{url!r}: no such file or folder") from None


def _asked(url: str, ask: Callable[[], Any]) -> Any:
    from toto.media.remote import errors_of

    try:
        with errors_of(url):
            return ask()
    except FileNotFoundError:
        raise UserError(f"{url!r}: no such file or folder") from None
