"""Disks that fill and mounts that go, for real: in a mount namespace of the test's own."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.commands import ENVIRONMENT, TOTO, made
from tests.tiny import make_videos, save_tokenizer
from toto.tokens.store import TokenDataset


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    """Media, a tokenizer, and the data set that an undisturbed run makes of them."""
    try:
        subprocess.run(["unshare", "-rm", "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no mount namespaces here (unshare -rm)")
    folder = tmp_path_factory.mktemp("faults")
    make_videos(folder / "media", [30] * 60, side=64)
    save_tokenizer(folder / "tokenizer")
    made(folder, *tokenize(folder, "whole"))
    return folder


def tokenize(folder: Path, out: str, *options: str) -> list[str]:
    """Absolute paths: they are part of what a data set is made from."""
    settings = "--size 64 --stride 1 --batch 8 --shard-items 5 --workers 1 --device cpu".split()
    where = ["--tokenizer", str(folder / "tokenizer"), "--out", str(folder / out)]
    return ["tokenize", str(folder / "media"), *where, *settings, *options]


def in_namespace(folder: Path, script: str, out: str) -> list[str]:
    """Run a shell script that may mount; `$TOTO` is the command. The lines of its output."""
    command = " ".join([TOTO, *tokenize(folder, out)])
    done = subprocess.run(
        ["unshare", "-rm", "bash", "-ec", script],
        cwd=folder,
        env=ENVIRONMENT | {"TOKENIZE": command},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return [line for line in done.stdout.splitlines() if line.startswith("toto: ")]


def same(folder: Path, out: str) -> bool:
    """Whether the data set is the undisturbed run's but for the command that made it."""
    one, other = TokenDataset(folder / out), TokenDataset(folder / "whole")
    assert one.failures() == []
    one.verify()
    return one.info["checksums"] == other.info["checksums"]


def test_full_disk(work):
    script = """
        mkdir -p full && mount -t tmpfs -o size=700k tmpfs full
        code=0; $TOKENIZE 2>&1 || code=$?
        [ $code = 1 ] && ls full/shards/*.npy
        mount -o remount,size=64m full
        $TOKENIZE
        cp -r full copy
    """
    (said,) = in_namespace(work, script, "full")
    assert said.startswith("toto: No space left on device: ") and "run it again" in said
    shutil.rmtree(work / "full")
    (work / "copy").rename(work / "full")
    assert same(work, "full")


def test_vanished_mount_of_the_media(work):
    script = """
        mv media aside && mkdir media && mount --bind aside media
        ( $TOKENIZE 2>&1 ) > log &
        until [ -e gone/shards/00001.parquet ]; do sleep 0.01; done
        umount -l media
        code=0; wait $! || code=$?
        cat log
        [ $code = 1 ] && [ ! -e gone/index.parquet ]
        mount --bind aside media
        $TOKENIZE
    """
    try:
        (said,) = in_namespace(work, script, "gone")
    finally:
        if (work / "aside").exists():
            (work / "media").rmdir()
            (work / "aside").rename(work / "media")
    assert said.startswith("toto: the folder is empty: is its mount gone?")
    assert same(work, "gone")


def test_read_only_disk(work):
    script = """
        mkdir -p fixed && mount -t tmpfs -o size=64m tmpfs fixed && mount -o remount,ro fixed
        code=0; $TOKENIZE 2>&1 || code=$?
        [ $code = 1 ]
    """
    (said,) = in_namespace(work, script, "fixed")
    assert said.startswith("toto: Read-only file system: ")
