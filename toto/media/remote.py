"""Files and folders behind URLs, through fsspec: memory://, https://, s3://, zip://..::.. ."""

import errno
import io
import os
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import PurePosixPath
from typing import IO, Any

from fsspec.core import url_to_fs

from toto.errors import MediaError, UserError
from toto.media.file import short

_BLOCK = 5 * 2**20


def filesystem(url: str) -> tuple[Any, str]:
    """The file system behind a URL and the path in it.

    Raises:
        UserError: no such protocol, or a package that it needs is missing.
        OSError: there is no way to it.
    """
    scheme, _, rest = url.partition("://")
    inner, chained, outer = rest.partition("::")
    with errors_of(url):
        if chained and "::" not in scheme:
            # Of its own process: forked ones would move the position of one open archive.
            files = _archive(os.getpid(), f"{scheme}://::{outer}")
            return files, files._strip_protocol(inner)
        return url_to_fs(url)


def names_in(url: str) -> list[str]:
    """The names of the files directly in a folder.

    Raises:
        MediaError: no such folder.
        OSError: the machine failed.
    """
    with errors_of(url):
        try:
            files, path = filesystem(url)
            found = files.ls(path, detail=True)
        except (FileNotFoundError, NotADirectoryError) as error:
            if isinstance(error, FileNotFoundError) and _is_outage(error):
                raise _of_machine(url, error.__cause__ or error) from error
            raise MediaError("no such folder") from None
    return [PurePosixPath(one["name"]).name for one in found if one["type"] == "file"]


@lru_cache(maxsize=16)
def _archive(process: int, url: str) -> Any:
    """An open archive, kept: its table of contents is read once, not for each file."""
    return url_to_fs(url)[0]


@contextmanager
def errors_of(url: str) -> Iterator[None]:
    """Let pass what is the system's or ours; call everything else an error of the machine."""
    try:
        yield
    except ImportError as error:
        raise UserError(f"{url!r}: {short(error)}") from None
    except ValueError as error:
        if str(error).startswith("Protocol not known"):
            raise UserError(f"{url!r}: {short(error)}") from None
        raise _of_machine(url, error) from error
    except (OSError, MediaError, UserError, MemoryError):
        raise
    except Exception as error:  # each protocol's library has its own
        raise _of_machine(url, error) from error


def _of_machine(url: str, error: BaseException) -> OSError:
    return OSError(errno.EIO, f"{type(error).__name__}: {short(error)}", url)


def _is_outage(error: FileNotFoundError) -> bool:
    """Whether "no such file" is only how fsspec says that a web server did not answer well."""
    cause = error.__cause__
    module = type(cause).__module__.partition(".")[0]
    return module == "aiohttp" and getattr(cause, "status", None) not in (404, 410)


class Remote(io.RawIOBase):
    """A file behind a URL.

    Args:
        url: what fsspec opens.
        block: bytes to ask for at once, at most; None: the usual number.

    Raises:
        MediaError: no such file.
        OSError: anything else that keeps it from opening, whatever the protocol's library raises.
    """

    def __init__(self, url: str, block: int | None = None) -> None:
        self._url = url
        self._position = 0
        self._is_whole = False
        with errors_of(url):
            try:
                self._files, self._path = filesystem(url)
                size = min(block or _BLOCK, _BLOCK)
                self._file: IO[bytes] = self._files.open(self._path, "rb", block_size=size)
            except FileNotFoundError as error:
                if _is_outage(error):
                    raise _of_machine(url, error.__cause__ or error) from error
                raise MediaError("no such file") from None
            except IsADirectoryError:
                raise MediaError("a folder, not a file") from None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._read(len(buffer))
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def seek(self, offset: int, whence: int = 0) -> int:
        origin = 0 if whence == 0 else self._position if whence == 1 else self._size()
        self._position = max(0, origin + offset)
        return self._position

    def tell(self) -> int:
        return self._position

    def close(self) -> None:
        if not self.closed and hasattr(self, "_file"):
            self._file.close()
        super().close()

    def _read(self, size: int) -> bytes:
        with errors_of(self._url):
            try:
                self._file.seek(self._position)
                return self._file.read(size)
            except (zipfile.BadZipFile, zlib.error, EOFError):
                return b""  # bad bytes in an archive end the data, as a cut file does
            except ValueError:
                # So fsspec says that a server sends files only from the start.
                if self._is_whole:
                    raise
            self._fetch()
            self._file.seek(self._position)
            return self._file.read(size)

    def _size(self) -> int:
        size = getattr(self._file, "size", None)
        if size is None:
            with errors_of(self._url):
                if not self._file.seekable():
                    self._fetch()
                return self._file.seek(0, 2)
        return int(size)

    def _fetch(self) -> None:
        """Replace the file by a copy of the whole, in memory or in a temporary file."""
        whole = tempfile.SpooledTemporaryFile(max_size=64 * 2**20)  # noqa: SIM115  closed with us
        with self._files.open(self._path, "rb", block_size=0) as stream:
            shutil.copyfileobj(stream, whole, _BLOCK)
        self._file.close()
        self._file, self._is_whole = whole, True
