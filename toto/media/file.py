"""What a file is, by its first bytes; and whose fault an error is, the file's or the machine's."""

import io
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from errno import EACCES, EISDIR, ELOOP, ENAMETOOLONG, ENOENT, ENOTDIR, EPERM
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

from toto.errors import MediaError
from toto.media.item import Location, is_url

Kind = Literal["video", "image"]

_HEAD = 4096
_IMAGES = (
    b"\xff\xd8\xff",  # JPEG
    b"\x89PNG\r\n\x1a\n",
    b"GIF87a",
    b"GIF89a",
    b"II*\0",  # TIFF, and BigTIFF below
    b"MM\0*",
    b"II+\0",
    b"MM\0+",
    b"\0\0\0\x0cjP  ",  # JPEG 2000
    b"\xff\x4f\xff\x51",
)
FORBIDDEN = "no permission to read it"
_NOT_A_FILE = {
    ENOENT: "no such file",
    ENOTDIR: "no such file",
    ELOOP: "no such file (symbolic links in a circle)",
    ENAMETOOLONG: "no such file (name too long)",
    EISDIR: "a folder, not a file",
    EACCES: FORBIDDEN,
    EPERM: FORBIDDEN,
}


@dataclass(frozen=True)
class MediaInfo:
    """What a file says of itself.

    Attributes:
        kind: "image" for one still picture, "video" for anything with time, animations included.
        width: in pixels, after rotation.
        height: in pixels, after rotation.
        fps: frames a second, None where the file does not say.
        frames: as declared, before any stride; None where the file does not say.
    """

    kind: Kind
    width: int
    height: int
    fps: float | None
    frames: int | None


@runtime_checkable
class Readable(Protocol):
    """What is asked of an open file."""

    def read(self, size: int = -1, /) -> bytes: ...

    def seek(self, offset: int, whence: int = 0, /) -> int: ...

    def tell(self) -> int: ...

    def close(self) -> None: ...


class MediaFile:
    """A file open for reading that remembers the machine's error.

    Decoders turn a failing read into complaints about the data. Here the read ends the data, and
    `machine_error` tells afterwards what really happened.
    """

    def __init__(self, file: Readable) -> None:
        self._file = file
        self.machine_error: OSError | None = None

    def read(self, size: int = -1) -> bytes:
        """Read up to `size` bytes; none after an error of the machine."""
        if self.machine_error is not None:
            return b""
        try:
            return self._file.read(size)
        except OSError as error:
            self.machine_error = error
            return b""

    def seek(self, offset: int, whence: int = 0) -> int:
        """Move to `offset` bytes; see `io.IOBase.seek`."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """The position in bytes."""
        return self._file.tell()


@contextmanager
def open_file(location: Location) -> Iterator[MediaFile]:
    """Open the bytes of an item so that what goes wrong inside is told apart.

    Raises:
        MediaError: no such file, none that may be read, or what the body raises.
        OSError: the machine failed, whatever the body made of it. Behind a URL that is every error
            of the protocol's library, except that there is no such file.
    """
    with closing(_open(location)) as opened:
        file = MediaFile(opened)
        try:
            yield file
        except Exception:
            if file.machine_error is not None:
                raise file.machine_error from None
            raise
        if file.machine_error is not None:
            raise file.machine_error


def _open(location: Location) -> Readable:
    path = location.path
    if location.part is None:
        return io.BufferedReader(open_path(path), _buffer(path))
    kind, _, where = location.part.partition(":")
    # What only some items need is imported by the workers that read them.
    if kind == "bytes":
        from toto.media.archive import Window

        offset, size = map(int, where.split("+"))
        window = Window(open_path(path, block=size), offset, size)
        return io.BufferedReader(window, _buffer(path))
    if kind == "member":
        from toto.media.archive import open_member

        return open_member(path, where)
    if kind == "row":
        from toto.media.tables import open_cell

        row, _, column = where.partition(":")
        return open_cell(path, int(row), column)
    raise ValueError(f"{path!r}: part {location.part!r} is no file")


def open_path(path: str, block: int | None = None) -> io.RawIOBase:
    """Open a local file or a URL, unbuffered. From a URL, `block` bytes are asked for at once.

    Raises:
        MediaError: no such file, or its permissions forbid to read it.
        OSError: the machine failed.
    """
    if is_url(path):
        from toto.media.remote import Remote

        return Remote(path, block)
    try:
        return Path(path).open("rb", buffering=0)
    except OSError as error:
        if error.errno in _NOT_A_FILE:
            raise MediaError(_NOT_A_FILE[error.errno]) from None
        raise


def _buffer(path: str) -> int:
    return 2**17 if is_url(path) else io.DEFAULT_BUFFER_SIZE


def kind_of(file: MediaFile) -> Kind:
    """Tell by its first bytes whether a file is for the image or for the video decoder.

    Raises:
        MediaError: it is neither: empty, a Git LFS pointer, text.
    """
    head = file.read(_HEAD)
    file.seek(0)
    if not head:
        raise MediaError("empty file")
    if head.startswith(b"version https://git-lfs.github.com"):
        raise MediaError("a Git LFS pointer, not the media itself")
    if _is_image(head):
        return "image"
    if head[4:8] == b"ftyp" and head[8:12] in (b"heic", b"heix", b"hevc", b"mif1", b"msf1"):
        raise MediaError("HEIF images are not supported")
    if _is_text(head):
        raise MediaError("not media (text)")
    return "video"


def _is_image(head: bytes) -> bool:
    return (
        head.startswith(_IMAGES)
        or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")
        or (head[4:8] == b"ftyp" and head[8:12] in (b"avif", b"avis"))
        # "BM" alone also begins words; the size of the header that follows decides.
        or (head[:2] == b"BM" and head[14:18] in _BITMAP_HEADERS)
        or (head[:1] == b"P" and head[1:2] in b"123456" and head[2:3].isspace())
    )


_BITMAP_HEADERS = [size.to_bytes(4, "little") for size in (12, 40, 52, 56, 64, 108, 124)]


def _is_text(head: bytes) -> bool:
    try:
        text = head.decode()
    except UnicodeDecodeError as error:
        if error.start < len(head) - 3 or len(head) < _HEAD:  # not just a letter cut by the end
            return False
        text = head[: error.start].decode()
    return all(letter.isprintable() or letter.isspace() for letter in text)


def short(error: BaseException) -> str:
    """The first line of an error, or the name of its class."""
    text = str(getattr(error, "strerror", None) or error).strip()
    return text.splitlines()[0][:160] if text else type(error).__name__
