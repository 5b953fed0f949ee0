"""Every field of every command is explained where it is asked for."""

import ast
import dataclasses
import inspect
import textwrap
import typing
from importlib.metadata import version

import pytest

from toto import cli
from toto.cli import data, finetune, models, probes, runs, studies, tokenizers, tracking
from toto.recipes import pretrain as pretrain_recipes
from toto.recipes import tokenizer as tokenizer_recipes
from toto.recipes.demo import Demo
from toto.training.config import Pretrain


def documented(kind: type) -> dict[str, str]:
    """The text below each field of a dataclass, read from its source."""
    body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0].body
    texts = {}
    for base in filter(dataclasses.is_dataclass, kind.__bases__):
        texts |= documented(base)
    for statement, after in zip(body, [*body[1:], None], strict=True):
        if isinstance(statement, ast.AnnAssign):
            is_text = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
            texts[statement.target.id] = after.value.value if is_text else ""
    return texts


def options_of(kind: type, prefix: str, flat: bool) -> dict[str, str]:
    """Every option that a dataclass gives, nested ones too, and its text."""
    hints, texts, options = typing.get_type_hints(kind), documented(kind), {}
    for field in dataclasses.fields(kind):
        name = field.name.replace("_", "-")
        if dataclasses.is_dataclass(hints[field.name]):
            inner = "" if flat else f"{prefix}{name}."
            options |= options_of(hints[field.name], inner, flat)
        else:
            options[f"--{prefix}{name}"] = texts[field.name]
    return options


def arguments_of(function) -> dict[str, str]:
    """Every parameter of a command's function, and its text in the docstring."""
    _, _, args = (inspect.getdoc(function) or "").partition("Args:\n")
    lines = textwrap.dedent(args).splitlines()
    texts = dict(line.split(": ", 1) for line in lines if line and not line.startswith(" "))
    options = {}
    for name, parameter in inspect.signature(function).parameters.items():
        text = texts.get(name, "")
        positional = "Positional" in str(parameter.annotation) or any(
            "Positional" in repr(note) for note in typing.get_args(parameter.annotation)[1:]
        )
        if dataclasses.is_dataclass(parameter.default):
            assert text
            options |= options_of(type(parameter.default), "", flat=True)
        else:
            options[name.upper() if positional else f"--{name.replace('_', '-')}"] = text
    return options


def expected_options(name: str) -> dict[str, dict[str, str]]:
    """Each help page of a command, and the options that belong on it."""
    if name == "demo":
        settings = options_of(Demo, "", flat=False)
        own = arguments_of(studies.demo)
        return {name: settings | {option: own[option] for option in ("--videos", "--out")}}
    recipes = {"pretrain": pretrain_recipes, "tokenizer train": tokenizer_recipes}
    if name in recipes:
        run = {"--run": "folder of the run"}
        pages = {f"{name} --resume": {"RUN": "folder of the run"}}
        # Recipes of one kind have the same page but for what is given: one of each is opened.
        given = {type(make()): recipe for recipe, make in recipes[name].RECIPES.items()}
        for kind, recipe in given.items():
            pages[f"{name} {recipe}"] = options_of(kind, "", flat=True) | run
        return pages
    if name == "plan":
        options = options_of(Pretrain, "", flat=True)
        options |= {f"--{field}": documented(runs._Planned)[field] for field in ("gpu", "gpus")}
        return {f"{name} base": options}
    kinds = {
        **{f"finetune {task}": finetune._FineTuned for task in ("actions", "images")},
        **{f"probe {task}": probes._Probed for task in ("actions", "images")},
        "finetune permanence": finetune._Permanence,
        "probe tracking": tracking._Tracked,
    }
    if kind := kinds.get(name):
        options = options_of(kind, "", flat=True)
        positional = {word.upper(): options.pop(f"--{word}") for word in ("model", "data")}
        return {name: options | positional}
    function = name.replace(" ", "_")
    (module,) = (m for m in (data, models, studies, tokenizers) if hasattr(m, function))
    return {name: arguments_of(getattr(module, function))}


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_help_explains_every_field(tmp_path, warm, name):
    assert name in warm.toto(tmp_path, "--help").stdout
    assert warm.toto(tmp_path, *name.split(), "--help").stdout
    for page, options in expected_options(name).items():
        done = warm.toto(tmp_path, *page.split(), "--help")
        assert done.returncode == 0, done.stderr
        text = " ".join(" ".join(line.strip(" │") for line in done.stdout.splitlines()).split())
        for option, words in options.items():
            assert words, f"{page}: nothing explains {option}"
            assert option in text, f"{page} --help does not mention {option}"
            beginning = " ".join(words.split()[:4])
            assert beginning in text, f"{page} --help does not say {beginning!r}"


def test_the_version_is_the_packages(tmp_path, warm):
    assert warm.made(tmp_path, "--version") == [f"toto {version('toto')}"]
