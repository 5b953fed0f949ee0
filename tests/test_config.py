import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import pytest

from toto.config import fingerprint, from_dict, read_json, to_dict, write_json
from toto.errors import UserError
from toto.models.sizes import BASE
from toto.probing.config import ProbeTraining
from toto.probing.finetune.config import FineTune
from toto.recipes import pretrain
from toto.recipes.tokenizer import demo as dvae
from toto.tokenizers.sizes import DVAESize, VQGANSize
from toto.training.config import AdamW, Loop, Pretrain


@dataclass(frozen=True)
class Inner:
    rate: float = 0.1
    name: str = "a"

    def __post_init__(self) -> None:
        if self.rate < 0:
            raise UserError(f"rate {self.rate}: at least 0")


@dataclass(frozen=True)
class Outer:
    count: int
    inner: Inner = field(default_factory=Inner)
    folder: Path = Path("x")
    pairs: tuple[tuple[float, int], ...] = ()
    top: int | None = None
    kind: Literal["a", "b"] = "a"
    flag: bool = False


def test_a_config_comes_back_from_its_dump(tmp_path):
    config = Outer(3, Inner(0.25), tmp_path, ((0.5, 2), (1.0, 4)), 7, "b", True)
    write_json(tmp_path / "config.json", config)
    assert from_dict(Outer, read_json(tmp_path / "config.json", "a run"), "it") == config
    recipe = pretrain.demo()
    assert from_dict(Pretrain, to_dict(recipe), "it") == recipe


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ({}, "count"),
        ({"count": 1, "cuont": 2}, "cuont"),
        ({"count": 8.7}, "count"),
        ({"count": "8"}, "count"),
        ({"count": True}, "count"),
        ({"count": 1, "flag": "no"}, "flag"),
        ({"count": 1, "kind": "c"}, "kind"),
        ({"count": 1, "inner": {"rate": "fast"}}, "inner.rate"),
        ({"count": 1, "inner": {"rate": -1}}, "rate -1.0: at least 0"),
        ({"count": 1, "inner": 3}, "inner"),
        ({"count": 1, "pairs": [[0.5]]}, "pairs"),
        ([1, 2], "named fields"),
    ],
)
def test_what_does_not_fit_is_named(values, names):
    with pytest.raises(UserError) as caught:
        from_dict(Outer, values, "run/config.json")
    assert str(caught.value).startswith("run/config.json does not fit Outer: ")
    assert names in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "unknown error" not in str(caught.value)


def test_fingerprints_depend_on_values_alone():
    assert fingerprint({"a": 1, "b": [2]}) == fingerprint({"b": [2], "a": 1})
    assert fingerprint(Outer(1)) == fingerprint(to_dict(Outer(1))) != fingerprint(Outer(2))


def test_files_that_hold_something_else(tmp_path):
    with pytest.raises(UserError, match=r"is not a run: it has no config\.json"):
        read_json(tmp_path / "config.json", "a run")
    for text in ("{", "[]", "\xff"):
        (tmp_path / "config.json").write_bytes(text.encode("latin-1"))
        with pytest.raises(UserError, match=r"config\.json"):
            read_json(tmp_path / "config.json", "a run")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: AdamW(learning_rate=-1.0), "learning_rate -1.0: at least 0"),
        (lambda: AdamW(clip=0.0), "clip 0.0: above 0"),
        (lambda: AdamW(betas=(0.9, 1.0)), "betas 1.0: from 0 to below 1"),
        (lambda: AdamW(final_fraction=1.5), "final_fraction 1.5: from 0 to 1"),
        (lambda: AdamW(weight_decay=float("nan")), "weight_decay nan: at least 0"),
        (lambda: Loop(steps=1, keep_hours=-2.0), "keep_hours -2.0: above 0"),
        (lambda: replace(BASE, heads=0), "heads 0: at least 1"),
        (lambda: replace(BASE, layers=0), "layers 0: at least 1"),
        (lambda: replace(BASE, rope_base=0.0), "rope_base 0.0: above 0"),
        (lambda: DVAESize(codebook_size=70_000), "codebook_size 70000: from 1 to 65536"),
        (lambda: VQGANSize(norm_groups=0), "norm_groups 0: at least 1"),
        (lambda: replace(dvae(), held_out=2.0), "held_out 2.0: from 0 to below 1"),
        (lambda: replace(dvae(), init_frames=-3), "init_frames -3: at least 0"),
        (lambda: ProbeTraining(heads=-1), "heads -1: above 0"),
        (lambda: ProbeTraining(learning_rates=(1e-3, -1.0)), "learning_rates -1.0: above 0"),
        (lambda: ProbeTraining(held_out=1.5), "held_out 1.5: from 0 to below 1"),
        (lambda: FineTune(warmup_epochs=-1), "warmup_epochs -1: at least 0"),
        (lambda: FineTune(layer_decay=1.5), "layer_decay 1.5: from 0 to 1"),
        (lambda: FineTune(layer_decay=0.0), "layer_decay 0.0: above 0"),
        (lambda: FineTune(base_learning_rate=0.0), "base_learning_rate 0.0: above 0"),
        (lambda: FineTune(batch=10, micro_batch=4), "batch 10 is no multiple of micro_batch 4"),
    ],
)
def test_numbers_out_of_range_are_named(make, said):
    with pytest.raises(UserError, match=f"^{re.escape(said)}"):
        make()
