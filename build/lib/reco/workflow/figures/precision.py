"""Precision of retrieval against the number of images in an archive, over concepts, and chance."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import click
import pandas as pd
from matplotlib import rc_context
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from reco.data.colours import SKY, VERMILION
from reco.options import CONFIG, FILES, RETRIEVAL_TABLE, RUN, images_option, open_experiment
from reco.revision import uncommitted
from reco.workflow.figures.style import (
    LINES,
    STYLE,
    new_plot,
    read_compared,
    write_figure,
    write_on,
)


@rc_context(STYLE)
def precision_figure(
    retrieval: pd.DataFrame,
    images: int,
    label: str = "",
    others: Mapping[str, pd.DataFrame] = MappingProxyType({}),
) -> Figure:
    """Mean precision of the archives against their size, its spread over concepts, and chance.

    Args:
        retrieval: retrieval.csv of `reco precision`; may have no rows.
        images: number of images in the index.
        label: of this experiment; "" = the number of its concepts.
        others: retrieval.csv of further experiments, by label; of these the mean alone.
    """
    figure, ax = new_plot("images in an archive (k)", "precision (%)")
    ax.set_ylim(0, 102)
    if retrieval.empty:
        ax.set_xticks([])
        text = "Unknown: no label of the index names a concept."
        write_on(ax, 0.5, 0.5, text, ha="center", va="bottom", fontsize=9)
        text = "Labels are given with the key index.labels of the config."
        write_on(ax, 0.5, 0.47, text, ha="center", va="top", color="#555555")
        return figure
    wide = _precision_by_k(retrieval)
    low, high = wide.quantile(0.25, axis=1), wide.quantile(0.75, axis=1)
    ax.fill_between(wide.index, low, high, color=SKY, alpha=0.4, linewidth=0)
    mean = wide.mean(axis=1)
    label = label or f"mean of {wide.shape[1]} concepts"
    handles: list[Artist] = []
    tables = {label: retrieval, **others}
    for colour, (name, table) in zip(LINES, tables.items(), strict=False):
        line = mean if name == label else _precision_by_k(table).mean(axis=1)
        ax.plot(line, color=colour, linewidth=2, marker="o" if len(line) == 1 else None)
        handles.append(Line2D([], [], color=colour, linewidth=2, label=name))
    chance = 100 * retrieval.drop_duplicates("concept").in_index.mean() / images
    ax.axhline(chance, color=VERMILION, linestyle="--")
    handles += [
        Patch(color=SKY, alpha=0.4, label="middle half of the concepts"),
        Line2D([], [], color=VERMILION, linestyle="--", label=f"chance ({chance:.1f} %)"),
    ]
    figure.legend(handles=handles, loc="outside right center")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    return figure


def _precision_by_k(retrieval: pd.DataFrame) -> pd.DataFrame:
    """Percent, a row per k, a column per concept."""
    wide = retrieval.pivot(index="k", columns="concept", values="precision")
    return 100 * wide.astype(float)


@click.command()
@CONFIG
@RETRIEVAL_TABLE
@images_option("images of the index")
@RUN
@FILES
def precision(
    config_file: Path, retrieval: Path, images: Path, run: Path, files: tuple[Path, ...]
) -> None:
    """Precision of retrieval against the number of images in an archive."""
    compared = read_compared(open_experiment(config_file), "retrieval.csv")
    drawn = precision_figure(pd.read_csv(retrieval), len(pd.read_csv(images)), *compared)
    write_figure(drawn, *files, remark=uncommitted(run))
