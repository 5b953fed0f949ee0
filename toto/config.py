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


def to_dict(config: object) -> Any:
    """A dataclass as plain JSON values; paths become strings."""
    return json.loads(json.dumps(_converter.unstructure(config)))


def from_dict(kind: type[Config], values: Mapping[str, Any], where: str) -> Config:
    """Rebuild a dataclass from `to_dict`'s values; `where` names them in an error.

    Raises:
        UserError: a field is missing, unknown or of the wrong type.
    """
    try:
        return _converter.structure(values, kind)
    except (cattrs.BaseValidationError, ValueError, TypeError, KeyError) as error:
        reasons = "; ".join(cattrs.transform_error(error)) if _is_group(error) else str(error)
        raise UserError(f"{where} does not fit {kind.__name__}: {reasons}") from error


def _is_group(error: BaseException) -> bool:
    return isinstance(error, BaseExceptionGroup)


def fingerprint(value: object) -> str:
    """16 hex digits that name a configuration or any JSON value."""
    text = json.dumps(to_dict(value), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def write_json(path: Path, value: object) -> None:
    """Write JSON so that the file is there whole or not at all."""
    write_atomically(path, (json.dumps(to_dict(value), indent=2) + "\n").encode())


def read_json(path: Path, what: str) -> Any:
    """Read a JSON file.

    Raises:
        UserError: there is no such file, or it does not hold JSON.
    """
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"{path.parent} is not {what}: it has no {path.name}") from error
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}") from error
