"""The folders that sources lie in: is a file missing, or everything around it?"""

import errno
import os
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from toto.media.item import Item, is_url


def roots_of(items: Iterable[Item]) -> list[str]:
    """The folders that hold the items of each source, one for each device that they lie on."""
    device = lru_cache(maxsize=2**16)(_device)
    tops: dict[tuple[str, int], str] = {}
    for item in items:
        path = _local(item.location.path)
        if path is None:
            continue
        folder = os.path.dirname(path)  # noqa: PTH120  a Path for each of millions takes longer
        if (where := device(folder)) is None:  # missing from the start
            continue
        top = tops.setdefault((item.source, where), folder)
        if not _holds(top, folder):
            tops[item.source, where] = os.path.commonpath((top, folder))
    return sorted(set(tops.values()))


class Roots:
    """Folders that must stay what they were when this was made.

    Args:
        folders: absolute paths.

    Raises:
        OSError: one is not there.
    """

    def __init__(self, folders: Iterable[str]) -> None:
        self._before = {folder: _status(folder) for folder in folders}

    def check(self, path: str) -> None:
        """Blame the machine for what is wrong with a file if a folder above has changed.

        Raises:
            OSError: such a folder is gone, is on another device, or can no longer be listed.
        """
        local = _local(path)
        for folder, before in self._before.items():
            if local is None or not _holds(folder, local):
                continue
            now = _status(folder)
            if now[0] != before[0]:
                raise OSError(errno.ENODEV, "on another device: is its mount gone?", folder)
            if now != before:
                raise OSError(errno.EACCES, "can no longer be listed", folder)


def _local(path: str) -> str | None:
    """The file that must be there: of what lies in a local archive, the archive."""
    outer = path.rpartition("::")[2] if is_url(path) else path
    return None if is_url(outer) else os.path.abspath(outer)  # noqa: PTH100


def _holds(folder: str, path: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def _device(folder: str) -> int | None:
    try:
        return os.stat(folder).st_dev  # noqa: PTH116
    except OSError:
        return None


def _status(folder: str) -> tuple[int, bool]:
    """The device, and whether it can be listed."""
    try:
        device = Path(folder).stat().st_dev
        with os.scandir(folder):
            return device, True
    except (FileNotFoundError, NotADirectoryError):
        raise OSError(errno.ENODEV, "no such folder: is its mount gone?", folder) from None
    except PermissionError:
        return device, False
