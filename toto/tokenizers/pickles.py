"""Checkpoints of others that `torch.save` pickled, read without running anything of theirs.

A pickle is a program that calls what it names. Here it can name tensors, plain containers and the
classes that the caller lists, which become inert: they are not imported, and whatever is called
with whatever arguments is an object that holds attributes. All else is refused by its name.
Nothing is allocated that the file is not large enough to fill.
"""

import errno
import pickle
import pickletools
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping
from fnmatch import fnmatchcase
from io import BufferedIOBase, BytesIO
from math import prod
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from toto.errors import UserError

# What the format before torch 1.6 begins with (torch/serialization.py).
_MAGIC = 0x1950A86A20F9469CFC6C

_DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


class Inert:
    """An object of a class that was not imported: attributes, and no behaviour."""

    name = ""
    """full name of the class that the pickle speaks of"""

    def __new__(cls, *_: Any, **__: Any) -> "Inert":
        return object.__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __setitem__(self, key: Any, value: Any) -> None: ...

    def append(self, item: Any) -> None: ...

    def extend(self, items: Any) -> None: ...


def load_pickle(path: Path, allowed: Collection[str]) -> Any:
    """What `torch.save` wrote to `path`, in either of its two formats, on the CPU.

    `allowed` are full names of classes, or patterns of them ("pytorch_lightning.*"), that become
    `Inert`. Parameters become plain tensors.

    Raises:
        UserError: the file is missing, damaged or something else, or it names what is not allowed.
    """
    try:
        with path.open("rb") as file:
            return _load(file, path.stat().st_size, allowed)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except (FileNotFoundError, IsADirectoryError) as error:
        raise UserError(f"{path}: {error.strerror}") from error
    except Exception as error:  # damaged bytes can make the machine stumble over anything
        # Seeking to before the beginning is their doing too; other failures are the machine's own.
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path} is damaged: {type(error).__name__}: {reason}") from error


def describe(found: object) -> str:
    """What a pickle held, in a few words."""
    if isinstance(found, Inert):
        return type(found).name
    if isinstance(found, Mapping):
        names = ", ".join(_named(name) for name in list(found)[:4])
        return f"a dict of {len(found)} ({names}{', ...' if len(found) > 4 else ''})"
    return f"a {type(found).__name__}"


def _named(key: object) -> str:
    # Only of text: a number can have millions of digits, and what is nested no end.
    return " ".join(key.split())[:60] if isinstance(key, str) else f"a {type(key).__name__}"


def _load(file: BufferedIOBase, size: int, allowed: Collection[str]) -> Any:
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            return _load_zip(archive, size, allowed)
    file.seek(0)
    begin = file.read(16)
    file.seek(0)
    if begin[:4] == b"PK\3\4":
        raise UserError("a zip archive that is cut short")
    if begin[:1] != pickle.PROTO:
        raise UserError(f"no file of torch.save: it begins with {begin!r}")
    return _load_legacy(file, size, allowed)


def _load_zip(archive: zipfile.ZipFile, size: int, allowed: Collection[str]) -> Any:
    records = {info.filename: info for info in archive.infolist()}
    pickles = [name for name in records if name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise UserError(f"no file of torch.save: a zip archive with {len(pickles)} data.pkl")
    if sum(info.file_size for info in records.values()) > size:
        raise UserError("refused: a zip archive that claims to hold more than its own size")
    folder = pickles[0].removesuffix(".pkl")
    unpickler = _Unpickler(BytesIO(archive.read(pickles[0])), size, allowed)
    found = unpickler.load()
    for key, storage in unpickler.storages.items():
        record = f"{folder}/{key}"
        if record not in records or records[record].file_size != storage.nbytes:
            raise UserError(f"damaged: {record} is missing or not of {storage.nbytes} bytes")
        with archive.open(record) as stored:
            _fill(storage, cast(BufferedIOBase, stored))
    return found


def _load_legacy(file: BufferedIOBase, size: int, allowed: Collection[str]) -> Any:
    whole = _Whole(file)
    if _Unpickler(whole, size, ()).load() != _MAGIC:
        raise UserError("a pickle that torch.save did not write")
    for _ in ("protocol", "system"):
        _Unpickler(whole, size, ()).load()
    unpickler = _Unpickler(whole, size, allowed)
    found = unpickler.load()
    for key in _Unpickler(whole, size, ()).load():
        storage = unpickler.storages.pop(_plain(key))
        (count,) = struct.unpack("<q", whole.read(8))
        if count != len(storage):
            raise UserError(f"damaged: {count} values where {len(storage)} belong")
        _fill(storage, file)
    if unpickler.storages:
        raise UserError(f"damaged: {len(unpickler.storages)} tensors have no values")
    return found


class _Whole:
    """What a pickle is read from; where it ends too early, that is what is said."""

    def __init__(self, file: BufferedIOBase) -> None:
        self._file = file

    def read(self, count: int) -> bytes:
        found = self._file.read(count)
        return self._checked(found, len(found) == count)

    def readline(self) -> bytes:
        found = self._file.readline()
        return self._checked(found, found.endswith(b"\n"))

    def _checked(self, found: bytes, whole: bool) -> bytes:
        if not whole:
            raise UserError("cut short: it ends within a pickle")
        return found


def _fill(storage: Tensor, stored: BufferedIOBase) -> None:
    buffer = storage.view(torch.uint8).numpy().data
    while buffer:
        part = stored.read(min(len(buffer), 2**24))
        if not part:
            raise UserError("cut short: it ends within a tensor")
        buffer[: len(part)] = part
        buffer = buffer[len(part) :]


# Protocol 2 is torch.save's. What later ones add can allocate what it only claims to hold.
_OPCODES = {ord(op.code) for op in pickletools.opcodes if op.proto <= 2 and "EXT" not in op.name}


_PythonUnpickler: Any = pickle._Unpickler  # its stub leaves out what a subclass changes


class _Unpickler(_PythonUnpickler):
    """Python's own, which keeps its memo in a dict: that in C allocates what an index claims."""

    dispatch = {code: run for code, run in _PythonUnpickler.dispatch.items() if code in _OPCODES}  # noqa: RUF012

    def __init__(self, file: BufferedIOBase | _Whole, size: int, allowed: Collection[str]) -> None:
        super().__init__(file)
        self.storages: dict[str, Tensor] = {}
        self._left, self._allowed = size, allowed
        # Made anew for each file, so that none can change what the next one finds.
        self._known: dict[str, Any] = {
            "collections.OrderedDict": _ordered,
            "builtins.set": lambda values=(): {_plain(value) for value in values},
            "torch.device": _inert("torch.device"),
            "torch._utils._rebuild_tensor_v2": lambda *args: _rebuild(*args[:4]),
            "torch._utils._rebuild_parameter": lambda data, *_: data,
            **{f"torch.{name}": dtype for name, dtype in _DTYPES.items()},
        }

    def find_class(self, module: str, name: str) -> Any:
        module = "builtins" if module == "__builtin__" else module  # Python 2's, as protocol 2 is
        full = f"{module}.{name}"
        if full not in self._known:
            if not any(fnmatchcase(full, pattern) for pattern in self._allowed):
                raise UserError(f"refused, and nothing of it was run: it names {full!r:.200}")
            self._known[full] = _inert(full)
        return self._known[full]

    def persistent_load(self, pid: Any) -> Any:
        if pid[0] == "module":  # a class with its source, in the old format
            return pid[1]
        kind, dtype, key, _, count, *view = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype) or any(view):
            raise UserError(f"refused: it holds {_named(kind)} that is no plain tensor")
        if _plain(key) not in self.storages:
            if type(count) is not int or not 0 <= count * dtype.itemsize <= self._left:
                raise UserError(
                    f"refused: it claims {count} values, more than it holds: cut short or made up"
                )
            self._left -= count * dtype.itemsize
            self.storages[key] = torch.empty(count, dtype=dtype)
        return self.storages[key]

    def load_build(self) -> None:
        state = self.stack.pop()
        if not isinstance(self.stack[-1], Inert | OrderedDict):
            raise UserError(f"refused: it sets the state of a {type(self.stack[-1]).__name__}")
        if isinstance(state, dict) and isinstance(self.stack[-1], Inert):
            vars(self.stack[-1]).update(state)

    def load_setitem(self) -> None:
        _only_containers(self.stack[-3])
        _plain(self.stack[-2])
        super().load_setitem()

    def load_setitems(self) -> None:
        _only_containers(self.metastack[-1][-1])
        for key in self.stack[::2]:
            _plain(key)
        super().load_setitems()

    def load_dict(self) -> None:
        for key in self.stack[::2]:
            _plain(key)
        super().load_dict()

    dispatch |= {
        pickle.BUILD[0]: load_build,
        pickle.SETITEM[0]: load_setitem,
        pickle.SETITEMS[0]: load_setitems,
        pickle.DICT[0]: load_dict,
    }


def _only_containers(target: object) -> None:
    if not isinstance(target, dict | Inert):
        raise UserError(f"refused: it sets items of a {type(target).__name__}")


def _ordered(items: Iterable[tuple[Any, Any]] = ()) -> OrderedDict[Any, Any]:
    return OrderedDict((_plain(key), value) for key, value in items)


_ATOMS = (str, bytes, int, float, type, torch.dtype, Inert, type(None))


def _plain(key: Any) -> Any:
    """A key as it is; what is nested deeply crashes, or takes for ever, when it is looked up."""
    if not all(isinstance(part, _ATOMS) for part in (key if type(key) is tuple else (key,))):
        raise UserError(f"refused: a {type(key).__name__} is no key of a checkpoint's")
    return key


def _inert(full: str) -> type[Inert]:
    return type(full.rpartition(".")[2], (Inert,), {"name": full})


def _rebuild(
    storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...]
) -> Tensor:
    if not all(type(number) is int for number in (offset, *size, *stride)):
        raise UserError("refused: a tensor whose size is not of numbers")
    if prod(size) > len(storage):
        raise UserError(f"refused: a tensor of {size} over {len(storage)} values")
    return storage.as_strided(size, stride, offset)
