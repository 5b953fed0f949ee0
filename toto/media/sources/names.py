"""How sources are named: `[layout:]location[?option=value&...]`."""

import os
import re
from collections.abc import Mapping
from dataclasses import fields
from urllib.parse import unquote

from toto.errors import UserError, unknown
from toto.media.item import is_url
from toto.media.sources.folder import Folder, Frames, ImageFolder, OneFile
from toto.media.sources.hf import HuggingFace, is_saved
from toto.media.sources.kinetics import Kinetics
from toto.media.sources.layout import MEDIA, Layout, split_of, suffix_of
from toto.media.sources.manifest import Manifest, has_paths
from toto.media.sources.places import is_file, is_folder, is_pattern, name_of
from toto.media.sources.ssv2 import SomethingV2, holds_list
from toto.media.sources.wds import ARCHIVE, WebDataset

LAYOUTS: Mapping[str, type[Layout]] = {
    "file": OneFile,
    "folder": Folder,
    "frames": Frames,
    "hf": HuggingFace,
    "imagefolder": ImageFolder,
    "kinetics": Kinetics,
    "manifest": Manifest,
    "ssv2": SomethingV2,
    "wds": WebDataset,
}
# Neither "https://" nor fsspec's "simplecache::s3://" begins with a layout.
_LAYOUT = re.compile(r"^(\w+):(?!//|:)")
_OPTION = re.compile(r"^(\w+)=(.*)$", re.DOTALL)


def open_source(name: str) -> Layout:
    """The source of that name. Its items are not yet listed.

    Raises:
        UserError: there is nothing of that name, or its layout or an option is unknown.
    """
    layout, location, given = _parse(name)
    kind = LAYOUTS[layout] if layout is not None else _recognise(location)
    options: dict[str, str | float | None] = {**given}
    if "split" in given and kind is not HuggingFace:
        options["split"] = split_of(given["split"])
        if options["split"] is None:
            raise UserError(f"source {name!r}: split {given['split']!r}: train, val or test")
    known = _options(kind)
    for option in given:
        if option not in known:
            what = next(word for word, one in LAYOUTS.items() if one is kind)
            raise unknown(f"option of layout {what!r}:", option, known)
        if known[option] == float | None:
            options[option] = _number(name, option, given[option])
    for option in ("root", "videos"):
        if option in given:
            options[option] = _expanded(given[option])
    return kind(name=name, location=location, **options)  # type: ignore[arg-type]


def _parse(name: str) -> tuple[str | None, str, dict[str, str]]:
    match = _LAYOUT.match(name)
    layout, rest = None, name
    if match and (match[1] in LAYOUTS or not os.path.lexists(name)):
        layout, rest = match[1], name[match.end() :]
        if layout not in LAYOUTS:
            raise unknown("layout", layout, LAYOUTS)
    location, options = _split_options(rest)
    if not location:
        raise UserError(f"source {name!r}: expected [layout:]location[?option=value&...]")
    return layout, _expanded(location), options


def _split_options(rest: str) -> tuple[str, dict[str, str]]:
    """Cut the options off; what follows a "?" in a file's own name or in a web address are none."""
    location, mark, text = rest.rpartition("?")
    if not mark or os.path.lexists(os.path.expanduser(rest)):  # noqa: PTH111
        return rest, {}
    pairs = [_OPTION.match(pair) for pair in text.split("&")]
    options = {pair[1]: unquote(pair[2]) for pair in pairs if pair is not None}
    if re.search(r"https?://", location):
        ours = {option for kind in LAYOUTS.values() for option in _options(kind)}
        if not set(options) <= ours or None in pairs:
            return rest, {}
    if None in pairs:
        raise UserError(f"source {rest!r}: expected option=value, separated by &, after the ?")
    return location, options


def _options(kind: type[Layout]) -> dict[str, object]:
    return {field.name: field.type for field in fields(kind) if field.name not in _NO_OPTIONS}


_NO_OPTIONS = ("name", "location")


def _number(name: str, option: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UserError(f"source {name!r}: {option} {text!r}: expected a number") from None


def _expanded(location: str) -> str:
    location = location.removeprefix("file://")
    if suffix_of(name_of(location)) == "zip" and "::" not in location:
        place = os.path.expanduser(location)  # noqa: PTH111  as below
        location = f"zip://::{place if is_url(place) else os.path.abspath(place)}"  # noqa: PTH100
    if is_url(location):
        # All that is in an archive, as fsspec writes it, is the folder that the archive is.
        return location.replace("/*::", "/::")
    return os.path.expanduser(location)  # noqa: PTH111  a Path would drop "./" and a last "/"


def _recognise(location: str) -> type[Layout]:
    name = name_of(location)
    suffix = suffix_of(name)
    if is_url(location) and (suffix in MEDIA or _of_file(location, name, suffix)):
        return _of_file(location, name, suffix) or OneFile  # asking a server would be in vain
    if re.match(r"https?://", location):  # it has no folders, only pages that list files
        return Folder if location.endswith("/") else OneFile
    if is_pattern(location):
        return _of_file(location, name, suffix) or _no_pattern(location)
    if is_folder(location):
        return HuggingFace if is_saved(location) else Folder
    if not is_file(location):
        raise UserError(f"source {location!r}: no such file or folder")
    return _of_file(location, name, suffix) or OneFile


def _of_file(location: str, name: str, suffix: str) -> type[Layout] | None:
    if ARCHIVE.search(name):
        return WebDataset
    if suffix in ("jsonl", "parquet"):
        return Manifest
    if suffix == "csv":
        return Manifest if is_pattern(location) or has_paths(location) else Kinetics
    if suffix == "json" and not is_pattern(location) and holds_list(location):
        return SomethingV2
    return None


def _no_pattern(location: str) -> type[Layout]:
    raise UserError(
        f"source {location!r}: patterns name tar archives (.tar) and manifests "
        "(.csv, .jsonl, .parquet)"
    )
