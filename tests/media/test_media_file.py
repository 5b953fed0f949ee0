import gzip
import io
import random
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from toto.errors import MediaError, UserError
from toto.media.file import MediaFile, open_file
from toto.media.item import Location
from toto.media.sources import read_source


def content(seed: int, size: int = 300_000) -> bytes:
    return random.Random(seed).randbytes(size)


def read(path: object, part: str | None = None) -> bytes:
    with open_file(Location(str(path), part)) as file:
        return file.read()


def assert_reads_like_a_file(file: MediaFile, expected: bytes) -> None:
    """Random reads and seeks agree with those in memory."""
    rng, model = random.Random(0), io.BytesIO(expected)
    for _ in range(200):
        if rng.random() < 0.5:
            whence = rng.randrange(3)
            low, high = ((0, 1.1), (-0.1, 0.1), (-1, 0.1))[whence]
            offset = int(rng.uniform(low, high) * len(expected))
            if whence == 1:
                offset = max(offset, -model.tell())
            assert file.seek(offset, whence) == model.seek(offset, whence)
        else:
            size = rng.choice((0, 1, 100, 10_000, 200_000))
            assert file.read(size) == model.read(size)
        assert file.tell() == model.tell()


@pytest.fixture
def tar(tmp_path):
    """An archive of three files, plain and compressed, and what each file holds."""
    files = {f"{i}.bin": content(i) for i in range(3)}
    for name, mode in {"a.tar": "w", "a.tar.gz": "w:gz", "a.tar.xz": "w:xz"}.items():
        with tarfile.open(tmp_path / name, mode) as archive:
            for member, data in files.items():
                info = tarfile.TarInfo(member)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    return tmp_path, files


def test_plain_files(tmp_path):
    (tmp_path / "a").write_bytes(content(0))
    with open_file(Location(str(tmp_path / "a"))) as file:
        assert_reads_like_a_file(file, content(0))


def test_what_is_no_file(tmp_path):
    (tmp_path / "circle").symlink_to("circle")
    (tmp_path / "a").touch()
    for path, reason in {
        tmp_path / "none": "no such file",
        tmp_path / "a" / "b": "no such file",
        tmp_path / "circle": "circle",
        tmp_path / ("x" * 300): "too long",
        tmp_path: "a folder",
    }.items():
        for part in (None, "bytes:0+10", "member:x", "row:0:image"):
            with pytest.raises(MediaError, match=reason):
                read(path, part)
    with pytest.raises(ValueError, match="is no file"):
        read(tmp_path / "a", "frames")


def test_windows_of_a_tar(tar):
    folder, files = tar
    with tarfile.open(folder / "a.tar") as archive:
        for info in archive:
            part = f"bytes:{info.offset_data}+{info.size}"
            with open_file(Location(str(folder / "a.tar"), part)) as file:
                assert_reads_like_a_file(file, files[info.name])


def test_a_window_beyond_the_end_is_cut(tmp_path):
    (tmp_path / "a").write_bytes(b"0123456789")
    assert read(tmp_path / "a", "bytes:4+100") == b"456789"


@pytest.mark.parametrize("name", ["a.tar.gz", "a.tar.xz", "a.tar"])
def test_members_in_any_order(tar, name):
    folder, files = tar
    for member in ("0.bin", "2.bin", "1.bin", "1.bin", "0.bin"):
        assert read(folder / name, f"member:{member}") == files[member]
    with open_file(Location(str(folder / name), "member:1.bin")) as file:
        assert_reads_like_a_file(file, files["1.bin"])
    with pytest.raises(MediaError, match="no such member"):
        read(folder / name, "member:x")
    assert read(folder / name, "member:0.bin") == files["0.bin"]


def test_members_in_order_are_read_once(tar, monkeypatch):
    import toto.media.archive as module

    opened = []
    open_path = module.open_path
    monkeypatch.setattr(module, "open_path", lambda path: opened.append(path) or open_path(path))
    folder, files = tar
    for member in files:
        read(folder / "a.tar.gz", f"member:{member}")
    assert len(opened) == 1


def test_a_broken_archive_costs_its_members(tar):
    folder, files = tar
    whole = (folder / "a.tar.gz").read_bytes()
    cut = folder / "cut.tar.gz"
    cut.write_bytes(whole[: len(whole) // 2])
    assert read(cut, "member:0.bin") == files["0.bin"]
    for member in ("1.bin", "2.bin"):
        with pytest.raises(MediaError, match="truncated"):
            read(cut, f"member:{member}")
    assert read(cut, "member:0.bin") == files["0.bin"]
    (folder / "text.tar.gz").write_bytes(gzip.compress(b"no archive at all"))
    with pytest.raises(MediaError, match="corrupt"):
        read(folder / "text.tar.gz", "member:0.bin")


def test_an_archive_written_anew_is_read_anew(tar):
    folder, files = tar
    assert read(folder / "a.tar.gz", "member:0.bin") == files["0.bin"]
    (folder / "a.tar.xz").replace(folder / "a.tar.gz")
    with tarfile.open(folder / "a.tar.gz", "w:gz") as archive:
        info = tarfile.TarInfo("0.bin")
        info.size = 3
        archive.addfile(info, io.BytesIO(b"new"))
    assert read(folder / "a.tar.gz", "member:0.bin") == b"new"


def cells(count: int) -> list[bytes]:
    return [content(i, 1000) for i in range(count)]


@pytest.mark.parametrize("kind", ["stream", "file", "parquet"])
def test_cells_of_tables(tmp_path, kind):
    values, path = cells(25), tmp_path / "table"
    structs = [{"bytes": value, "path": None} for value in values]
    table = pa.table({"image": structs, "raw": values, "label": range(25)})
    if kind == "parquet":
        pq.write_table(table, path, row_group_size=10)
    else:
        write = pa.ipc.new_stream if kind == "stream" else pa.ipc.new_file
        with write(path, table.schema) as writer:
            writer.write_table(table, max_chunksize=10)
    for row in (0, 24, 9, 10, 11):
        assert read(path, f"row:{row}:image") == read(path, f"row:{row}:raw") == values[row]
    for part in ("row:25:image", "row:0:none"):
        with pytest.raises(MediaError, match=r"no row (25|0) with a column"):
            read(path, part)
    with pytest.raises(MediaError, match="holds no bytes"):
        read(path, "row:0:label")


def test_a_broken_table_costs_its_rows(tmp_path):
    path = tmp_path / "table"
    pq.write_table(pa.table({"raw": cells(10)}), path, compression="zstd")
    data = bytearray(path.read_bytes())
    data[4:2000] = b"\xff" * 1996
    path.write_bytes(data)
    with pytest.raises(MediaError, match="unreadable table"):
        read(path, "row:0:raw")
    path.write_bytes(b"PAR1 and no more")
    with pytest.raises(MediaError, match="unreadable table"):
        read(path, "row:0:raw")
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(MediaError, match="unreadable table"):
        read(path, "row:0:raw")


def test_remote_files(tar, memory):
    folder, files = tar
    memory.pipe("/d/a.tar", (folder / "a.tar").read_bytes())
    memory.pipe("/d/a.tar.gz", (folder / "a.tar.gz").read_bytes())
    with open_file(Location("memory://d/a.tar")) as file:
        assert_reads_like_a_file(file, (folder / "a.tar").read_bytes())
    assert read("memory://d/a.tar", "bytes:512+300000") == files["0.bin"]
    assert read("memory://d/a.tar.gz", "member:2.bin") == files["2.bin"]
    with pytest.raises(MediaError, match="no such file"):
        read("memory://d/none")
    for kind in ("parquet", "arrow"):
        sink = io.BytesIO()
        table = pa.table({"raw": cells(3)})
        if kind == "parquet":
            pq.write_table(table, sink)
        else:
            with pa.ipc.new_stream(sink, table.schema) as writer:
                writer.write_table(table)
        memory.pipe(f"/d/{kind}", sink.getvalue())
        assert read(f"memory://d/{kind}", "row:2:raw") == cells(3)[2]


class Odd(MemoryFileSystem):
    """Fails as protocols' libraries do, with errors of their own."""

    protocol = "odd"
    store: dict = {}  # noqa: RUF012  as its parent

    class Throttled(Exception):
        pass

    class Sulky(io.BytesIO):
        def read(self, size=-1):
            raise Odd.Throttled("slow down")

    def _open(self, path, mode="rb", **kwargs):
        if "late" in path:
            return self.Sulky(b"x" * 100)
        raise self.Throttled("slow down")


def test_errors_of_a_protocol_are_errors_of_the_machine():
    fsspec.register_implementation("odd", Odd, clobber=True)
    with pytest.raises(OSError, match=r"Throttled: slow down: .odd://a"):
        read("odd://a")
    with pytest.raises(OSError, match="Throttled"), open_file(Location("odd://late")) as file:
        assert file.read(10) == b""
        raise MediaError("what a decoder makes of it")
    with pytest.raises(UserError, match="Protocol not known"):
        read("nosuch://a")


class Ranges(BaseHTTPRequestHandler):
    """Serves parts, and is not well on some paths."""

    files: dict[str, bytes] = {}  # noqa: RUF012

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        data = self.files.get(self.path)
        if data is None:
            self.send_error(503 if "busy" in self.path else 404)
            return
        begin, end = 0, len(data)
        if wanted := self.headers.get("Range"):
            first, last = wanted.removeprefix("bytes=").split("-")
            begin, end = int(first), min(len(data), int(last) + 1)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{len(data)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(end - begin))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data[begin:end])

    def log_message(self, *args):
        pass


class Quiet(SimpleHTTPRequestHandler):
    """Python's own: it knows no parts."""

    folder: Path

    def __init__(self, *args):
        super().__init__(*args, directory=str(self.folder))

    def log_message(self, *args):
        pass


@pytest.fixture
def serve():
    servers = []

    def start(handler: type) -> str:
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_web_servers(serve, monkeypatch):
    pytest.importorskip("aiohttp")
    monkeypatch.setattr(Ranges, "files", {"/a.mp4": content(0), "/a.mp4?token=1": content(1)})
    address = serve(Ranges)
    with open_file(Location(f"{address}/a.mp4")) as file:
        assert_reads_like_a_file(file, content(0))
    assert read(f"{address}/a.mp4?token=1", "bytes:1000+5000") == content(1)[1000:6000]
    with pytest.raises(MediaError, match="no such file"):
        read(f"{address}/none.mp4")
    with pytest.raises(OSError, match="503"):  # the server's trouble, not the file's
        read(f"{address}/busy.mp4")
    with pytest.raises(OSError, match="Connect"):
        read("http://127.0.0.1:9/a.mp4")


def test_a_web_server_that_sends_only_whole_files(serve, monkeypatch, tmp_path):
    pytest.importorskip("aiohttp")
    monkeypatch.setattr(Quiet, "folder", tmp_path, raising=False)
    large = content(0, 12 * 2**20)
    (tmp_path / "a.mp4").write_bytes(large)
    address = serve(Quiet)
    with open_file(Location(f"{address}/a.mp4")) as file:
        assert file.read(10) == large[:10]
        file.seek(-100, 2)
        assert file.read() == large[-100:]
        file.seek(0)
        assert_reads_like_a_file(file, large)
    assert read(f"{address}/a.mp4", f"bytes:{11 * 2**20}+100") == large[11 * 2**20 :][:100]


def test_pages_of_a_web_server_are_folders(serve, monkeypatch, tmp_path):
    pytest.importorskip("aiohttp")
    monkeypatch.setattr(Quiet, "folder", tmp_path, raising=False)
    for name in ("train/run/1.mp4", "val/jump/2.mp4"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(name.encode())
    (tmp_path / "a.csv").write_text("path,label\ntrain/run/1.mp4,x\n")
    address = serve(Quiet)
    items = read_source(f"{address}/train/") + read_source(f"{address}/a.csv?split=test")
    found = [(item.key, item.label, item.split) for item in items]
    assert found == [("run/1.mp4", "run", None), ("train/run/1.mp4", "x", "test")]
    assert [read(item.location.path) for item in items] == [b"train/run/1.mp4"] * 2


def test_members_of_a_zip(tmp_path):
    import zipfile

    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("d/a.bin", content(0))
        archive.writestr("d/b.bin", content(1))
    with open_file(Location(f"zip://d/a.bin::{tmp_path}/a.zip")) as file:
        assert_reads_like_a_file(file, content(0))
    with pytest.raises(MediaError, match="no such file"):
        read(f"zip://d/c.bin::{tmp_path}/a.zip")
    data = bytearray((tmp_path / "a.zip").read_bytes())
    data[200_000:201_000] = bytes(1000)  # within the first member
    (tmp_path / "b.zip").write_bytes(data)
    assert len(read(f"zip://d/a.bin::{tmp_path}/b.zip")) < 300_000  # cut, for the decoder to tell
    assert read(f"zip://d/b.bin::{tmp_path}/b.zip") == content(1)
