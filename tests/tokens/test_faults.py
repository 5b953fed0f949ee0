"""Disks that fill and mounts that go, for real: in a mount namespace of the test's own."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.commands import ENVIRONMENT, TOTO, made
from tests.tiny import make_videos, save_tokenizer
from toto.tokens.store import TokenDataset
from toto.tokens.verify import verify


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
    verify(one)
    return one.info.checksums == other.info.checksums


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


@pytest.mark.parametrize("left", ["nothing", pytest.param("another", marks=pytest.mark.slow)])
def test_vanished_mount_of_one_of_two_folders(work, left):
    """Its folder goes with it, or holds something else without it; the other one is well."""
    script = f"""
        here() {{ mount -t tmpfs tmpfs beside/second; }}
        bring() {{ mkdir -p beside/first beside/second && here && fill; }}
        fill() {{ for i in 1 2 3; do cp media/video00$i.mp4 beside/second/again$i.mp4; done; }}
        both() {{ ${{TOKENIZE/media/media $PWD/beside/second}}; }}
        bring
        both && mv {left} both-{left}
        ( both 2>&1 ) > log &
        until [ -e {left}/shards/00001.parquet ]; do sleep 0.01; done
        umount -l beside/second
        if [ {left} = nothing ]; then rmdir beside/second; else touch beside/second/README; fi
        code=0; wait $! || code=$?
        cat log
        [ $code = 1 ] && [ ! -e {left}/index.parquet ]
        rm -rf beside/second
        bring
        both
        [ -e {left}/shards/00012.npy ]
        diff -r {left} both-{left}
    """
    (said,) = in_namespace(work, script, left)
    reason = {"nothing": "no such folder", "another": "on another device"}[left]
    assert said.startswith(f"toto: {reason}: is its mount gone?: {work}/beside/second; run it")


# In a user namespace one is root, who may read everything, unless that is given up.
PLAIN = "setpriv --bounding-set=-dac_override,-dac_read_search"


def test_a_file_that_may_not_be_read_costs_that_file_until_it_may(work):
    script = f"""
        chmod 000 media/video007.mp4
        {PLAIN} $TOKENIZE 2>&1
        cp -r closed before
        chmod 644 media/video007.mp4
        {PLAIN} $TOKENIZE
    """
    assert in_namespace(work, script, "closed") == []
    assert TokenDataset(work / "before").failures() == [
        ("video007.mp4", "no permission to read it")
    ]
    assert len(TokenDataset(work / "before")) == 59
    assert same(work, "closed")


@pytest.mark.parametrize("moment", ["before", "amid"])
def test_a_folder_that_may_not_be_listed_stops_the_run(work, moment):
    script = f"""
        if [ {moment} = before ]; then chmod 000 media; fi
        ( {PLAIN} $TOKENIZE 2>&1 ) > log &
        if [ {moment} = amid ]; then
            until [ -e list-{moment}/shards/00001.parquet ]; do sleep 0.01; done
            chmod 000 media
        fi
        code=0; wait $! || code=$?
        chmod 755 media
        cat log
        [ $code = 1 ] && [ ! -e list-{moment}/index.parquet ]
        {PLAIN} $TOKENIZE
    """
    (said,) = in_namespace(work, script, f"list-{moment}")
    assert said.startswith("toto: ") and said.endswith("; run it again to continue")
    assert f": {work}/media" in said
    assert same(work, f"list-{moment}")
