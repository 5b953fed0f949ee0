import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.tiny import save_tokenizer
from toto.errors import UserError
from toto.tokenizers.base import load_tokenizer
from toto.tokenizers.download import download
from toto.tokenizers.dvae import DVAE
from toto.tokenizers.official import convert_dalle, fetch_dalle

dall_e = pytest.importorskip(
    "dall_e", reason="needs `pip install --no-deps DALL-E==0.1` and requests"
)


@torch.no_grad()
def release(seed: int = 0, **sizes: int) -> tuple[nn.Module, nn.Module]:
    """An encoder and a decoder of OpenAI's package with random weights."""
    torch.manual_seed(seed)
    both = (
        dall_e.Encoder(
            n_hid=sizes["width"], n_blk_per_group=sizes["blocks"], vocab_size=sizes["codes"]
        ),
        dall_e.Decoder(
            n_init=sizes["start"],
            n_hid=sizes["width"],
            n_blk_per_group=sizes["blocks"],
            vocab_size=sizes["codes"],
        ),
    )
    for module in both:
        for name, value in module.named_parameters():
            if name.endswith(".b"):
                value.normal_(std=0.1)
    return both


SMALL = {"width": 64, "blocks": 1, "codes": 512, "start": 16}


def save(folder: Path, modules: tuple[nn.Module, nn.Module], zipped: bool = True) -> list[Path]:
    paths = [folder / "encoder.pkl", folder / "decoder.pkl"]
    for module, path in zip(modules, paths, strict=True):
        torch.save(module, path, _use_new_zipfile_serialization=zipped)
    return paths


@torch.no_grad()
def assert_same(tokenizer: DVAE, modules: tuple[nn.Module, nn.Module], height: int, width: int):
    """Codes and reconstructions as in the package's notebook (usage.ipynb)."""
    encoder, decoder = modules
    coarse = torch.randint(256, (2, 3, height // 8, width // 8), dtype=torch.uint8)
    frames = coarse.repeat_interleave(8, 2).repeat_interleave(8, 3)
    frames ^= torch.randint(16, frames.shape, dtype=torch.uint8)
    codes = encoder(dall_e.map_pixels(frames.float() / 255)).argmax(1)
    assert len(codes.unique()) > 8
    assert torch.equal(tokenizer.encode(frames), codes)
    codes = torch.randint(encoder.vocab_size, codes.shape)
    z = F.one_hot(codes, encoder.vocab_size).permute(0, 3, 1, 2).float()
    image = dall_e.unmap_pixels(torch.sigmoid(decoder(z).float()[:, :3]))
    statistics = tokenizer.decoder.of_codes(codes)
    ours = dall_e.unmap_pixels(torch.sigmoid(statistics[:, :3]))
    torch.testing.assert_close(ours, image, rtol=0, atol=1e-6)
    pixels = tokenizer.decode(codes)
    assert pixels.dtype == torch.uint8
    assert (pixels.double() - image.double() * 255).abs().max() <= 0.5 + 1e-3


@pytest.mark.parametrize(
    ("zipped", "sizes"),
    [(True, SMALL), (False, SMALL), (True, {**SMALL, "blocks": 2, "codes": 700, "start": 9})],
)
def test_the_release_and_what_is_made_of_it_are_the_same(tmp_path, zipped, sizes):
    modules = release(**sizes)
    convert_dalle(*save(tmp_path, modules, zipped), tmp_path / "out")
    tokenizer = load_tokenizer(tmp_path / "out")
    assert (tokenizer.codebook_size, tokenizer.downsample) == (sizes["codes"], 8)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "config.json",
        "model.safetensors",
    }
    for height, width in ((64, 64), (72, 40)):
        assert_same(tokenizer, modules, height, width)


@pytest.mark.slow
def test_the_release_at_its_own_size(tmp_path):
    modules = release(width=256, blocks=2, codes=8192, start=128)
    convert_dalle(*save(tmp_path, modules), tmp_path / "out")
    tokenizer = load_tokenizer(tmp_path / "out")
    for height, width in ((64, 64), (72, 40), (128, 128)):
        assert_same(tokenizer, modules, height, width)


def test_other_files_are_refused_in_one_line(tmp_path):
    modules = release(**SMALL)
    encoder, decoder = save(tmp_path, modules)

    def refusal(*paths: Path) -> str:
        with pytest.raises(UserError) as caught:
            convert_dalle(*paths, tmp_path / "out")
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "out").exists()
        return str(caught.value)

    assert (
        f"{decoder} holds dall_e.decoder.Decoder, where dall_e.encoder.Encoder was expected"
        == refusal(decoder, encoder)
    )
    other = tmp_path / "other.pkl"
    torch.save(modules[0].state_dict(), other)
    assert "holds a dict of 42 (blocks.input.w, " in refusal(other, decoder)
    torch.save(nn.Linear(3, 3), other)
    assert "holds torch.nn.modules.linear.Linear, where dall_e.encoder" in refusal(other, decoder)
    torch.save(nn.Transformer(8, 1, 1, 1, 8).encoder.layers[0].self_attn, other)
    assert "holds torch.nn.modules.activation.MultiheadAttention" in refusal(other, decoder)
    other.write_bytes(encoder.read_bytes()[:100_000])
    assert "cut short" in refusal(other, decoder)
    torch.save(release(**SMALL | {"codes": 513})[1], other)
    assert "decoder.blocks.input.w is [16, 513, 1, 1], not [16, 512, 1, 1]" in refusal(
        encoder, other
    )
    torch.save(release(**SMALL | {"blocks": 2})[1], other)
    assert "block_2" in refusal(encoder, other)

    def changed(change) -> Path:
        module = release(**SMALL)[0]
        change(module)
        torch.save(module, other)
        return other

    def gain(module: nn.Module) -> None:
        module.blocks.group_2.block_1.post_gain = 0.5

    def lose(module: nn.Module) -> None:
        del module.blocks.output.conv.w

    def empty(module: nn.Module) -> None:
        module.blocks.input.w = nn.Parameter(torch.empty(0, 3, 7, 7))

    def loop(module: nn.Module) -> None:
        module.blocks.group_1.block_1._modules["again"] = module

    expected = f"post_gain of encoder.blocks.group_2.block_1 is 0.5, not {1 / 16}"
    assert expected in refusal(changed(gain), decoder)
    assert "encoder.blocks.output.conv.w is missing" in refusal(changed(lose), decoder)
    assert "encoder.blocks.input.w is missing or" in refusal(changed(empty), decoder)
    convert_dalle(changed(loop), decoder, tmp_path / "out")
    with pytest.raises(UserError, match="out holds something already"):
        convert_dalle(encoder, decoder, tmp_path / "out")


class Mirror(BaseHTTPRequestHandler):
    """Files with ranges, whose connection breaks after so many bytes."""

    files: dict[str, bytes]
    versions: dict[str, str]
    breaks_after: int
    asked: list[str]
    sent: int

    def do_GET(self):
        cls, data = type(self), self.files.get(self.path)
        if data is None:
            self.send_error(503 if self.path == "/busy" else 404)
            return
        version, part = self.versions.get(self.path), self.headers.get("Range")
        begin = 0
        if part and self.headers.get("If-Range") == version:
            begin = int(part.removeprefix("bytes=").removesuffix("-"))
        cls.asked.append(f"{self.path}:{begin}")
        if begin > len(data):
            self.send_error(416)
            return
        self.send_response(206 if begin else 200)
        self.send_header("Content-Length", str(len(data) - begin))
        if version:
            self.send_header("ETag", version)
        self.end_headers()
        part = data[begin : begin + self.breaks_after]
        self.wfile.write(part)
        cls.sent += len(part)

    def log_message(self, *args):
        pass


@pytest.fixture
def mirror():
    class Fresh(Mirror):
        files, versions, asked = {}, {}, []
        breaks_after, sent = 2**40, 0

    server = ThreadingHTTPServer(("127.0.0.1", 0), Fresh)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    Fresh.address = f"http://127.0.0.1:{server.server_port}"
    yield Fresh
    server.shutdown()
    server.server_close()


def test_the_release_is_fetched(tmp_path, mirror, capsys):
    modules = release(**SMALL)
    files = [path.read_bytes() for path in save(tmp_path, modules)]
    mirror.files = dict(zip(("/encoder.pkl", "/d"), files, strict=True))
    mirror.versions = {"/encoder.pkl": '"1"', "/d": '"2"'}
    mirror.breaks_after = 300_000
    fetch_dalle(tmp_path / "out", f"{mirror.address}/encoder.pkl", f"{mirror.address}/d")
    assert len(mirror.asked) > 4
    assert mirror.sent == sum(map(len, files))
    said = capsys.readouterr().err.replace("\n", " ")
    for data in files:
        assert hashlib.sha256(data).hexdigest() in said
    assert_same(load_tokenizer(tmp_path / "out"), modules, 64, 64)
    assert {path.name for path in tmp_path.iterdir()} == {"encoder.pkl", "decoder.pkl", "out"}
    with pytest.raises(UserError, match="out holds something already"):
        fetch_dalle(tmp_path / "out", "", "")


def test_a_download_goes_on_in_the_next_run(tmp_path, mirror):
    data = bytes(range(256)) * 100
    mirror.files, mirror.versions = {"/a": data}, {"/a": '"1"'}
    path = tmp_path / "a"
    mirror.breaks_after = 0
    with pytest.raises(OSError, match="no connection: it ended early"):
        download(f"{mirror.address}/a", path)
    (tmp_path / "a.partial").write_bytes(data[:7000])
    with pytest.raises(OSError, match="no connection"):
        download(f"{mirror.address}/a", path)
    assert (tmp_path / "a.partial").read_bytes() == data[:7000]
    mirror.breaks_after = 2**40
    download(f"{mirror.address}/a", path)
    assert path.read_bytes() == data
    assert mirror.asked[-1] == "/a:7000"
    assert mirror.sent == len(data) - 7000


def test_another_version_is_begun_anew(tmp_path, mirror):
    mirror.files, mirror.versions = {"/a": b"new" * 1000}, {"/a": '"2"'}
    (tmp_path / "a.partial").write_bytes(b"old" * 500)
    (tmp_path / "a.version").write_text('"1"')
    download(f"{mirror.address}/a", tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == b"new" * 1000
    (tmp_path / "b.partial").write_bytes(b"new" * 2000)
    (tmp_path / "b.version").write_text('"2"')
    download(f"{mirror.address}/a", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == b"new" * 1000
    mirror.versions = {}
    (tmp_path / "c.partial").write_bytes(b"what")
    download(f"{mirror.address}/a", tmp_path / "c")
    assert (tmp_path / "c").read_bytes() == b"new" * 1000


def test_what_is_not_there_is_said_in_one_line(tmp_path, mirror):
    with pytest.raises(UserError, match="/none: HTTP 404 Not Found"):
        download(f"{mirror.address}/none", tmp_path / "a")
    with pytest.raises(OSError, match="HTTP 503"):
        download(f"{mirror.address}/busy", tmp_path / "a")
    with pytest.raises(OSError, match="no connection"):
        download("http://127.0.0.1:9/a", tmp_path / "a")
    with pytest.raises(UserError, match="unknown url type"):
        download("encoder.pkl", tmp_path / "a")
    mirror.files = {"/page": b"<html>"}
    for _ in range(2):  # the page is not kept
        with pytest.raises(UserError, match="it begins with b'<html>'"):
            fetch_dalle(tmp_path / "out", f"{mirror.address}/page", f"{mirror.address}/page")
    assert mirror.asked == ["/page:0"] * 4


def test_precision_is_part_of_a_tokenizer(tmp_path):
    folder = save_tokenizer(tmp_path / "a")
    fp32, bf16 = load_tokenizer(folder), load_tokenizer(folder, precision="bf16")
    assert fp32.fingerprint != bf16.fingerprint
    bf16.save(tmp_path / "b")
    again = load_tokenizer(tmp_path / "b")
    assert again.fingerprint == bf16.fingerprint
    assert load_tokenizer(tmp_path / "b", precision="fp32").fingerprint == fp32.fingerprint
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"fp32"', '"bf1"'))
    with pytest.raises(UserError, match="unknown precision 'bf1': did you mean 'bf16'"):
        load_tokenizer(folder)
