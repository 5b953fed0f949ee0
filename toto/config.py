"""How a recipe becomes a run: frozen dataclasses to JSON and back, and their fingerprint."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import cattrs
from cattrs.preconf.json import make_converter

from toto.errors import UserError
from toto.files import write_atomically

Config = TypeVar("Config")

_converter = make_converter(forbid_extra_keys=True)
_converter.register_unstructure_hook(Path, str)
_converter.register_structure_hook(Path, lambda value, _: Path(value))


def _exactly(value: Any, kind: Any) -> Any:
    # Left to itself cattrs makes 8 of 8.7, and True of "no".
    if type(value) is kind or (kind is float and type(value) is int):
        return kind(value)
    raise TypeError(f"expected {kind.__name__}, not {value!r}")


for _kind in (bool, int, float, str):
    _converter.register_structure_hook(_kind, _exactly)


def to_dict(config: object) -> Any:
    """A dataclass as plain JSON values; paths become strings."""
    return json.loads(json.dumps(_converter.unstructure(config)))


def from_dict(kind: type[Config], values: object, where: str) -> Config:
    """Rebuild a dataclass from `to_dict`'s values; `where` names them in an error.

    Raises:
        UserError: a field is missing, unknown or of the wrong type.
    """
    if not isinstance(values, Mapping):
        raise UserError(f"{where} does not fit {kind.__name__}: it holds no named fields")
    try:
        return _converter.structure(values, kind)
    except cattrs.BaseValidationError as error:
        reasons = "; ".join(cattrs.transform_error(error, format_exception=_reason))
        raise UserError(f"{where} does not fit {kind.__name__}: {reasons}") from error


def _reason(error: BaseException, kind: Any) -> str:
    if isinstance(error, KeyError | cattrs.ForbiddenExtraKeysError):
        return cattrs.v.format_exception(error, kind)
    return str(error)


def fingerprint(value: object) -> str:
    """16 hex digits that name a configuration or any JSON value."""
    text = json.dumps(to_dict(value), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def write_json(path: Path, value: object) -> None:
    """Write JSON so that the file is there whole or not at all."""
    write_atomically(path, (json.dumps(to_dict(value), indent=2) + "\n").encode())


def read_json(path: Path, what: str) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Raises:
        UserError: there is no such file, or it holds something else.
    """
    try:
        values = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"{path.parent} is not {what}: it has no {path.name}") from error
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise UserError(f"{path} holds no JSON object")
    return values


def begin(path: Path, settings: Mapping[str, Any]) -> None:
    """Record in `path` what a folder is made with, or check that it was begun with the same.

    Raises:
        UserError: it was begun with other settings.
    """
    now = to_dict(settings)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, now)
        return
    different = differences(read_json(path, "a folder of ours"), now)
    if different:
        raise UserError(
            f"{path.parent} was begun with other settings ({', '.join(different[:4])}): "
            "choose another folder"
        )


def differences(before: Any, now: Any, name: str = "") -> list[str]:
    """Where two JSON values differ, each in a few words."""
    if isinstance(before, dict) and isinstance(now, dict):
        return [
            difference
            for key in sorted(before.keys() | now.keys())
            for difference in differences(before.get(key), now.get(key), f"{name}.{key}".strip("."))
        ]
    return [] if before == now else [f"{name} {before}, not {now}"]
