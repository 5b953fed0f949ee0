"""How often n-grams occur by rank, data sets side by side (paper, figures 3, 12 and 13)."""

from collections.abc import Mapping
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from toto.studies.ngrams import Spectrum
from toto.studies.plots import STYLE, write_svg

# Ranks of a line, evenly spaced as logarithms.
_POINTS = 400


def rank_frequency(spectra: Mapping[str, Mapping[int, Spectrum]], path: Path) -> None:
    """Shares of n-grams by rank, both as logarithms: a panel for each n, a line for each name."""
    lengths = sorted(next(iter(spectra.values())))
    with matplotlib.rc_context(STYLE):
        figure = Figure(
            figsize=(3.4 * len(lengths), 3.2 + 0.2 * len(spectra)), layout="constrained"
        )
        panels = figure.subplots(1, len(lengths), sharey=True)
        for axes, n in zip(panels, lengths, strict=True):
            for name, of in spectra.items():
                spectrum = of[n]
                if spectrum.total:
                    ranks = np.unique(np.geomspace(1, spectrum.distinct, _POINTS).astype(np.int64))
                    shares = spectrum.at_ranks(ranks) / spectrum.total
                    axes.plot(ranks, shares, label=name)
            axes.set(title=f"{n}-grams", xscale="log", yscale="log", xlabel="rank")
            axes.grid(alpha=0.25)
        panels[0].set_ylabel("share of all")
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower left")
    write_svg(figure, path)
