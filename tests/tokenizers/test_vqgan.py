import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tokenizers.reference_vqgan import Reference, Shape, layers, random_weights
from toto.errors import UserError
from toto.tokenizers import quantise
from toto.tokenizers.base import load_tokenizer
from toto.tokenizers.quantise import ScalarQuantizer, VectorQuantizer, nearest
from toto.tokenizers.sizes import VQGANSize
from toto.tokenizers.vqgan import VQGAN, from_signed, to_signed

TINY = VQGANSize(
    codebook_size=30,
    code_width=6,
    latent_width=8,
    width=8,
    multipliers=(1, 2),
    blocks=1,
    attention=(1,),
    norm_groups=4,
    patch=2,
)
SCALAR = replace(TINY, codebook_size=60, levels=(5, 4, 3))


def vqgan(size: VQGANSize = TINY, seed: int = 0) -> VQGAN:
    torch.manual_seed(seed)
    tokenizer = VQGAN(size).eval().requires_grad_(False)
    if not size.levels:
        tokenizer.quantize.embedding.weight.normal_()
    return tokenizer


def noise(*shape: int) -> torch.Tensor:
    return torch.randint(256, shape, dtype=torch.uint8)


@pytest.mark.parametrize(("codes", "millions"), [(1024, 72.1), (16_384, 76.1)])
def test_compvis_sizes(codes, millions):
    with torch.device("meta"):
        ours = VQGAN(VQGANSize(codebook_size=codes)).state_dict()
    published = dict(layers(Shape(codes)))
    assert {name: tuple(value.shape) for name, value in ours.items()} == published
    count = sum(value.numel() for value in ours.values())
    assert count / 1e6 == pytest.approx(millions, abs=0.1)


@pytest.mark.parametrize(
    "shape",
    [
        Shape(50, 12, 32, (1, 2, 3), 1, (8, 16), 32, 16),
        Shape(50, 12, 32, (2, 1), 2, (), 16, 20),
    ],
)
@pytest.mark.parametrize("unit", [False, True])
def test_codes_and_images_are_those_of_the_published_layers(shape, unit):
    weights = random_weights(shape)
    size = VQGANSize(
        codebook_size=shape.n_embed,
        code_width=shape.embed_dim,
        unit_codes=unit,
        latent_width=shape.z_channels,
        width=shape.ch,
        multipliers=shape.ch_mult,
        blocks=shape.num_res_blocks,
        attention=tuple(i for i in range(len(shape.ch_mult)) if shape.attends(i)),
    )
    ours = VQGAN.of_weights(size, weights, "weights")
    reference = Reference(shape, weights, unit)
    frames = noise(2, 3, 32, 48)
    codes = ours.encode(frames)
    assert torch.equal(codes, reference.encode(frames))
    assert len(codes.unique()) > 10
    image = reference.decode(codes)
    torch.testing.assert_close(ours.decode(codes).float(), image.round(), rtol=0, atol=1)
    vectors = ours.post_quant_conv(ours.quantize.vectors(codes))
    mine = (ours.decoder(vectors).clamp(-1, 1) + 1) * 127.5
    torch.testing.assert_close(mine, image, rtol=0, atol=0.01)
    assert image.std() > 10


@pytest.mark.parametrize("size", [TINY, SCALAR, replace(TINY, unit_codes=True)])
def test_encode_and_decode(size):
    model = vqgan(size)
    frames = noise(3, 3, 16, 8)
    codes = model.encode(frames)
    assert codes.shape == (3, 4, 2)
    assert 0 <= int(codes.min()) <= int(codes.max()) < size.codebook_size
    image, _, _ = model(to_signed(frames))
    assert torch.equal(model.decode(codes), from_signed(image))
    with pytest.raises(UserError, match="frames of 16x10: this tokenizer needs multiples of 4"):
        model.encode(torch.zeros(1, 3, 16, 10, dtype=torch.uint8))


def test_all_grey_levels_come_back():
    frames = torch.arange(256, dtype=torch.uint8).repeat(3).view(1, 3, 16, 16)
    signed = to_signed(frames)
    assert (float(signed.min()), float(signed.max())) == (-1, 1)
    assert torch.equal(from_signed(signed), frames)
    assert torch.equal(from_signed(3 * signed).unique()[[0, -1]], torch.tensor([0, 255]).byte())


@pytest.mark.parametrize("size", [TINY, SCALAR])
def test_what_is_saved_is_loaded(tmp_path, size):
    model = vqgan(size)
    model.save(tmp_path / "a")
    loaded = load_tokenizer(tmp_path / "a")
    assert isinstance(loaded, VQGAN)
    assert loaded.fingerprint == model.fingerprint == vqgan(size).fingerprint
    assert loaded.fingerprint != vqgan(size, seed=1).fingerprint
    frames = noise(2, 3, 8, 8)
    assert torch.equal(loaded.encode(frames), model.encode(frames))
    assert torch.equal(loaded.decode(model.encode(frames)), model.decode(model.encode(frames)))
    loaded.save(tmp_path / "b")
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"levels": [5, 5]}, "levels 5 5 make 25 codes, not codebook_size 30"),
        ({"levels": [15, 2]}, "levels 2: at least 3"),
        ({"width": 10}, "width 10 x 1 is no multiple of norm_groups 4"),
        ({"codebook_size": 31}, r"quantize.embedding.weight is \[30, 6\], not \[31, 6\]"),
        ({"depth": 3}, "depth"),
    ],
)
def test_folders_that_do_not_fit_are_refused_in_one_line(tmp_path, changed, said):
    vqgan().save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["size"] |= changed
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=said) as caught:
        load_tokenizer(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("held", [7 * 40, 40, 1, 2**24])
def test_the_nearest_vector_whatever_is_held_at_a_time(monkeypatch, held):
    monkeypatch.setattr(quantise, "_DISTANCES", held)
    points, vectors = torch.randn(100, 5), torch.randn(40, 5)
    plain = [min(range(40), key=lambda i: float((p - vectors[i]).square().sum())) for p in points]
    assert nearest(points, vectors).tolist() == plain


def test_the_codebooks_losses_and_gradients_by_brute_force():
    torch.manual_seed(0)
    quantizer = VectorQuantizer(7, 3, unit_codes=False)
    assert quantizer.embedding.weight.abs().max() <= 1 / 7
    torch.nn.init.normal_(quantizer.embedding.weight)
    e = quantizer.embedding.weight
    z = torch.randn(2, 3, 4, 2, requires_grad=True)
    read, commitment, following = quantizer(z)
    codes = quantizer.codes(z)
    squares = 0.0
    for n, r, c in itertools.product(range(2), range(4), range(2)):
        distances = ((e - z[n, :, r, c]) ** 2).sum(1)
        assert codes[n, r, c] == distances.argmin()
        torch.testing.assert_close(read[n, :, r, c], e[codes[n, r, c]])
        squares += float(distances.min().detach())
    assert float(commitment.detach()) == pytest.approx(squares / z.numel(), rel=1e-5)
    assert torch.equal(following, commitment)
    # Each loss moves one of the two alone; the decoder's gradient reaches the latents as it is.
    assert torch.autograd.grad(commitment, e, retain_graph=True, allow_unused=True) == (None,)
    assert torch.autograd.grad(following, z, retain_graph=True, allow_unused=True) == (None,)
    weights = torch.randn_like(z)
    (gradient,) = torch.autograd.grad((read * weights).sum(), z)
    torch.testing.assert_close(gradient, weights)


def fsq(latent: np.ndarray, levels: tuple[int, ...]) -> tuple[int, np.ndarray]:
    """One latent's code and rounded values, channel by channel (Mentzer et al. 2023, section 3)."""
    code, place, values = 0, 1, []
    for z, n in zip(latent, levels, strict=True):
        # `n` integers around zero, an even number of them with one more below it.
        least, most = -(n // 2), (n - 1) // 2
        half, middle = (most - least) / 2, (most + least) / 2
        # An S-shaped curve through zero, whose ends reach a thousandth beyond the outer integers.
        reach = half * 1.001
        value = reach * np.tanh(z + np.arctanh(-middle / reach)) + middle
        digit = int(np.clip(np.rint(value), least, most))
        values.append(digit / (n // 2))
        code, place = code + (digit - least) * place, place * n
    return code, np.array(values)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(3, 9), min_size=1, max_size=4), st.integers(0, 99))
def test_scalars_are_rounded_as_published(levels, seed):
    quantizer = ScalarQuantizer(tuple(levels))
    z = 2 * torch.randn(2, len(levels), 5, 3, generator=torch.Generator().manual_seed(seed))
    codes, (read, *_) = quantizer.codes(z), quantizer(z)
    for n, r, c in itertools.product(range(2), range(5), range(3)):
        code, values = fsq(z[n, :, r, c].double().numpy(), tuple(levels))
        assert codes[n, r, c] == code
        np.testing.assert_allclose(read[n, :, r, c].numpy(), values, atol=1e-6)
    torch.testing.assert_close(quantizer.vectors(codes), read)


@pytest.mark.parametrize("levels", [(8, 5, 5, 5), (8, 8, 8, 5), (3,), (4, 4, 4)])
def test_every_code_of_scalars_stands_for_a_vector_of_its_own(levels):
    count = int(np.prod(levels))
    vectors = ScalarQuantizer(levels).vectors(torch.arange(count).view(1, 1, count))
    rows = vectors[0, :, 0].T
    assert len(rows.unique(dim=0)) == count
    assert rows.abs().max() <= 1
    # From noise alone nearly all are reached, and none but them.
    codes = ScalarQuantizer(levels).codes(torch.randn(1, len(levels), 500, 500))
    assert len(codes.unique()) > 0.99 * count
    assert codes.max() < count


def test_the_gradient_leaves_rounding_out():
    quantizer = ScalarQuantizer((5, 4))
    z = torch.randn(1, 2, 3, 3, requires_grad=True)
    (gradient,) = torch.autograd.grad(quantizer(z)[0].sum(), z)
    step = torch.full_like(z, 1e-3)
    with torch.no_grad():
        ends = [quantizer._bounded(z + sign * step) for sign in (1, -1)]
    slope = (ends[0] - ends[1]) / 2e-3 / torch.tensor([2, 2]).view(-1, 1, 1)
    torch.testing.assert_close(gradient, slope, rtol=1e-2, atol=1e-3)
