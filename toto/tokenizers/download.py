"""Files behind addresses, a broken download going on where it ended."""

import errno
import hashlib
import http.client
import urllib.error
import urllib.request
from pathlib import Path

from toto.errors import UserError
from toto.progress import console, progress

_BLOCK = 2**20
_SECONDS = 60
_BROKEN = (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError)


def download(url: str, path: Path) -> None:
    """Get `url` as `path`, and say its SHA-256.

    What has come is kept beside it as `.partial`, and asked for no second time, in this run or the
    next, while the server names the same version of the file.

    Raises:
        UserError: there is no such file.
        OSError: the connection fails, and nothing more comes.
    """
    partial = path.with_name(f"{path.name}.partial")
    while not path.exists():
        before, reason = _size(partial), "it ended early"
        try:
            if _go_on(url, partial):
                partial.replace(path)
                break
        except urllib.error.HTTPError as error:
            if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE and before:
                partial.unlink()  # longer than the file: of another version
                continue
            reason = f"HTTP {error.code} {error.reason}"
            if error.code < http.client.INTERNAL_SERVER_ERROR:
                raise UserError(f"{url}: {reason}") from error
        except ValueError as error:
            raise UserError(f"{url}: {error}") from error
        except _BROKEN as error:
            cause = getattr(error, "reason", error)
            reason = getattr(cause, "strerror", None) or str(cause)
        if _size(partial) <= before:
            raise OSError(errno.ECONNABORTED, f"no connection: {reason}", url)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    console.print(f"{path.name}: {_size(path):,} bytes, SHA-256 {digest}")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _go_on(url: str, partial: Path) -> bool:
    """Get what is missing; whether all of it came."""
    version, begun = partial.with_suffix(".version"), _size(partial)
    request = urllib.request.Request(url, headers={"User-Agent": "toto"})
    if begun and version.exists():
        request.add_header("Range", f"bytes={begun}-")
        request.add_header("If-Range", version.read_text())
    with urllib.request.urlopen(request, timeout=_SECONDS) as response:
        if response.status != http.client.PARTIAL_CONTENT:
            begun = 0
        length = response.headers.get("Content-Length")
        total = begun + int(length or 0)
        named = response.headers.get("ETag") or response.headers.get("Last-Modified")
        if named:
            version.write_text(named)
        elif not begun:
            version.unlink(missing_ok=True)
        with (
            partial.open("ab" if begun else "wb") as file,
            progress(partial.stem, -(-total // _BLOCK), "MiB", begun // _BLOCK) as advance,
        ):
            while block := response.read(_BLOCK):
                file.write(block)
                advance()
    return length is None or _size(partial) == total
