"""The same bytes, whoever writes the shards."""

import contextlib
import os
import shutil
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.children import start
from tests.commands import begin, stop_when, toto
from tests.tiny import contents, make_images, make_videos, save_tokenizer
from toto.errors import UserError
from toto.media.sources import read_sources
from toto.media.view import View
from toto.tokens.config import Ingest
from toto.tokens.ingest import ingest
from toto.tokens.store import TokenDataset

SETTINGS = Ingest(View(stride=2, size=16, crops=2), batch=8, shard_items=3)


@pytest.fixture(scope="module")
def media(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("media")
    make_videos(folder, [5, 33, 1, 150, 12, 40, 8], side=24)
    make_images(folder, 4)
    (folder / "video001b.mp4").write_text("not a video at all")
    return folder


@pytest.fixture(scope="module")
def visual(tmp_path_factory) -> Path:
    return save_tokenizer(tmp_path_factory.mktemp("visual") / "tokenizer")


def make(media: Path, visual: Path, out: Path, devices=("cpu",), engine="local") -> TokenDataset:
    items = read_sources([str(media)])
    return ingest(items, visual, out, SETTINGS, "toto tokenize it", 1, devices, engine)


@pytest.fixture(scope="module")
def whole(media, visual, tmp_path_factory) -> TokenDataset:
    return make(media, visual, tmp_path_factory.mktemp("whole") / "data")


def test_two_devices_change_no_byte(whole, media, visual, tmp_path):
    make(media, visual, tmp_path / "data", ("cpu", "cpu"))
    assert contents(tmp_path / "data") == contents(whole.folder)


def servers(child: psutil.Process) -> list[psutil.Process]:
    found = []
    for process in child.children():
        with suppress(psutil.Error):  # it may have ended meanwhile
            found += [process] * ("spawn_main" in " ".join(process.cmdline()))
    return found


@pytest.mark.parametrize("victim", ["parent", "server"])
def test_a_kill_among_two_devices_loses_nothing(whole, media, visual, tmp_path, victim):
    out = tmp_path / "data"
    child = start(make, media, visual, out, ("cpu", "cpu"))
    family: list[psutil.Process] = []
    while len(servers(psutil.Process(child.pid))) < 2 or not list(out.glob("shards/*.npy")):
        assert child.is_alive()
        time.sleep(0.01)
    family = psutil.Process(child.pid).children(recursive=True)
    if victim == "parent":
        child.kill()
    else:
        servers(psutil.Process(child.pid))[0].send_signal(signal.SIGKILL)
    child.join(30)
    assert child.exitcode not in (None, 0) or TokenDataset(out)
    psutil.wait_procs(family, timeout=10)
    assert not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in family)
    make(media, visual, out)
    assert contents(out) == contents(whole.folder)


def test_one_of_two_devices_dies(media, visual, tmp_path):
    out = tmp_path / "data"
    made: list[BaseException | TokenDataset] = []

    def run() -> None:
        try:
            made.append(make(media, visual, out, ("cpu", "cpu")))
        except OSError as error:
            made.append(error)

    here = psutil.Process()
    others = servers(here)  # of whatever ran before

    def new() -> list[psutil.Process]:
        return [process for process in servers(here) if process not in others]

    thread = threading.Thread(target=run)
    thread.start()
    while len(new()) < 2:
        assert thread.is_alive()
        time.sleep(0.01)
    new()[0].kill()
    thread.join(60)
    (error,) = made
    assert isinstance(error, ChildProcessError)
    assert "a tokenizing process (exit code -9) died" in str(error)


def test_ctrl_c_among_two_devices_is_one_line_and_no_hang(visual, tmp_path):
    """With more planned than the pipe to the processes holds."""
    many = make_images(tmp_path / "many", 1)
    for i in range(6000):
        os.link(many / "image000.png", many / f"{'long' * 40}{i}.png")
    said = stop_when(
        begin(
            tmp_path,
            *("tokenize", many, "--tokenizer", visual, "--out", tmp_path / "data"),
            *"--size 16 --shard-items 400 --workers 1 --device cpu,cpu".split(),
        ),
        lambda: bool(list(tmp_path.glob("data/shards/*.parquet"))),
        signal.SIGINT,
    )
    assert "Traceback" not in said
    assert said.splitlines()[-1] == "toto: interrupted; run it again to continue"


def test_unknown_engine(media, visual, tmp_path):
    with pytest.raises(UserError, match="did you mean 'ray'"):
        make(media, visual, tmp_path / "data", engine="rai")


def test_a_device_for_ray_is_refused(media, visual, tmp_path):
    done = toto(
        tmp_path,
        *("tokenize", media, "--tokenizer", visual, "--out", tmp_path / "data"),
        *"--engine ray --device cpu".split(),
    )
    said = "toto: device 'cpu': with engine 'ray', the cluster says what there is"
    assert (done.returncode, done.stderr.strip()) == (2, said)
    assert not (tmp_path / "data").exists()


@pytest.mark.slow
def test_ray_changes_no_byte(whole, media, visual, tmp_path, monkeypatch):
    """A real cluster whose workers run in another folder; then again after what a kill leaves."""
    ray = pytest.importorskip("ray")
    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"  # else it warns of its own future
    monkeypatch.chdir(tmp_path)
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False)
    try:
        make(media, visual, tmp_path / "data", engine="ray")
        assert contents(tmp_path / "data") == contents(whole.folder)
        monkeypatch.chdir(media.parent)
        data = make(Path(media.name), visual, tmp_path / "relative", engine="ray")
        assert data.info.checksums.keys() == whole.info.checksums.keys()
        assert data.column("path").tolist() == whole.column("path").tolist()
        for name in ("index.parquet", "shards/00001.parquet", "shards/00002.npy"):
            (tmp_path / "data" / name).unlink()
        (tmp_path / "data/shards/00002.parquet").unlink()
        make(media, visual, tmp_path / "data", engine="ray")
        assert contents(tmp_path / "data") == contents(whole.folder)
        text = tmp_path / "text"
        text.mkdir()
        (text / "a.mp4").write_text("no")
        with pytest.raises(UserError, match="none of 1 files"):
            make(text, visual, tmp_path / "none", engine="ray")
    finally:
        ray.shutdown()


def make_on(cluster: dict[str, str], *arguments) -> None:
    os.environ.update(cluster)
    make(*arguments, engine="ray")


def writing(process: psutil.Process, folder: Path) -> bool:
    """Whether a process has a file below the folder open for writing, or one that was there."""
    with contextlib.suppress(psutil.Error, FileNotFoundError):
        return any(
            str(folder) in str(link.readlink())
            for link in Path(f"/proc/{process.pid}/fd").iterdir()
        )
    return False


@pytest.mark.slow
def test_a_ray_worker_that_outlives_its_driver_changes_nothing(visual, tmp_path):
    """Cluster and worker hang in the middle of a shard; it goes on when another run has ended."""
    ray = pytest.importorskip("ray")
    media, out = make_videos(tmp_path / "media", [6000]), tmp_path / "data"
    whole = make(media, visual, tmp_path / "whole")
    nodes: list[psutil.Process] = []
    context = ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    # Ray sets how it authenticates; whom a server forks may be without, it is older.
    cluster = {name: value for name, value in os.environ.items() if name.startswith("RAY_")}
    cluster["RAY_ADDRESS"] = context.address_info["address"]
    try:
        found: list[psutil.Process] = []
        for _ in range(10):  # a shard may be written before it is seen
            driver = start(make_on, cluster, media, visual, out)
            family = psutil.Process().children(recursive=True)
            nodes = [p for p in family if p.name() in ("gcs_server", "raylet")]
            while driver.is_alive() and not found:
                workers = [p for node in nodes for p in node.children(recursive=True)]
                found = [p for p in workers if writing(p, out)]
            if found:
                break
            shutil.rmtree(out)
        assert found
        for process in [*found, *nodes]:  # nobody is left who would end it
            process.suspend()
        driver.kill()
        driver.join()
        make(media, visual, out)
        assert writing(found[0], out)
        for process in found:
            process.resume()
        end = time.monotonic() + 15  # long enough for the rest of its shard
        while writing(found[0], out) and time.monotonic() < end:
            time.sleep(0.1)
        assert contents(out) == contents(whole.folder)
    finally:
        for process in nodes:
            process.resume()
        ray.shutdown()
    assert contents(out) == contents(whole.folder)
