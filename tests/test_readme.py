"""Every command and every snippet of README.md is executed, in small and in order."""

import contextlib
import os
import re
import shlex
import shutil
from pathlib import Path

import pytest

from tests.tiny import make_videos

README = Path(__file__).parents[1] / "README.md"
NOT_OURS = ("make ", "git ", "pip ", "python3 -m venv", "tensorboard", "export ", "#")
SMALL = {
    "toto demo": {"--workers": 1, "--probe.epochs": 1, "--futures": 2}
    | {"--tokenizer.loop.steps": 3, "--tokenizer.pool": 64, "--tokenizer.tokenizer.width": 8}
    | {"--tokenizer.validation-frames": 8, "--tokenizer.init-frames": 64}
    | {
        "--tokenizer.tokenizer.codebook-size": 32,
        "--pretrain.loop.steps": 3,
        "--pretrain.model.layers": 1,
    }
    | {"--pretrain.model.width": 32},
    "toto world make": {"--count": 24, "--workers": 1},
    "toto world make davis": {"--count": 2, "--workers": 1},
    "toto world make cater": {"--count": 8, "--workers": 1, "--frames": 31},
    "toto tokenizer train": {"--steps": 3, "--pool": 64, "--width": 8, "--workers": 1}
    | {"--validation-frames": 8, "--init-frames": 64, "--codebook-size": 32},
    "toto tokenize": {"--workers": 1},
    "toto pretrain": {"--steps": 3, "--layers": 2, "--width": 32},
    "toto generate": {"--frames": 2},
    "toto features": {"--workers": 1},
    "toto probe actions": {"--epochs": 1, "--workers": 1},
    "toto finetune": {"--epochs": 1, "--batch": 2, "--micro-batch": 2, "--workers": 1},
}


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.M | re.S)


def commands(text: str) -> list[list[str]]:
    """The words of each command of ours in the bash blocks, lines joined that end in a backslash.

    A line that is neither ours nor known to be none of our business fails the test.
    """
    found = []
    for block in blocks(text, "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            if not line.strip() or line.startswith(NOT_OURS):
                continue
            words = shlex.split(line, comments=True)
            assert words[0] == "toto", f"README.md has a command that is not tested: {line}"
            found.append(words)
    return found


def shrunk(words: list[str]) -> list[str]:
    """The command with every option of its kind in SMALL, given there or not, set to that."""
    kinds = [kind for kind in SMALL if words[: len(kind.split())] == kind.split()]
    if not kinds or "--help" in words:
        return words
    words = list(words)
    for option, value in SMALL[max(kinds, key=len)].items():
        if option in words:
            words[words.index(option) + 1] = str(value)
        else:
            words += [option, str(value)]
    return words


def test_shrinking():
    bash = "```bash\nmake x\n# no\ntoto world make a b \\\n  --count 9  # why\n```"
    text = f"words\n{bash}\n```python\n1\n```"
    assert commands(text) == [["toto", "world", "make", "a", "b", "--count", "9"]]
    assert shrunk(commands(text)[0]) == "toto world make a b --count 24 --workers 1".split()
    assert shrunk("toto pretrain base --help".split()) == "toto pretrain base --help".split()
    assert blocks(text, "python") == ["1\n"]
    with pytest.raises(AssertionError, match="rm -rf"):
        commands("```bash\nrm -rf /\n```")


def test_the_readme(tmp_path, warm):
    text = README.read_text()
    lines, snippets = commands(text), blocks(text, "python")
    assert lines and snippets, "README.md has no commands, or no Python"
    # Longer than a clip at stride 4, so that the demo finds whole clips.
    for seed, name in enumerate(("spin", "fall")):
        make_videos(tmp_path / "my-videos" / name, [65] * 8, side=64, seed=seed)
    shutil.copy(tmp_path / "my-videos" / "spin" / "video000.mp4", tmp_path / "clip.mp4")

    for words in lines:
        said = warm.made(tmp_path, *shrunk(words)[1:])
        # A command that makes something says where, last.
        if "--help" not in words and words[1] not in ("inspect", "plan"):
            assert (tmp_path / said[-1]).exists(), f"{shlex.join(words)}: {said}"

    names: dict[str, object] = {}
    before = os.getcwd()  # noqa: PTH109
    with contextlib.chdir(tmp_path):
        for snippet in snippets:
            exec(compile(snippet, str(README), "exec"), names)
    assert os.getcwd() == before  # noqa: PTH109
