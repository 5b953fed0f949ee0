import itertools
import math
import re
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F
from torch.nn.modules.module import register_module_forward_pre_hook

from tests.tiny import tokenizer
from toto.errors import UserError
from toto.tokenizers import dvae
from toto.tokenizers.base import load_tokenizer
from toto.tokenizers.dvae import (
    DVAE,
    Decoder,
    Encoder,
    kl_to_uniform,
    logit_laplace_nll,
    to_frames,
    to_mapped,
    usage_kl,
)
from toto.tokenizers.quality import psnr, usage
from toto.tokenizers.sizes import DVAESize


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_dalles_size():
    with torch.device("meta"):
        encoder, decoder = Encoder(DVAESize()), Decoder(DVAESize())
    assert (count(encoder), count(decoder)) == (53_786_240, 43_829_766)
    for module, widened in ((encoder, {2, 3, 4}), (decoder, {1, 2, 3, 4})):
        expected = {f"blocks.{name}.{x}" for name in ("input", "output.conv") for x in "wb"}
        for group, block in itertools.product((1, 2, 3, 4), (1, 2)):
            prefix = f"blocks.group_{group}.block_{block}"
            names = [f"{prefix}.res_path.conv_{k}" for k in (1, 2, 3, 4)]
            names += [f"{prefix}.id_path"] if block == 1 and group in widened else []
            expected |= {f"{name}.{x}" for name in names for x in "wb"}
        assert set(module.state_dict()) == expected


def forward(weights: dict[str, torch.Tensor], x: torch.Tensor, decoder: bool) -> torch.Tensor:
    """openai/DALL-E's forward pass, from its description, by names alone."""

    def conv(name: str, x: torch.Tensor) -> torch.Tensor:
        w = weights[f"{name}.w"]
        return F.conv2d(x, w, weights[f"{name}.b"], padding=(w.shape[-1] - 1) // 2)

    groups = max(int(m[1]) for name in weights if (m := re.search(r"group_(\d+)", name)))
    blocks = max(int(m[1]) for name in weights if (m := re.search(r"block_(\d+)", name)))
    x = conv("blocks.input", x)
    for group in range(1, groups + 1):
        for block in range(1, blocks + 1):
            name = f"blocks.group_{group}.block_{block}"
            skip = conv(f"{name}.id_path", x) if f"{name}.id_path.w" in weights else x
            for k in (1, 2, 3, 4):
                x = conv(f"{name}.res_path.conv_{k}", x.clamp(min=0))
            x = skip + x / (groups * blocks) ** 2
        if group < groups:
            x = x.repeat_interleave(2, 2).repeat_interleave(2, 3) if decoder else F.max_pool2d(x, 2)
    return conv("blocks.output.conv", x.clamp(min=0))


@pytest.mark.parametrize(
    "size",
    [
        DVAESize(codebook_size=24, width=8, decoder_input=12),
        DVAESize(codebook_size=24, width=8, groups=2, blocks=3, decoder_input=8),
    ],
)
@torch.no_grad()
def test_outputs_are_those_of_a_plain_forward_pass(size):
    torch.manual_seed(0)
    encoder, decoder = Encoder(size), Decoder(size)
    for p in itertools.chain(encoder.parameters(), decoder.parameters()):
        if p.ndim == 1:
            p.normal_()
    pixels = torch.rand(2, 3, 32, 16)
    torch.testing.assert_close(encoder(pixels), forward(encoder.state_dict(), pixels, False))
    z = torch.rand(2, 24, 4, 2).softmax(1)
    torch.testing.assert_close(decoder(z), forward(decoder.state_dict(), z, True))


@torch.no_grad()
def test_outputs_are_those_of_the_official_package():
    dall_e = pytest.importorskip(
        "dall_e", reason="needs `pip install --no-deps DALL-E==0.1` and requests"
    )
    torch.manual_seed(0)
    size = DVAESize(codebook_size=512, width=64, blocks=1, decoder_input=16)
    ours = Encoder(size), Decoder(size)
    theirs = (
        dall_e.Encoder(n_hid=64, n_blk_per_group=1, vocab_size=512),
        dall_e.Decoder(n_init=16, n_hid=64, n_blk_per_group=1, vocab_size=512),
    )
    for mine, other in zip(ours, theirs, strict=True):
        mine.load_state_dict(other.state_dict())
    pixels = torch.rand(1, 3, 32, 32)
    logits = ours[0](pixels)
    torch.testing.assert_close(logits, theirs[0](pixels))
    assert torch.equal(logits.argmax(1), theirs[0](pixels).argmax(1))
    z = logits.softmax(1)
    torch.testing.assert_close(ours[1](z), theirs[1](z))
    frames = torch.randint(256, (1, 3, 8, 8), dtype=torch.uint8)
    torch.testing.assert_close(to_mapped(frames), dall_e.map_pixels(frames.float() / 255))
    statistics = torch.randn(1, 6, 8, 8)
    image = dall_e.unmap_pixels(torch.sigmoid(statistics[:, :3]))
    assert torch.equal(to_frames(statistics), (image * 255).round().to(torch.uint8))


@torch.no_grad()
def test_patches_fold_pixels_and_nothing_else():
    """With patches, the first code's logits depend on the pixels near it, at full resolution."""
    model = tokenizer(size=DVAESize(codebook_size=9, width=8, groups=1, patch=4, decoder_input=8))
    assert model.downsample == 4
    frames = torch.randint(256, (1, 3, 64, 64), dtype=torch.uint8)
    changed = frames.clone()
    changed[..., 60:, 60:] = 255 - changed[..., 60:, 60:]
    a, b = (model.encoder(to_mapped(x)) for x in (frames, changed))
    assert a.shape == (1, 9, 16, 16)
    assert torch.equal(a[..., 0, 0], b[..., 0, 0])
    assert not torch.equal(a[..., -1, -1], b[..., -1, -1])


def test_encode_and_decode():
    model = tokenizer()
    frames = torch.randint(256, (5, 3, 16, 8), dtype=torch.uint8)
    codes = model.encode(frames)
    assert codes.shape == (5, 4, 2)
    assert torch.equal(codes, model.encoder(to_mapped(frames)).argmax(1))
    one_hot = F.one_hot(codes, 30).permute(0, 3, 1, 2).float()
    assert torch.equal(model.decode(codes), to_frames(model.decoder(one_hot)))
    with pytest.raises(UserError, match="frames of 16x10: this tokenizer needs multiples of 4"):
        model.encode(torch.zeros(1, 3, 16, 10, dtype=torch.uint8))


def test_mapping_comes_back():
    frames = torch.arange(256, dtype=torch.uint8).repeat(3).view(1, 3, 16, 16)
    mapped = to_mapped(frames)
    assert mapped.min() == pytest.approx(0.1)
    assert mapped.max() == pytest.approx(0.9)
    statistics = torch.cat((torch.logit(mapped), torch.randn_like(mapped)), dim=1)
    assert torch.equal(to_frames(statistics), frames)


@pytest.mark.parametrize(("mean", "log_scale"), [(0.0, 0.0), (1.3, -1.5), (-0.7, 0.4)])
def test_the_likelihood_is_a_density(mean, log_scale):
    # Integrated over the logit u of x, where dx = x (1 - x) du.
    u = torch.linspace(-20, 20, 4001, dtype=torch.float64)
    x = torch.sigmoid(u)
    statistics = torch.tensor([mean] * 3 + [log_scale] * 3).view(1, 6, 1, 1)
    nll = [float(logit_laplace_nll(at.expand(1, 3, 1, 1), statistics, -20.0)) for at in x]
    density = torch.exp(-torch.tensor(nll, dtype=torch.float64))
    assert torch.trapezoid(density * x * (1 - x), u) == pytest.approx(1, abs=1e-3)
    scale = math.exp(log_scale)
    closed = torch.exp(-(u - mean).abs() / scale) / (2 * scale * x * (1 - x))
    torch.testing.assert_close(density, closed, rtol=1e-4, atol=0)


def test_the_log_scale_is_bounded_from_below():
    mapped = torch.full((1, 3, 2, 2), 0.5)
    statistics = torch.cat((torch.zeros(1, 3, 2, 2), torch.full((1, 3, 2, 2), -9.0)), 1)
    bounded = logit_laplace_nll(mapped, statistics, -2.0)
    assert float(bounded) == pytest.approx(math.log(2) - 2 + 2 * math.log(0.5))
    assert logit_laplace_nll(mapped, statistics, -20.0) < bounded


def test_divergences_by_brute_force():
    logits = 2 * torch.randn(3, 7, 2, 2, generator=torch.Generator().manual_seed(0))
    q = logits.softmax(1).permute(0, 2, 3, 1).reshape(-1, 7)
    kl = sum(p * math.log(p * 7) for row in q.tolist() for p in row) / len(q)
    assert float(kl_to_uniform(logits)) == pytest.approx(kl, rel=1e-5)
    uneven = sum(p * math.log(p * 7) for p in q.mean(0).tolist())
    assert float(usage_kl(logits)) == pytest.approx(uneven, rel=1e-4)
    assert float(kl_to_uniform(torch.zeros(1, 7, 2, 2))) == pytest.approx(0, abs=1e-6)


def test_quality_by_brute_force():
    frames = torch.randint(256, (2, 3, 4, 4), dtype=torch.uint8)
    noisy = frames.clone()
    noisy[0] = frames[0] ^ 1  # an error of one grey level everywhere
    assert psnr(frames, noisy)[0] == pytest.approx(20 * math.log10(255), rel=1e-6)
    # The same after rounding to 8 bits: uniform errors of half a level at most.
    assert psnr(frames, noisy)[1] == pytest.approx(20 * math.log10(255 * math.sqrt(12)), rel=1e-6)
    used, perplexity = usage(torch.tensor([[0, 0, 5, 5], [5, 5, 0, 0]]), 8)
    assert (used, perplexity) == (2, pytest.approx(2))
    assert usage(torch.tensor([0, 0, 0, 1]), 8)[1] == pytest.approx(
        math.exp(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))
    )


def test_what_is_saved_is_loaded(tmp_path):
    model = tokenizer()
    model.save(tmp_path / "a")
    loaded = load_tokenizer(tmp_path / "a")
    assert isinstance(loaded, DVAE)
    assert loaded.fingerprint == model.fingerprint == tokenizer().fingerprint
    frames = torch.randint(256, (2, 3, 8, 8), dtype=torch.uint8)
    assert torch.equal(loaded.encode(frames), model.encode(frames))
    assert not any(p.requires_grad for p in loaded.parameters())
    assert set(load_file(tmp_path / "a/model.safetensors")) == set(model.state_dict())
    loaded.save(tmp_path / "b")
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_codes_have_the_precision_of_their_tokenizer(tmp_path):
    model = tokenizer()
    model.save(tmp_path)
    rough = load_tokenizer(tmp_path, precision="bf16")
    frames = torch.randint(256, (16, 3, 32, 32), dtype=torch.uint8)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        logits = model.encoder(to_mapped(frames))
        assert logits.dtype == torch.float32  # the last convolution's own
        expected = logits.argmax(1)
        # Whatever is around.
        assert torch.equal(model.encode(frames), load_tokenizer(tmp_path).encode(frames))
    assert torch.equal(rough.encode(frames), expected)
    assert not torch.equal(model.encode(frames), expected)
    differ = model.decode(expected).int() - rough.decode(expected).int()
    assert 0 < differ.abs().max() < 8


@pytest.fixture
def tf32(request):
    """PyTorch's switches of TF32, all on or all off."""
    switches = torch.backends.cudnn, torch.backends.cuda.matmul
    before = [switch.allow_tf32 for switch in switches]
    for switch in switches:
        switch.allow_tf32 = request.param
    yield switches
    for switch, allowed in zip(switches, before, strict=True):
        switch.allow_tf32 = allowed


@pytest.mark.parametrize("tf32", [True, False], indirect=True)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_nothing_that_decides_a_code_of_fp32_is_rounded_to_tf32(tf32, precision):
    model, seen = DVAE(tokenizer().size, precision), []
    before = [switch.allow_tf32 for switch in tf32]
    hook = register_module_forward_pre_hook(
        lambda *_: seen.extend(switch.allow_tf32 for switch in tf32)
    )
    with hook:
        model.encode(torch.zeros(1, 3, 8, 8, dtype=torch.uint8))
    assert set(seen) == {precision == "bf16"}
    assert [switch.allow_tf32 for switch in tf32] == before


def test_many_places_are_looked_at_in_parts(monkeypatch):
    model, frames = tokenizer(), torch.randint(256, (3, 3, 20, 28), dtype=torch.uint8)
    whole = model.encode(frames)
    monkeypatch.setattr(dvae, "PLACES", 16)
    assert torch.equal(model.encode(frames), whole)


COMPILED = """
import sys
import torch
from pathlib import Path
from toto.tokenizers.base import load_tokenizer
model = load_tokenizer(Path(sys.argv[1]))
frames = torch.randint(256, (4, 3, 32, 32), dtype=torch.uint8)
codes = model.encode(frames)
decoded = model.decode(codes)
model.compile(dynamic=False)
assert (model.encode(frames) == codes).float().mean() > 0.99
assert (model.decode(codes).int() - decoded.int()).abs().max() <= 1
print(torch._dynamo.utils.counters["frames"]["ok"])
"""


@pytest.mark.slow
def test_compiled_codes_and_frames(tmp_path):
    """In a process of its own: the checks of shapes cannot be compiled."""
    tokenizer().save(tmp_path)
    command = [sys.executable, "-c", COMPILED, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) == 2


def test_fingerprints_tell_weights_and_configurations_apart():
    one = tokenizer()
    assert tokenizer(seed=1).fingerprint != one.fingerprint
    other = tokenizer()
    other.decoder.blocks.output.conv.b.add_(1e-6)
    assert other.fingerprint != one.fingerprint


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("config.json", "{"),
        ("config.json", "{}"),
        ("config.json", '{"kind": "dvea"}'),
        ("config.json", '{"kind": [1]}'),
        ("config.json", '{"kind": "dvae"}'),
        ("config.json", '{"kind": "dvae", "size": {"width": 3}}'),
        ("config.json", '{"kind": "dvae", "size": {"width": 16}}'),
        ("config.json", '{"kind": "dvae", "size": {"widht": 16}}'),
        ("model.safetensors", "nothing"),
        ("model.safetensors", None),
    ],
)
def test_damaged_folders_are_refused_in_one_line(tmp_path, file, text):
    tokenizer().save(tmp_path)
    if text is None:
        (tmp_path / file).unlink()
    else:
        (tmp_path / file).write_text(text)
    with pytest.raises(UserError) as caught:
        load_tokenizer(tmp_path)
    assert "\n" not in str(caught.value)
