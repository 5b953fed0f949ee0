"""Two checks of muP (see models/mup.py), each also in the standard parametrisation.

The coordinate check: how much each layer's output changes in a few steps, by width. The transfer of
the learning rate: the loss at the end, by learning rate and width (Yang et al. 2022, Tensor
Programs V, figure 1 and appendix D.1).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn import functional as F

from toto.config import begin, read_json, to_dict, write_json
from toto.files import only_writer
from toto.models.llama import Llama
from toto.progress import progress
from toto.studies import mup_plots
from toto.studies.config import MupStudy, Row
from toto.training.config import AdamW
from toto.training.device import pick_device
from toto.training.optimizer import build_optimizers
from toto.training.schedule import learning_rate


@dataclass(frozen=True)
class MupResult:
    """What was measured."""

    rows: list[Row]

    def changes(self, mup: bool) -> dict[str, dict[int, float]]:
        """Mean change of each layer's output and of the logits, by width."""
        rows = self._of("coordinates", mup)
        return {
            name: _means((row["width"], row["change"][name]) for row in rows)
            for name in rows[0]["change"]
        }

    def slopes(self, mup: bool) -> dict[str, float]:
        """Slope of the change against the width, both as logarithms: 0 if no width matters."""
        return {
            name: float(np.polyfit(np.log(list(by)), np.log(list(by.values())), 1)[0])
            for name, by in self.changes(mup).items()
        }

    def losses(self, mup: bool) -> dict[int, dict[int, float]]:
        """Mean loss by width and learning rate, the latter as a power of 2."""
        rows = self._of("transfer", mup)
        return {
            width: _means((row["log2_rate"], row["loss"]) for row in rows if row["width"] == width)
            for width in sorted({row["width"] for row in rows})
        }

    def best(self, mup: bool) -> dict[int, int]:
        """The best learning rate of each width, as a power of 2."""
        return {width: min(by, key=by.__getitem__) for width, by in self.losses(mup).items()}

    def text(self) -> str:
        """The slopes and the best learning rates."""
        lines = []
        for mup in (True, False):
            slopes = ", ".join(f"{name} {slope:+.2f}" for name, slope in self.slopes(mup).items())
            best = ", ".join(f"2^{rate} at {width}" for width, rate in self.best(mup).items())
            lines += [
                "muP" if mup else "standard parametrisation",
                f"  log-log slope of the change by width: {slopes}",
                f"  best learning rate: {best}",
            ]
        return "\n".join(lines)

    def _of(self, check: Literal["coordinates", "transfer"], mup: bool) -> list[Row]:
        return [row for row in self.rows if (row["check"], row["mup"]) == (check, mup)]


def _means(pairs: Iterable[tuple[int, float]]) -> dict[int, float]:
    """Mean of the second of those that share the first."""
    found: dict[int, list[float]] = {}
    for key, value in pairs:
        found.setdefault(key, []).append(value)
    return {key: float(np.mean(found[key])) for key in sorted(found)}


def study_mup(study: MupStudy, out: Path) -> MupResult:
    """Do both checks in `out`: mup.json, coordinates.svg, transfer.svg. Begun there, it goes on.

    Raises:
        UserError: it was begun there with other settings.
    """
    with only_writer(out):
        begin(out / "config.json", to_dict(study))
        path = out / "mup.json"
        rows: list[Row] = read_json(path, "a study of muP")["rows"] if path.exists() else []
        runs = study.runs()
        left = [run for run in runs if not any(run.items() <= row.items() for row in rows)]
        with progress("muP", len(runs), "runs", len(runs) - len(left)) as advance:
            for run in left:
                rows.append(run | measure(study, run))
                write_json(path, {"rows": rows})
                advance(1)
        result = MupResult(rows)
        both = (True, False)
        mup_plots.coordinates({mup: result.changes(mup) for mup in both}, out / "coordinates.svg")
        mup_plots.transfer({mup: result.losses(mup) for mup in both}, out / "transfer.svg")
        return result


# Two random embeddings overlap by about 1 / sqrt(width). With many codes this is most of what the
# logits change by at first, and a slope of its own.
_CODES = {"coordinates": 16, "transfer": 64}


def measure(study: MupStudy, run: Row) -> Row:
    """Train one of the study's `runs` and say what came of it."""
    codes, seed = _CODES[run["check"]], run["seed"]
    device = pick_device(study.device)
    torch.manual_seed(seed)
    model = Llama(study.size(run["width"], run["mup"]), codes).to(device)
    held_out = markov_chains(codes, 64, study.positions, (study.steps, seed)).to(device)
    if run["check"] == "transfer":
        optimizer = AdamW(learning_rate=2.0 ** run["log2_rate"], warmup_steps=study.steps // 8)
        _train(model, optimizer, study, seed, study.steps)
        with torch.no_grad():
            return {"loss": float(_loss(model, held_out))}
    # All steps at the full rate and no decay: changes are then those of the updates alone.
    rate = 2.0**study.coordinate_log2_rate
    optimizer = AdamW(learning_rate=rate, warmup_steps=0, final_fraction=1.0, weight_decay=0.0)
    before = _outputs(model, held_out)
    _train(model, optimizer, study, seed, study.coordinate_steps)
    after = _outputs(model, held_out)
    return {"change": {name: float((after[name] - before[name]).abs().mean()) for name in before}}


def _train(model: Llama, config: AdamW, study: MupStudy, seed: int, steps: int) -> None:
    (optimizer,) = build_optimizers(model, config, model.rate_factor)
    for step in range(steps):
        tokens = markov_chains(model.vocabulary, study.batch, study.positions, (step, seed))
        optimizer.zero_grad()
        _loss(model, tokens.to(model.lm_head.weight.device)).backward()
        rate = learning_rate(config, step, steps)
        for group in optimizer.param_groups:
            group["lr"] = rate * group["factor"]
        optimizer.step()


def _loss(model: Llama, tokens: Int[Tensor, "b t"]) -> Tensor:
    return F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())


@torch.no_grad()
def _outputs(model: Llama, tokens: Int[Tensor, "b t"]) -> dict[str, Tensor]:
    layers = model.hidden_states(tokens, range(model.size.layers + 1))
    return {f"layer {i}": x_btc for i, x_btc in layers.items()} | {"logits": model(tokens)}


def markov_chains(
    codes: int, count: int, positions: int, seed: tuple[int, ...]
) -> Int[Tensor, "count t"]:
    """Sequences of codes, each of one of four Markov chains, which has to be found out on the way.

    The chains are always the same; what is drawn from them is a function of the seed.
    """
    odds = np.exp(2 * np.random.default_rng(0).normal(size=(4, codes, codes)))
    cumulated = (odds / odds.sum(-1, keepdims=True)).cumsum(-1)
    rng = np.random.default_rng(seed)
    drawn = np.empty((count, positions), np.int64)
    chain, drawn[:, 0] = rng.integers(len(odds), size=count), rng.integers(codes, size=count)
    for t in range(1, positions):
        passed = cumulated[chain, drawn[:, t - 1]] < rng.random((count, 1))
        drawn[:, t] = np.minimum(passed.sum(-1), codes - 1)
    return torch.from_numpy(drawn)
