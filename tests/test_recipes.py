import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from tests.tiny import make_dataset, make_images, make_videos, save_patches, tokenizer
from toto.cli.parse import parse
from toto.cli.runs import _Pretrain
from toto.errors import UserError
from toto.media.sources import read_sources
from toto.media.view import View
from toto.models.llama import Llama
from toto.models.saved import load_model
from toto.models.sizes import LARGE
from toto.recipes.pretrain import RECIPES
from toto.tokenizers.sizes import DVAESize
from toto.tokens.config import Ingest
from toto.tokens.ingest import ingest
from toto.tokens.vocabulary import Vocabulary
from toto.training.runs import pretrain


@pytest.mark.parametrize(
    "name", ["base", "base_256", "a1", "imagenet_dvae_16", "imagenet_dvae_16_to_32"]
)
def test_the_command_that_a_docstring_promises_is_understood(name):
    lines = re.findall(r"^ *`(.*)`$", RECIPES[name].__doc__, re.MULTILINE)
    words = shlex.split(" ".join(lines))
    arguments = words[words.index("pretrain") + 1 :]
    assert arguments[0] == name
    default = _Pretrain(recipe=RECIPES[name](), run=Path("elsewhere"))
    asked = parse(_Pretrain, arguments[1:], "toto pretrain", default)
    assert asked.recipe.loop.compile and asked.recipe.data and asked.run.name == name


@pytest.mark.parametrize("name", ["base", "large", "1b"])
def test_at_256_px_a_step_reads_as_many_positions_of_the_same_model(name):
    before, after = RECIPES[name](), RECIPES[f"{name}_256"]()
    lengths = [
        Vocabulary(8192, side, side).length(recipe.frames)
        for side, recipe in ((16, before), (32, after))
    ]
    assert lengths[0] == lengths[1] == 4098 and before.batch == after.batch
    assert (before.model.rope_base, after.model.rope_base) == (10_000, 50_000)
    assert replace(after.model, rope_base=before.model.rope_base) == before.model


def test_the_scaling_laws_recipes_differ_in_their_model_and_what_fits():
    recipes = [RECIPES[f"a{i}"]() for i in range(1, 7)]
    first = recipes[0]
    alike = {replace(r, model=first.model, micro_batch=first.micro_batch) for r in recipes}
    assert alike == {first}
    widths = [recipe.model.width for recipe in recipes]
    assert widths == [256, 512, 768, 1024, 1536, 1792]
    assert [recipe.model.layers for recipe in recipes] == [12, 16, 20, 24, 28, 32]


ROWS = ("dvae_16", "dvae_32", "vqgan_1k", "vqgan_16k", "patch_patch", "patch_dvae")


def test_table_3_is_400_epochs_of_imagenet():
    rows = {name: RECIPES[f"imagenet_{name}"]() for name in ROWS}
    for name, recipe in rows.items():
        images = recipe.loop.steps * recipe.batch * recipe.frames
        assert images == pytest.approx(400 * 13.9e6, rel=1e-5), name
        assert recipe.model == LARGE
    coarse, fine = rows["dvae_16"], rows["dvae_32"]
    assert (coarse.loop.steps, fine.loop.steps) == (1_357_422, 5_429_688)
    assert coarse.frames * 16 * 16 == fine.frames * 32 * 32 == 4096

    def trained(recipe):
        return replace(recipe, reads="any", grid=None, codebook_size=None)

    assert all(trained(rows[name]) == trained(coarse) for name in ROWS if name != "dvae_32")


def test_table_4_goes_on_with_and_without_another_base():
    plain, other = (RECIPES[f"imagenet_dvae_16_to_32{more}"]() for more in ("", "_50k"))
    assert (plain.model.rope_base, other.model.rope_base) == (10_000, 50_000)
    assert replace(other, model=plain.model) == plain
    assert replace(other, reads="any", codebook_size=None) == RECIPES["large_256"]()
    assert other.loop.steps * other.batch * other.frames == pytest.approx(13.9e6, rel=0.01)


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """Pictures as pixels, and as codes of both grids."""
    folder = tmp_path_factory.mktemp("world")
    items = read_sources([str(make_images(folder / "pictures", 40, side=32))])
    size = DVAESize(codebook_size=30, width=8, groups=2, blocks=1, decoder_input=8, patch=4)
    tokenizer(size=size).save(folder / "tokenizer")
    for name, visual, side in (
        ("pixels-64", save_patches(folder / "patches", 8), 64),
        ("dvae-64", folder / "tokenizer", 64),
        ("dvae-128", folder / "tokenizer", 128),
    ):
        ingest(items, visual, folder / name, Ingest(View(size=side)), "toto tokenize", workers=0)
    return folder


@pytest.mark.parametrize(
    ("name", "data", "targets"),
    [
        ("demo_dvae_8", "dvae-64", ()),
        ("demo_dvae_16", "dvae-128", ()),
        ("demo_vqgan_256", "dvae-64", ()),
        ("demo_vqgan_1k", "dvae-64", ()),
        ("demo_patch_patch", "pixels-64", ()),
        ("demo_patch_dvae", "pixels-64", ("dvae-64",)),
        ("demo_dvae_8_to_16", "dvae-128", ()),
        ("demo_dvae_8_to_16_50k", "dvae-128", ()),
    ],
)
def test_twins_of_table_3_and_4_run(world, tmp_path, name, data, targets):
    recipe = RECIPES[name]()
    assert recipe.frames * (8 if data.endswith("64") else 16) ** 2 == 1024
    loop = replace(recipe.loop, steps=2, device="cpu", log_every=1)
    recipe = replace(
        recipe,
        loop=loop,
        batch=2,
        micro_batch=2,
        data=(world / data,),
        targets=tuple(world / target for target in targets),
        validation_sequences=1,
        codebook_size=recipe.codebook_size and 30,
    )
    if "_to_16" in name:
        first = replace(RECIPES["demo_dvae_8"](), loop=loop, data=(world / "dvae-64",))
        first = replace(first, batch=2, micro_batch=2, validation_sequences=1, codebook_size=30)
        pretrain(first, tmp_path / "first")
        recipe = replace(recipe, init_from=tmp_path / "first")
    pretrain(recipe, tmp_path / "run")
    model, details = load_model(tmp_path / "run/model")
    assert (type(model) is Llama) == (data != "pixels-64")
    assert details["frames"] == recipe.frames


@pytest.mark.parametrize(
    ("name", "data", "targets", "codes", "said"),
    [
        ("demo_patch_dvae", "pixels-64", (), 30, "give them as targets"),
        ("demo_patch_dvae", "pixels-64", ("dvae-64",), 256, "30 codes, this recipe is of 256"),
        ("demo_patch_patch", "dvae-64", (), None, "holds codes, this recipe reads patches"),
        ("demo_patch_patch", "pixels-64", ("dvae-64",), None, "give no targets"),
        ("demo_dvae_8", "pixels-64", (), 30, "holds patches, this recipe reads codes"),
        ("demo_dvae_16", "dvae-64", (), 30, r"grid of \(8, 8\), this recipe reads \(16, 16\)"),
        ("demo_vqgan_1k", "dvae-64", (), 1024, "30 codes, this recipe is of 1024"),
    ],
)
def test_a_row_is_not_trained_on_the_data_of_another(
    world, tmp_path, name, data, targets, codes, said
):
    paths = {"data": (world / data,), "targets": tuple(world / target for target in targets)}
    recipe = replace(RECIPES[name](), codebook_size=codes, **paths)
    with pytest.raises(UserError, match=said):
        pretrain(recipe, tmp_path / "run")
    assert not (tmp_path / "run/config.json").exists()


def test_recipes_of_imagenet_refuse_videos(tmp_path):
    make_videos(tmp_path / "both", [4])
    make_images(tmp_path / "both", 4)
    size = DVAESize(codebook_size=30, width=8, groups=1, blocks=1, decoder_input=8, patch=1)
    tokenizer(size=size).save(tmp_path / "tokenizer")
    both = make_dataset(tmp_path / "both", tmp_path / "tokenizer", tmp_path / "data", side=32)
    recipe = replace(RECIPES["base_256"](), data=(both.folder,))
    with pytest.raises(UserError, match="holds videos, this recipe reads images alone"):
        pretrain(recipe, tmp_path / "run")
