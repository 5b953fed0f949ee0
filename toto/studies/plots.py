"""How the pictures of studies look, and how they are written."""

from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from toto.files import file_atomically

STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "legend.frameon": False,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "toto",  # the same bytes each time
}


def write_svg(figure: Figure, path: Path) -> None:
    """Write a picture without its date: the same one is the same file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(STYLE), file_atomically(path) as file:
        figure.savefig(file, format="svg", metadata={"Date": None})
