"""What figures share: style, colours of lines, parts of a plot, and how they are written.

Figures are made without pyplot, so nothing global changes, and without dates, so equal data make
equal files.
"""

from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from PIL import Image

from reco.data.colours import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION, YELLOW
from reco.experiment import Experiment
from reco.files import atomic

STYLE: dict[Any, Any] = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "text.parse_math": False,  # a concept may be named with dollar signs
    "pdf.fonttype": 42,
}
# Of lines in one plot; vermilion is that of baselines.
LINES = (BLUE, GREEN, ORANGE, PURPLE, SKY, YELLOW, GREY, "#000000", "#7F4F24")
OUTLINE = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1.2}


def write_figure(figure: Figure, *paths: Path, remark: str = "") -> None:
    """Write a figure to every path, .png (200 dpi) or .pdf (its photographs have 150 dpi).

    A remark, such as that the code was not committed, stands in red in the lower left corner.

    A PNG keeps 6 bits a channel: nobody sees the difference, and photographs take half the space.
    """
    if remark:
        layout = figure.get_layout_engine()
        if isinstance(layout, ConstrainedLayoutEngine):
            layout.set(rect=(0, 0.03, 1, 0.97))
        figure.text(0.005, 0.005, remark, fontsize=5, color=VERMILION, va="bottom")
    for path in paths:
        with atomic(path) as temporary, rc_context(STYLE):
            if path.suffix == ".pdf":
                figure.savefig(temporary, dpi=150, metadata={"CreationDate": None})
                continue
            buffer = BytesIO()
            figure.savefig(buffer, format="png", dpi=200)
            image = (
                Image.open(buffer, formats=["PNG"])
                .convert("RGB")
                .point(lambda value: value & 0xFC | value >> 6)
            )
            image.save(temporary, format="PNG", dpi=(200, 200), optimize=True)


def spread(names: Sequence[str], values: Mapping[str, float], count: int) -> list[str]:
    """Choose `count` names at even steps from the largest value to the smallest, both included.

    Names without a value are passed over, unless no name has one: then the first names are taken.
    Equal values keep the order of `names`.
    """
    known = [name for name in names if not np.isnan(values.get(name, np.nan))]
    if not known:
        return list(names[:count])
    ordered = sorted(known, key=lambda name: -values[name])
    chosen = np.linspace(0, len(ordered) - 1, min(count, len(ordered))).round().astype(int)
    return [ordered[i] for i in chosen]


def new_plot(x: str, y: str) -> tuple[Figure, Axes]:
    """A figure with one plot, and its axes with their labels."""
    figure = Figure(figsize=(5.4, 3.2), layout="constrained")
    ax = figure.subplots()
    ax.set(xlabel=x, ylabel=y)
    return figure, ax


def bare(ax: Axes) -> None:
    """Axes without ticks, grid and frame, for a picture."""
    ax.set(xticks=[], yticks=[])
    ax.grid(False)
    for spine in ax.spines.values():
        spine.set_visible(False)


def write_on(ax: Axes, x: float, y: float, text: str, **style: Any) -> None:
    """Write at a point given as shares (0..1) of the width and height of the axes."""
    ax.text(x, y, text, transform=ax.transAxes, **style)


def blend(picture: np.ndarray, colour: np.ndarray, alpha: np.ndarray | np.float64) -> np.ndarray:
    """Lay colours (0..1) over a uint8 picture with opacity `alpha`, (h, w, 1)."""
    return np.round(picture * (1 - alpha) + 255 * colour * alpha).astype(np.uint8)


def read_compared(experiment: Experiment, table: str) -> tuple[str, dict[str, pd.DataFrame]]:
    """What a figure compares: the label of this experiment, the tables of others by label.

    Args:
        table: name of a file of results, such as metrics.csv.

    Returns:
        the label, "" where none was given, and the tables.
    """
    label, others = experiment.compared(table)
    return label, {name: pd.read_csv(path) for name, path in others.items()}
