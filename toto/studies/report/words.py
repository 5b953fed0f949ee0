"""A report's verdicts and numbers in words."""

import math
from dataclasses import dataclass

from toto.studies.report.records import Losses, Report
from toto.tasks.results import ProbeResult


@dataclass(frozen=True)
class Verdict:
    """What one number comes to."""

    about: str
    number: str
    rest: str
    good: bool


def verdicts(report: Report) -> list[Verdict]:
    """Of the losses and of the features."""
    losses = [
        _loss_verdict("Whole clip", report.whole_clip),
        _loss_verdict("After frame 1", report.later_frames),
    ]
    return losses + ([_probe_verdict(report.probe)] if report.probe else [])


def _loss_verdict(about: str, losses: Losses) -> Verdict:
    name, best = losses.best()
    digits = 2 if abs(losses.model - best) >= 0.01 else 4
    rest = f"against {best:.{digits}f} for the best yardstick, {name}"
    good = losses.model < best
    if not good:
        rest += ": the model is no better than counting"
    return Verdict(about, f"{losses.model:.{digits}f} nats a code", rest, good)


def _probe_verdict(probe: ProbeResult) -> Verdict:
    below = baselines(probe)
    rest = f"reads the action in {percent(probe.accuracy)} of test clips; "
    rest += ", ".join(f"{name} {percent(accuracy)}" for name, accuracy in below.items())
    name, baseline = max(below.items(), key=lambda pair: pair[1])
    gain = probe.accuracy - baseline
    errors = standard_error(probe, probe.accuracy), standard_error(probe, baseline)
    if gain <= 0:
        rest += f": no better than {name}"
    elif gain < 2 * math.hypot(*errors):
        rest += f": too close to {name} to tell with {probe.clips[2]:,} test clips"
    else:
        return Verdict("Features", _layer(probe), rest, True)
    return Verdict("Features", _layer(probe), rest, False)


def baselines(probe: ProbeResult) -> dict[str, float]:
    """What features are to surpass; pixels that could not be read again are left out."""
    found = {"chance": probe.chance}
    if probe.pixels:
        found["pixels"] = probe.pixels["attention"]
    return found


def _layer(probe: ProbeResult) -> str:
    return f"Layer {probe.best_layer} of {len(probe.test_accuracy) - 1}"


def standard_error(probe: ProbeResult, accuracy: float) -> float:
    """Of an accuracy measured on the test clips."""
    return math.sqrt(accuracy * (1 - accuracy) / probe.clips[2])


def percent(share: float) -> str:
    """A part of a whole, in percent."""
    return f"{100 * share:.0f}\u00a0%"


def short(number: float | int) -> str:
    """A number in three digits and a letter."""
    for least, size, letter in ((1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k")):
        if number >= least:
            return f"{number / size:.3g}\u00a0{letter}"
    return f"{number:,.0f}" if number >= 10 else f"{number:.2g}"


def duration(seconds: float | int) -> str:
    """Seconds, or minutes, or hours."""
    if seconds < 60:
        return f"{seconds:.1f}\u00a0s" if seconds < 10 else f"{seconds:.0f}\u00a0s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}\u00a0min {rest}\u00a0s"
    return f"{minutes // 60:,}\u00a0h {minutes % 60}\u00a0min"


def in_bytes(number: int) -> str:
    """Megabytes, or gigabytes."""
    return f"{number / 1e9:.1f}\u00a0GB" if number >= 1e9 else f"{number / 1e6:.0f}\u00a0MB"
