"""The picture of the study of representations."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from toto.studies.plots import STYLE, write_svg


def draw_layers(curves: Mapping[str, Sequence[Sequence[float]]], path: Path) -> None:
    """Test accuracy by layer, the mean over the seeds and their spread.

    What has a single layer is a line across.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6, 3.6), layout="constrained")
        axes = figure.subplots()
    for number, (name, of_seeds) in enumerate(curves.items()):
        by_layer = 100 * np.array(of_seeds)
        mean, colour = by_layer.mean(0), f"C{number}"
        if len(mean) == 1:
            axes.axhline(mean[0], color=colour, ls="--", label=name)
            continue
        layers = range(len(mean))
        axes.plot(layers, mean, marker=".", color=colour, label=name)
        axes.fill_between(layers, by_layer.min(0), by_layer.max(0), color=colour, alpha=0.2, lw=0)
    axes.set(xlabel="layer", ylabel="test accuracy, %")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.25)
    axes.legend()
    write_svg(figure, path)
