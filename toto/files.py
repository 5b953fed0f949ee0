"""Files that are there whole or not at all, and folders with one writer."""

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedRandom
from pathlib import Path

from toto.errors import UserError

_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def file_atomically(path: Path) -> Iterator[BufferedRandom]:
    """Write a file that takes the name `path` at the end, replacing what was there.

    After a kill or a power cut the old file or the new one is there.
    """
    temporary = path.with_name(f".{path.name}.partial")
    with naming(path), temporary.open("w+b") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Have the error of a full disk say what was being written."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL and error.filename is None:
            error.filename = str(path)
        raise


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` to `path`, see `file_atomically`."""
    with file_atomically(path) as file:
        file.write(data)


@contextmanager
def folder_atomically(path: Path) -> Iterator[Path]:
    """Fill a hidden folder that takes the name `path` at the end, replacing what was there.

    Where `path` is a link, the folder that it leads to is replaced.
    """
    path = path.resolve()
    partial = path.with_name(f".{path.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    yield partial
    if path.exists():
        old = path.with_name(f".{path.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        path.rename(old)
        partial.rename(path)
        shutil.rmtree(old)
    else:
        partial.rename(path)


def copy_files(source: Path, folder: Path) -> None:
    """Copy the files of a folder to a new one; who may read them the umask says."""
    folder.mkdir()
    for path in source.iterdir():
        if path.is_file():
            shutil.copyfile(path, folder / path.name)


def refuse_occupied(out: Path) -> None:
    """Refuse to write over anything, or to take a folder from under the user.

    Raises:
        UserError: `out` is a file, or a folder that holds something or is the present one.
    """
    if out.resolve() == Path.cwd():
        raise UserError(
            f"{out} is the folder that you are in, which would be replaced: choose another"
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} holds something already: choose another folder")


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Hold `folder` against a second writer; the lock ends with the process, however it ends.

    Raises:
        UserError: another process is writing there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"another process is writing to {folder}") from error
        yield
