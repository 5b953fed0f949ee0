import io
import os
import pickle
import resource
import subprocess
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from toto.errors import UserError
from toto.tokenizers.pickles import Inert, describe, load_pickle

ALLOWED = ("torch.nn.modules.*", "argparse.Namespace", "tests.tokenizers.*")
BOTH = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])


def save(value: object, path: Path, zipped: bool = True) -> Path:
    torch.save(value, path, _use_new_zipfile_serialization=zipped)
    return path


def save_raw(path: Path, program: bytes, **records: bytes) -> Path:
    """A file of torch.save whose pickle is `program`."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + program)
        for key, data in records.items():
            archive.writestr(f"archive/data/{key}", data)
    return path


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        load_pickle(path, ALLOWED)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


class Calls:
    """Pickled, a call of `function`."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@BOTH
def test_tensors_and_containers_come_back(tmp_path, zipped):
    base = torch.randn(6, 5)
    value = {
        "whole": base,
        "view": base[1:4, 2],
        "turned": base.T,
        "empty": torch.empty(0, 3),
        "scalar": torch.tensor(2.5),
        "parameter": torch.nn.Parameter(torch.randn(3)),
        **{str(t): torch.arange(5).to(t) for t in (torch.half, torch.bfloat16, torch.double)},
        **{str(t): torch.arange(2).to(t) for t in (torch.bool, torch.int8, torch.int64)},
        "others": [1, -(2**70), 2.5, "ü", None, (True, {3}), OrderedDict(a=1)],
    }
    path = save(value, tmp_path / "a", zipped)
    found = load_pickle(path, ())
    assert found.keys() == value.keys()
    assert found["others"] == value["others"]
    for name, tensor in list(value.items())[:-1]:
        assert type(found[name]) is torch.Tensor
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)
    assert found["view"].untyped_storage().data_ptr() == found["whole"].untyped_storage().data_ptr()


class Surprise:
    """Its own way back from a pickle would leave a mark."""

    def __setstate__(self, state):
        raise AssertionError("ran")

    def __getstate__(self):
        return {"__setstate__": 1, "__class__": 2, "append": 3, "weight": torch.ones(2)}


@BOTH
def test_classes_become_inert(tmp_path, zipped):
    path = save({"a": Surprise(), Surprise: 3}, tmp_path / "a", zipped)
    found = load_pickle(path, ALLOWED)
    one, kind = found["a"], list(found)[1]
    assert issubclass(kind, Inert)
    assert type(one) is kind
    assert describe(one) == kind.name == "tests.tokenizers.test_pickles.Surprise"
    assert torch.equal(vars(one)["weight"], torch.ones(2))
    assert list(load_pickle(path, ALLOWED))[1] is not kind


@BOTH
@pytest.mark.parametrize(
    ("function", "arguments", "name"),
    [
        (os.system, ("touch {mark}",), "posix.system"),
        (
            subprocess.Popen,
            ("touch {mark}", -1, None, None, None, None, None, True, True),
            "commands.Popen",  # which protocol 2 calls it
        ),
        (eval, ("open('{mark}', 'w')",), "builtins.eval"),
        (exec, ("open('{mark}', 'w')",), "builtins.exec"),
        (open, ("{mark}", "w"), "io.open"),
        (getattr, (torch.nn.Linear, "__init__"), "builtins.getattr"),
        (__import__, ("antigravity",), "builtins.__import__"),
        (bytearray, (2**40,), "builtins.bytearray"),
        (torch.load, ("{mark}",), "torch.serialization.load"),
        (torch.storage._load_from_bytes, (b"",), "torch.storage._load_from_bytes"),
        (torch.empty, (2**40,), "builtins.getattr"),
        (torch._utils._rebuild_wrapper_subclass, (), "torch._utils._rebuild_wrapper_subclass"),
    ],
)
def test_calls_are_refused_by_name(tmp_path, zipped, function, arguments, name):
    mark = tmp_path / "mark"
    arguments = [a.format(mark=mark) if isinstance(a, str) else a for a in arguments]
    value = {"state_dict": {"weight": torch.ones(2)}, "more": Calls(function, *arguments)}
    path = save(value, tmp_path / "a", zipped)
    assert f"it names {name!r}" in refusal(path)
    assert not mark.exists()


def test_functions_that_are_let_through_do_nothing_else(tmp_path):
    """What a pattern allows is inert even if it is a function that does harm."""
    path = save(Calls(os.system, f"touch {tmp_path}/mark"), tmp_path / "a")
    assert isinstance(load_pickle(path, ("posix.*",)), Inert)
    assert not (tmp_path / "mark").exists()


def storage(count: int, kind: bytes = b"FloatStorage", key: bytes = b"0") -> bytes:
    """Opcodes that push a storage."""
    size = pickle.dumps(count, 2)[2:-1]
    return (
        b"(X\x07\x00\x00\x00storagectorch\n"
        + kind
        + b"\nX\x01\x00\x00\x00"
        + key
        + b"X\x03\x00\x00\x00cpu"
        + size
        + b"tQ"
    )


def tensor(count: int, size: tuple, stride: tuple, offset: int = 0) -> bytes:
    """Opcodes that push a tensor over a storage of `count` values."""
    rest = b"".join(pickle.dumps(x, 2)[2:-1] for x in (offset, size, stride))
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n("
        + storage(count)
        + rest
        + b"\x89ccollections\nOrderedDict\n)RtR"
    )


def test_raw_programs_work_at_all(tmp_path):
    data = torch.arange(6.0).numpy().tobytes()
    path = save_raw(tmp_path / "a", tensor(6, (2, 2), (3, 1), 1) + b".", **{"0": data})
    assert load_pickle(path, ()).tolist() == [[1, 2], [4, 5]]


# A tuple that looking it up would follow 2^60 times, and one that would overflow the stack.
WIDE, DEEP = b"K\x01" + b"2\x86" * 60, b"K\x01" + b"\x85" * 1_000_000
CPU = b"X\x03\x00\x00\x00cpuK\x01tQ."


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (b"}" + WIDE + b"K\x01s.", "a tuple is no key"),
        (b"}" + DEEP + b"K\x01s.", "a tuple is no key"),
        (b"}(" + WIDE + b"K\x01u.", "a tuple is no key"),
        (b"(" + WIDE + b"K\x01d.", "a tuple is no key"),
        (b"c__builtin__\nset\n](" + WIDE + b"e\x85R.", "a tuple is no key"),
        (b"ccollections\nOrderedDict\n](" + WIDE + b"K\x01\x86e\x85R.", "a tuple is no key"),
        (b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\n" + WIDE + CPU, "a tuple is no key"),
        (b"(" + WIDE + b"K\x01K\x01" + CPU, "a tuple that is no plain tensor"),
        (storage(2**50) + b".", "claims"),
        (storage(-4) + b".", "claims"),
        (storage(3) + b".", "missing or not of 12 bytes"),
        (storage(2, key=b"x") + b".", "missing or not of 8 bytes"),
        (storage(2, b"UntypedStorage") + b".", "torch.UntypedStorage"),
        (tensor(2, (2**20, 2**20), (0, 0)) + b".", "over 2 values"),
        (tensor(2, (2,), (1,), 1) + b".", "damaged"),
        (tensor(2, (2,), (2**40,)) + b".", "damaged"),
        (tensor(2, (2,), (-1,)) + b".", "damaged"),
        (tensor(2, (-2, -1), (1, 1)) + b".", "damaged"),
        # The state of a tensor, of a function, of a class; items of a tensor.
        (tensor(2, (2,), (1,)) + b"(K\x01K\x02tb.", "sets the state of a Tensor"),
        (b"ctorch._utils\n_rebuild_tensor_v2\nN}X\x01\x00\x00\x00aK\x01s\x86b.", "state of a func"),
        (b"ctorch.nn.modules\nX\nN}X\x01\x00\x00\x00aK\x01s\x86b.", "sets the state of a type"),
        (tensor(2, (2,), (1,)) + b"K\x00K\x01s.", "sets items of a Tensor"),
        (tensor(2, (2,), (1,)) + b"(K\x00K\x01u.", "sets items of a Tensor"),
        # An index of the memo and the lengths of a text and a byte string of gigabytes.
        (b"K\x01r\xff\xff\xff\x7f0", "damaged"),
        (b"X\xff\xff\xff\x7fabc.", "damaged"),
        (b"\x96\x00\x00\x00\x00\x00\x01\x00\x00.", "damaged"),
        # Names by the stack, and of the registry of extensions.
        (b"\x8c\x05posix\x8c\x06system\x93.", "damaged"),
        (b"\x82\x01.", "damaged"),
    ],
)
def test_hand_made_programs_are_refused(tmp_path, program, message):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    path = save_raw(tmp_path / "a", program, **{"0": bytes(8)})
    assert message in refusal(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB


def test_names_that_are_no_text_are_described_by_their_type(tmp_path):
    found = load_pickle(save({10**5000: 1, "b": 2, ("c", 3): 4}, tmp_path / "a"), ())
    assert describe(found) == "a dict of 3 (a int, b, a tuple)"


def test_archives_that_grow_are_refused(tmp_path):
    path = tmp_path / "a"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + storage(2**20) + b".")
        archive.writestr("archive/data/0", bytes(2**22))
    assert "more than its own size" in refusal(path)


def test_other_files_are_named_for_what_they_are(tmp_path):
    path = tmp_path / "a"
    assert "No such file" in refusal(path)
    assert "Is a directory" in refusal(tmp_path)
    path.write_bytes(b"<!DOCTYPE html>\n<html>")
    assert "no file of torch.save: it begins with b'<!DOCTYPE html>" in refusal(path)
    path.write_bytes(b"")
    assert "no file of torch.save" in refusal(path)
    path.write_bytes(pickle.dumps({"a": 1}, 2))
    assert "a pickle that torch.save did not write" in refusal(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    assert "a zip archive with 0 data.pkl" in refusal(path)
    scripted = io.BytesIO()
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), scripted)
    path.write_bytes(scripted.getvalue())
    assert "__torch__" in refusal(path)


@BOTH
def test_files_that_are_cut_short_are_refused(tmp_path, zipped):
    path = save({"a": torch.randn(50, 50), "b": torch.randn(7)}, tmp_path / "a", zipped)
    whole = path.read_bytes()
    for length in {*range(4, len(whole), 97), *range(170, 260), len(whole) - 1}:
        path.write_bytes(whole[:length])
        assert "cut short" in refusal(path)


def test_an_archive_that_points_to_before_its_beginning_is_damaged(tmp_path):
    path = save({"a": torch.randn(4)}, tmp_path / "a", True)
    damaged = bytearray(path.read_bytes())
    damaged[-46] = 255
    path.write_bytes(damaged)
    assert "is damaged: " in refusal(path)


@BOTH
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_damage_gives_one_line_or_values(tmp_path, zipped, data):
    path = save({"a": torch.randn(4), "b": [torch.nn.ReLU()]}, tmp_path / "a", zipped)
    damaged = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(damaged)
    try:
        load_pickle(path, ALLOWED)
    except UserError as error:
        assert "\n" not in str(error)
