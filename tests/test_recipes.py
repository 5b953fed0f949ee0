import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from toto import cli
from toto.recipes.pretrain import RECIPES
from toto.tokens.vocabulary import Vocabulary


@pytest.mark.parametrize("name", ["base", "base_256", "a1"])
def test_the_command_that_a_docstring_promises_is_understood(name):
    lines = re.findall(r"^ *`(.*)`$", RECIPES[name].__doc__, re.MULTILINE)
    words = shlex.split(" ".join(lines))
    arguments = words[words.index("pretrain") + 1 :]
    assert arguments[0] == name
    default = cli._Pretrain(recipe=RECIPES[name](), run=Path("elsewhere"))
    asked = cli._parse(cli._Pretrain, arguments[1:], "toto pretrain", default)
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


def test_the_scaling_laws_recipes_differ_in_their_model_alone():
    recipes = [RECIPES[f"a{i}"]() for i in range(1, 7)]
    assert {replace(recipe, model=recipes[0].model) for recipe in recipes} == {recipes[0]}
    widths = [recipe.model.width for recipe in recipes]
    assert widths == [256, 512, 768, 1024, 1536, 1792]
    assert [recipe.model.layers for recipe in recipes] == [12, 16, 20, 24, 28, 32]
