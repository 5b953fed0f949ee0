"""The picture of a scaling law."""

from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from toto.studies.plots import STYLE, write_svg

if TYPE_CHECKING:
    from toto.studies.scaling import ScalingResult


def draw_scaling(result: "ScalingResult", unit: str, path: Path) -> None:
    """Draw every run's loss over its compute, the best, and both laws through them."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8, 4), layout="constrained")
        axes = figure.subplots()
    colours = matplotlib.colormaps["viridis"](np.linspace(0.9, 0, len(result.runs)))
    runs = sorted(result.runs, key=lambda own: own.parameters)
    for own, colour in zip(runs, colours, strict=True):
        label = f"{own.name}, {own.parameters:.2g} weights"
        axes.plot(own.compute, own.loss, lw=1, color=colour, label=label)
    best = np.array(result.envelope)
    axes.plot(*best.T, ".", ms=4, color="black", label="the best")
    along = np.geomspace(best[0, 0], best[-1, 0], 100)
    law, offset = result.law, result.offset
    axes.plot(along, law.at(along), "--", color="black", label=f"{law.a:.3g} C^{law.b:.4f}")
    label = f"{offset.a:.3g} C^{offset.b:.4f} + {offset.c:.3g}"
    axes.plot(along, offset.at(along), ":", color="black", label=label)
    axes.set(xscale="log", yscale="log", xlabel=f"C, {unit}", ylabel="training loss, nats a code")
    axes.grid(alpha=0.25, which="both")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("{x:g}")
    figure.legend(loc="outside right upper", fontsize=7)
    write_svg(figure, path)
