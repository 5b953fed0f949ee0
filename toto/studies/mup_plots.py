"""The two pictures of the study of muP, each with the standard parametrisation beside it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from toto.studies.plots import STYLE, write_svg


def coordinates(changes: Mapping[bool, Mapping[str, Mapping[int, float]]], path: Path) -> None:
    """Change of each layer's output by width, both as logarithms."""

    def draw(axes: Axes, by_layer: Mapping[str, Mapping[int, float]]) -> None:
        for colour, (name, by_width) in zip(_colours(len(by_layer)), by_layer.items(), strict=True):
            axes.plot(*_line(by_width), "o-", ms=4, color=colour, label=name)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:.0f}")
        axes.set_xlabel("width")

    _side_by_side(changes, draw, "mean |change|", path)


def transfer(losses: Mapping[bool, Mapping[int, Mapping[int, float]]], path: Path) -> None:
    """Loss by learning rate, a line for each width, its best marked."""

    def draw(axes: Axes, by_width: Mapping[int, Mapping[int, float]]) -> None:
        for colour, (width, by_rate) in zip(_colours(len(by_width)), by_width.items(), strict=True):
            axes.plot(*_line(by_rate), "o-", ms=3, color=colour, label=f"width {width}")
            best = min(by_rate, key=by_rate.__getitem__)
            axes.plot(best, by_rate[best], "*", ms=12, color=colour)
        axes.xaxis.set_major_formatter(lambda rate, _: f"$2^{{{rate:.0f}}}$")
        axes.set_xlabel("learning rate")

    _side_by_side(losses, draw, "loss, nats a token", path)


def _line(values: Mapping[int, float]) -> tuple[list[int], list[float]]:
    return list(values), list(values.values())


def _colours(count: int) -> Any:
    return matplotlib.colormaps["viridis"]([0.85 * i / max(count - 1, 1) for i in range(count)])


def _side_by_side(panels: Mapping[bool, Any], draw: Any, ylabel: str, path: Path) -> None:
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8, 3.4), layout="constrained")
        both = figure.subplots(1, 2, sharey=True)
        for axes, mup in zip(both, (True, False), strict=True):
            axes.set_title("muP" if mup else "standard parametrisation")
            draw(axes, panels[mup])
        both[0].set_ylabel(ylabel)
        both[0].legend()
    write_svg(figure, path)
