"""Members of tar archives: a window into an uncompressed one, or a compressed one read forward."""

import bz2
import gzip
import io
import lzma
import os
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from typing import IO, Any

from toto.errors import MediaError
from toto.media.file import MediaFile, open_path

_SPOOL = 64 * 2**20
_PIECE = 2**20


_COMPRESSED: dict[bytes, Any] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}
# What the decompressors and tarfile raise on bytes that make no sense.
BAD_BYTES = (tarfile.TarError, gzip.BadGzipFile, zlib.error, lzma.LZMAError, EOFError)


def decompressed(file: Any) -> Any:
    """What a compressed file holds, as a file; an uncompressed one is given back as it is."""
    head = file.read(6)
    file.seek(0)
    for magic, open_compressed in _COMPRESSED.items():
        if head.startswith(magic):
            return open_compressed(file)
    return file


def members(file: Any) -> Iterator[tuple[tarfile.TarInfo, tarfile.TarFile]]:
    """The members of an archive in order, with the archive for reading them before the next.

    Raises:
        tarfile.TarError: it is none, or it is cut; also others of `BAD_BYTES`.
    """
    with tarfile.open(fileobj=file, mode="r:") as tar:
        while (info := tar.next()) is not None:
            vars(tar)["members"] = []  # it would keep every header for as long as it is open
            yield info, tar
        # Where no header is, tarfile says nothing. An archive ends in zeros, or with its file.
        file.seek(tar.offset)
        rest = file.read(tarfile.BLOCKSIZE)
        if rest.strip(b"\0") or 0 < len(rest) < tarfile.BLOCKSIZE:
            raise tarfile.ReadError("unexpected end of data")


class Window(io.RawIOBase):
    """The `size` bytes of a file from `offset` on, as if they were a file."""

    def __init__(self, file: io.RawIOBase, offset: int, size: int) -> None:
        self._file, self._offset, self._length = file, offset, size
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        size = min(len(buffer), self._length - self._position)
        if size <= 0:
            return 0
        self._file.seek(self._offset + self._position)
        count = self._file.readinto(memoryview(buffer)[:size]) or 0
        self._position += count
        return count

    def seek(self, offset: int, whence: int = 0) -> int:
        origin = (0, self._position, self._length)[whence]
        self._position = max(0, origin + offset)
        return self._position

    def tell(self) -> int:
        return self._position

    def close(self) -> None:
        self._file.close()
        super().close()


def open_member(path: str, name: str) -> IO[bytes]:
    """A copy of one member of a compressed tar archive.

    The archive stays open in this process: a later member is found by reading on, an earlier one
    by starting again.

    Raises:
        MediaError: no such archive or member, or the archive is broken before its end.
        OSError: the machine failed.
    """
    global _archive
    identity = _identity(path)
    if _archive is not None and (_archive.identity != identity or name in _archive.passed):
        _archive.close()
        _archive = None
    if _archive is None:
        _archive = _Forward(path, identity)
    return _archive.copy(name)


class _Archive(MediaFile):
    """An archive's file, as the decompressors want one."""

    def seekable(self) -> bool:
        return True


class _Forward:
    """A compressed archive, and how far it has been read."""

    def __init__(self, path: str, identity: tuple[str, int, int]) -> None:
        self.identity = identity
        self.passed: set[str] = set()
        self._reason: str | None = None
        self._raw = open_path(path)
        self._file = _Archive(io.BufferedReader(self._raw, _PIECE))
        self._members: Iterator[tuple[tarfile.TarInfo, tarfile.TarFile]] | None = None

    def copy(self, name: str) -> IO[bytes]:
        while self._reason is None:
            found = self._guarded(self._next)
            if found is None:
                self._reason = "the archive has no such member"
            elif found[0].name == name:
                return self._copy(*found)
        raise MediaError(f"{name!r}: {self._reason}")

    def close(self) -> None:
        self._raw.close()

    def _next(self) -> tuple[tarfile.TarInfo, tarfile.TarFile] | None:
        if self._members is None:
            self._members = members(decompressed(self._file))
        found = next(self._members, None)
        if found is not None:
            self.passed.add(found[0].name)
        return found

    def _copy(self, info: tarfile.TarInfo, tar: tarfile.TarFile) -> IO[bytes]:
        source = tar.extractfile(info)
        if source is None:
            raise MediaError(f"{info.name!r}: not a file in the archive")
        copy = tempfile.SpooledTemporaryFile(max_size=_SPOOL)  # noqa: SIM115  the caller closes it
        while piece := self._guarded(lambda: source.read(_PIECE)):
            copy.write(piece)
        if copy.tell() < info.size:
            self._reason = "truncated archive"
            raise MediaError(f"{info.name!r}: {self._reason}")
        copy.seek(0)
        return copy

    def _guarded(self, read: Any) -> Any:
        """Call `read`: the decompressors raise errors of any class on bad bytes."""
        try:
            result = read()
        except Exception as error:
            if self._file.machine_error is None:
                self._reason = f"truncated or corrupt archive ({type(error).__name__})"
                raise MediaError(self._reason) from None
            result = None
        if self._file.machine_error is not None:
            self.identity = ("", 0, 0)  # the next member starts again
            raise self._file.machine_error
        return result


_archive: _Forward | None = None


def _identity(path: str) -> tuple[str, int, int]:
    """What tells that an open archive is still the file of that name."""
    try:
        status = os.stat(path)  # noqa: PTH116  the path may be a URL
    except OSError:
        return path, 0, 0  # a URL; or opening says what is wrong
    return path, status.st_size, status.st_mtime_ns
