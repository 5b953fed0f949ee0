"""WebDataset: tar archives whose members of one base name are one sample."""

import json
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from toto.errors import UserError
from toto.media.archive import BAD_BYTES, decompressed, members
from toto.media.item import Item, Location
from toto.media.sources.layout import MEDIA, Layout, suffix_of
from toto.media.sources.places import expand, files_below, is_folder, joiner, name_of, open_bytes
from toto.media.sources.rows import Row

ARCHIVE = re.compile(r"\.(tar|tgz|tar\.(gz|bz2|xz))$")
# The base ends at the first dot of the last name (webdataset's base_plus_ext).
_MEMBER = re.compile(r"^((?:.*/)?[^/.]+)\.([^/]+)$")
_FIRST_MARK = re.compile(r"[{*]")


@dataclass(frozen=True, kw_only=True)
class WebDataset(Layout):
    """Tar archives: one, a pattern like `shard-{000000..000009}.tar` or `*.tar`, or a folder.

    Each sample has one image or video. Its label is the text of its `.cls`, else `label` of its
    `.json`, which also gives `split` and `fps`. Uncompressed archives are read in place, in any
    order; of compressed ones each member costs reading what lies before it. A key is
    `<archive>/<base>`.

    Attributes:
        ext: which extension is the media, for samples that have several (`left.jpg`).
    """

    ext: str | None = None

    def items(self) -> Iterator[Item]:
        for archive, stem in self._archives():
            yield from self._archive(archive, stem)

    def _archives(self) -> list[tuple[str, str]]:
        """The archives, and how their keys begin: the path from where the pattern begins."""
        place = self.location
        # A web server would send all of an archive to answer whether it is a folder.
        if not ARCHIVE.search(name_of(place)) and is_folder(place):
            names = [name for name in files_below(place) if ARCHIVE.search(name)]
            if not names:
                raise UserError(f"folder {place!r}: no tar archives in it")
            return [(joiner(place)(name), _stem(name)) for name in names]
        mark = _FIRST_MARK.search(place)
        if mark is None:
            return [(place, _stem(name_of(place)))]
        begin = place.rfind("/", 0, mark.start()) + 1
        end = place.find("::", mark.end())
        tail = 0 if end < 0 else len(place) - end
        return [(one, _stem(one[begin : len(one) - tail])) for one in expand(place)]

    def _archive(self, path: str, stem: str) -> Iterator[Item]:
        sample = _Sample("")
        with open_bytes(path) as file:
            unpacked = decompressed(file)
            for info, tar in _members(unpacked, path):
                match = _MEMBER.match(info.name)
                if match is None:
                    continue
                if match[1] != sample.base:
                    yield from self._finish(sample, path, stem)
                    sample = _Sample(match[1])
                _collect(sample, path, info, tar, in_place=unpacked is file)
        yield from self._finish(sample, path, stem)

    def _finish(self, sample: "_Sample", path: str, stem: str) -> Iterator[Item]:
        parts, where = sample.media, f"{path}, sample {sample.base!r}"
        if self.ext is not None:
            parts = {ext: part for ext, part in parts.items() if ext == self.ext.lower()}
        if len(parts) > 1:
            raise UserError(
                f"{where} has {' and '.join(parts)}: choose with ext={next(iter(parts))}"
            )
        row = Row(sample.values, where)
        for part in parts.values():
            place = row.checked(Location, path, part, fps=row.number("fps"))
            yield self.item(place, f"{stem}/{sample.base}", row.text("label"), row.split())


@dataclass
class _Sample:
    base: str
    media: dict[str, str] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)


def _collect(
    sample: _Sample, path: str, info: tarfile.TarInfo, tar: tarfile.TarFile, in_place: bool
) -> None:
    ext = info.name[len(sample.base) + 1 :].lower()
    if suffix_of(f".{ext}") in MEDIA:
        in_place = in_place and not info.issparse()
        part = f"bytes:{info.offset_data}+{info.size}" if in_place else f"member:{info.name}"
        sample.media[ext] = part
    elif ext in ("cls", "json"):
        source = tar.extractfile(info)
        text = source.read() if source is not None else b""
        _describe(sample, ext, text, f"{path}, member {info.name!r}")


def _describe(sample: _Sample, ext: str, data: bytes, where: str) -> None:
    try:
        text = data.decode()
        if ext == "cls":
            sample.values["label"] = text.strip()
            return
        values = json.loads(text)
    except ValueError:
        raise UserError(f"{where}: expected {'text' if ext == 'cls' else 'JSON'}") from None
    if isinstance(values, dict):
        known = {name: values[name] for name in ("label", "split", "fps") if name in values}
        sample.values = known | sample.values


def _members(file: Any, path: str) -> Iterator[tuple[tarfile.TarInfo, tarfile.TarFile]]:
    try:
        yield from (found for found in members(file) if found[0].isreg())
    except BAD_BYTES as error:
        raise UserError(f"{path!r}: truncated, or no tar archive: {error}") from None


def _stem(name: str) -> str:
    return ARCHIVE.sub("", PurePosixPath(name).as_posix())
