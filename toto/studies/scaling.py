"""How the loss falls with compute: a power law through the best of several runs (Toto, Table 4).

Every run gives a curve of training loss over compute. What the best of them reach, their lower
envelope, is fitted by L = a C^b, and by L = a C^b + c as Hoffmann et al. (2022) fit theirs. At one
and the same compute a parabola through the runs' losses over the logarithm of their size says which
size would have been best (the same, approach 2).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch.nn import functional as F

from toto.config import differences, read_json, write_json
from toto.errors import UserError
from toto.models.cost import matrix_parameters, training_flops
from toto.models.saved import read_shape, saved_in
from toto.models.sizes import LlamaSize
from toto.studies.config import Compute, ScalingStudy
from toto.studies.scaling_plot import draw_scaling
from toto.training.metrics import read_metrics

# Exponents that others have found: Toto's, of forward MACs; GPT-3's (Brown et al. 2020).
PAPERS = {"Toto": -0.0378, "GPT-3": -0.048}

_RESAMPLES, _SEED = 1000, 0
_DELTA = 1e-3
# Computes at which sizes are compared.
_LEVELS = 12

Values = Float[np.ndarray, " n"]


@dataclass(frozen=True)
class RunCurve:
    """One run's training loss over its compute, as means over bins."""

    name: str
    parameters: int
    """weights in matrix products"""
    compute: list[float]
    loss: list[float]


@dataclass(frozen=True)
class Law:
    """L = a C^b + c."""

    a: float
    b: float
    c: float = 0.0

    def at(self, compute: Values) -> Values:
        """The losses that it says."""
        return self.a * compute**self.b + self.c


@dataclass(frozen=True)
class ScalingResult:
    """What several runs say together."""

    compute: Compute
    runs: list[RunCurve]
    envelope: list[tuple[float, float]]
    """compute and loss of the best"""
    law: Law
    """without an offset: least squares of the logarithms"""
    fit: float
    """R squared of that, of the logarithms"""
    interval: tuple[float, float]
    """95 % of its exponent, over resamples of the runs"""
    offset: Law
    """with one: least Huber loss of the logarithms"""
    best: list[tuple[float, float]]
    """compute, and how many weights in matrix products would have been best for it"""
    growth: float | None
    """exponent by which the best size grows with compute; None below two such computes"""

    def text(self) -> str:
        """The law in words."""
        low, high = self.interval
        a, b, c = self.offset.a, self.offset.b, self.offset.c
        others = ", ".join(f"{name} {exponent}" for name, exponent in PAPERS.items())
        lines = [
            f"{len(self.runs)} runs, the best in {len(self.envelope)} points; "
            f"C: {_UNITS[self.compute]}",
            f"  L = {self.law.a:.4g} C^{self.law.b:.4f}, R2 {self.fit:.3f}; "
            f"exponent {low:.4f} to {high:.4f} (95%, over runs)",
            f"  L = {a:.4g} C^{b:.4f} + {c:.4g}",
            f"  exponents of others: {others}",
        ]
        if self.growth is not None:
            sizes = ", ".join(f"{size:.3g} at {compute:.3g}" for compute, size in self.best)
            lines.append(f"  best size grows by C^{self.growth:.3f}: {sizes}")
        return "\n".join(lines)


_UNITS: dict[Compute, str] = {
    "forward_macs": "forward MACs, attention causal",
    "training_flops": "training FLOPs, attention whole",
}


def study_scaling(runs: Sequence[Path], out: Path, study: ScalingStudy) -> ScalingResult:
    """Fit what finished pre-training runs of several sizes say; result.json and scaling.svg.

    Raises:
        UserError: a folder is no finished run of tokens, they are fewer than two, of different
            tokenizers or too short, or one went on from another.
    """
    if len({run.resolve() for run in runs}) < max(len(runs), 2):
        raise UserError(f"{len(runs)} runs: a law wants two or more, each once")
    opened = [_open(run) for run in runs]
    _check_alike(opened)
    curves = [_curve(own, study) for own in opened]
    envelope = lower_envelope(curves)
    if len(envelope) < 3:
        raise UserError(f"{len(envelope)} points from compute {study.least:g} on: three or more")
    law, fit = power_law(envelope)
    best = best_sizes(curves)
    growth = power_law(np.array(best))[0].b if len(best) > 1 else None
    result = ScalingResult(
        compute=study.compute,
        runs=curves,
        envelope=[(x, y) for x, y in envelope.tolist()],
        law=law,
        fit=fit,
        interval=_interval(curves),
        offset=offset_law(envelope),
        best=best,
        growth=growth,
    )
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "result.json", result)
    draw_scaling(result, _UNITS[study.compute], out / "scaling.svg")
    return result


class _Run(NamedTuple):
    """A finished run, and what its saved model says."""

    folder: Path
    size: LlamaSize
    rows: int
    details: dict[str, Any]


def _open(run: Path) -> _Run:
    """Runs of patches, and those that did not begin at the beginning, are refused."""
    opened = _Run(run, *read_shape(saved_in(run)))
    if "vocabulary" not in opened.details:
        raise UserError(f"{run} is no finished run of pre-training on tokens")
    recipe = read_json(run / "config.json", "a run").get("recipe", {})
    if recipe.get("init_from"):
        raise UserError(f"{run} went on from {recipe['init_from']}: its compute is unknown")
    return opened


def _check_alike(runs: Sequence[_Run]) -> None:
    """Refuse losses that cannot be compared."""
    first, *others = (
        {name: own.details.get(name) for name in ("tokenizer", "vocabulary", "frames")}
        for own in runs
    )
    for own, its in zip(runs[1:], others, strict=True):
        if different := differences(its, first):
            raise UserError(f"{own.folder} has {'; '.join(different)} of {runs[0].folder}")


def _curve(own: _Run, study: ScalingStudy) -> RunCurve:
    """Losses count where clips have their whole length: those of shorter ones are others."""
    run, size, rows, details = own
    places, frames = int(np.prod(details["vocabulary"]["grid"])), details["frames"]
    spent, tokens, compute, loss = 0.0, 0.0, [], []
    for row in read_metrics(run):
        if not row.keys() >= {"loss", "tokens", "frames"}:
            continue
        flops = training_flops(size, int(row["frames"]) * places, rows)
        each = flops.causal / 6 if study.compute == "forward_macs" else flops.whole
        spent, tokens = spent + (row["tokens"] - tokens) * each, row["tokens"]
        if row["frames"] == frames and spent >= study.least:
            compute.append(spent)
            loss.append(row["loss"])
    if not loss:
        raise UserError(f"{run} has logged no losses of {frames} frames from {study.least:g} on")
    if min(loss) <= 0:
        raise UserError(f"{run} has logged a loss of {min(loss)}: laws are of positive ones")
    points = binned(np.array(compute), np.array(loss), study.per_decade)
    weights = matrix_parameters(size, rows)
    return RunCurve(str(run), weights, points[:, 0].tolist(), points[:, 1].tolist())


def binned(compute: Values, loss: Values, per_decade: int) -> Float[np.ndarray, "bins 2"]:
    """Means of the losses over bins that are even on a logarithmic scale."""
    bins = np.floor(np.log10(compute) * per_decade).astype(int)
    which = [bins == number for number in np.unique(bins)]
    return np.array([(np.exp(np.log(compute[x]).mean()), loss[x].mean()) for x in which])


def lower_envelope(curves: Sequence[RunCurve]) -> Float[np.ndarray, "points 2"]:
    """Points that no run's reaches with less compute: each has a lower loss than all before it."""
    points = np.array([p for own in curves for p in zip(own.compute, own.loss, strict=True)])
    points = points[np.lexsort((points[:, 1], points[:, 0]))]
    lowest = np.minimum.accumulate(points[:, 1])
    return points[np.append(True, lowest[1:] < lowest[:-1])]


def power_law(points: Float[np.ndarray, "points 2"]) -> tuple[Law, float]:
    """The law without an offset by least squares of the logarithms, and its R squared."""
    x, y = np.log(points).T
    b, logarithm = np.polyfit(x, y, 1)
    rest = y - (b * x + logarithm)
    spread = float(np.square(y - y.mean()).sum())
    fit = 1 - float(np.square(rest).sum()) / spread if spread else 1.0
    return Law(float(np.exp(logarithm)), float(b)), fit


def offset_law(points: Float[np.ndarray, "points 2"]) -> Law:
    """The law with an offset, from several beginnings: Huber loss of the logarithms, 1e-3.

    (Hoffmann et al. 2022, appendix D.2)
    """
    x, y = torch.from_numpy(np.log(points)).T
    middle = x.mean()  # about which slope and level are almost independent
    found: list[tuple[float, Law]] = []
    for slope in (-0.02, -0.1, -0.3, -0.6):
        for part in (0.01, 0.3, 0.6, 0.9):
            offset = y.min() + np.log(part)
            level = (y.mean().exp() - offset.exp()).log()
            values = torch.stack((level, torch.tensor(slope, dtype=x.dtype), offset))
            values.requires_grad_(True)
            loss = _fit_offset(x - middle, y, values)
            level, slope_, offset = values.detach().tolist()
            a = float(np.exp(level - slope_ * float(middle)))
            found.append((loss, Law(a, slope_, float(np.exp(offset)))))
    return min(found, key=lambda pair: pair[0])[1]


def _fit_offset(x: torch.Tensor, y: torch.Tensor, values: torch.Tensor) -> float:
    search = torch.optim.LBFGS([values], max_iter=500, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        level, slope, offset = values
        said = torch.logaddexp(level + slope * x, offset.expand_as(x))
        # Divided by the square of delta: the search stops by differences that are not relative.
        return F.huber_loss(said, y, delta=_DELTA) / _DELTA**2

    def step() -> torch.Tensor:
        search.zero_grad()
        value = loss()
        value.backward()
        return value

    search.step(step)
    return float(loss().detach())


def best_sizes(curves: Sequence[RunCurve]) -> list[tuple[float, float]]:
    """For computes at which there are runs of three sizes or more, the foot of a parabola.

    It goes through the best size's loss and those of two neighbours on either side. Where its foot
    lies outside of these, nothing is known.
    """
    spans = [(own.compute[0], own.compute[-1]) for own in curves]
    if len(spans) < 3:
        return []
    low, high = sorted(s for s, _ in spans)[2], sorted(e for _, e in spans)[-3]
    found = []
    for compute in np.geomspace(low, high, _LEVELS) if low < high else ():
        foot = _foot(
            [own for own in curves if own.compute[0] <= compute <= own.compute[-1]], compute
        )
        if foot is not None:
            found.append((float(compute), foot))
    return found


def _foot(curves: Sequence[RunCurve], compute: float) -> float | None:
    """The size of the lowest loss at a compute, if it is among those that were tried."""
    by_size: dict[int, float] = {}
    for own in sorted(curves, key=lambda own: own.parameters):
        loss = float(np.interp(np.log(compute), np.log(own.compute), own.loss))
        by_size[own.parameters] = min(loss, by_size.get(own.parameters, loss))
    if len(by_size) < 3:
        return None
    sizes, losses = np.log([*by_size]), np.array([*by_size.values()])
    lowest = int(losses.argmin())
    near = slice(max(lowest - 2, 0), lowest + 3)
    sizes, losses = sizes[near], losses[near]
    bend, slope, _ = np.polyfit(sizes - sizes[0], losses, 2)
    foot = sizes[0] - slope / (2 * bend) if bend > 0 else np.inf
    return float(np.exp(foot)) if sizes[0] <= foot <= sizes[-1] else None


def _interval(curves: Sequence[RunCurve]) -> tuple[float, float]:
    random = np.random.default_rng(_SEED)
    exponents = []
    for _ in range(_RESAMPLES):
        drawn = [curves[i] for i in random.integers(len(curves), size=len(curves))]
        envelope = lower_envelope(drawn)
        if len(envelope) > 1:
            exponents.append(power_law(envelope)[0].b)
    low, high = np.quantile(exponents, (0.025, 0.975))
    return float(low), float(high)
