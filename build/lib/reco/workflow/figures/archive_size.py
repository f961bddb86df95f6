"""Archive size: mIoU of ReCo against the number of images in an archive, beside DenseCLIP."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import click
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reco.data.colours import VERMILION
from reco.method.variants import Method
from reco.options import CONFIG, FILES, METRICS_TABLE, RUN, open_experiment
from reco.revision import uncommitted
from reco.workflow.figures.style import LINES, STYLE, new_plot, read_compared, write_figure


@rc_context(STYLE)
def archive_size_figure(
    metrics: pd.DataFrame,
    best: Method,
    label: str = "",
    others: Mapping[str, pd.DataFrame] = MappingProxyType({}),
) -> Figure:
    """mIoU of ReCo (all parts but the CRF) against archive size, beside DenseCLIP.

    Args:
        metrics: metrics.csv.
        best: the paper's ReCo with all its parts.
        label: of this experiment; "" = ReCo.
        others: metrics.csv of further experiments, by label.
    """
    figure, ax = new_plot("images in an archive (k)", "mIoU (%)")
    tables = [(label or "ReCo", metrics), *others.items()]
    for colour, (name, table) in zip(LINES, tables, strict=False):
        plain = table[~table.crf.astype(bool)]
        reco = plain[
            (plain.method == "reco")
            & (plain.recipe == best.recipe)
            & (plain.lgc == best.lgc)
            & (plain.ce == best.ce)
        ]
        reco = reco.sort_values("archive_size")
        ax.plot(reco.archive_size, 100 * reco.mean_iou, color=colour, marker="o", label=name)
        for k, value in zip(reco.archive_size, 100 * reco.mean_iou, strict=True):
            if not others:
                _label_point(ax, k, value, colour)
        if table is metrics:
            ax.set_xticks(reco.archive_size)
    for value in (
        100 * metrics[(metrics.method == "denseclip") & ~metrics.crf.astype(bool)].mean_iou
    ):
        ax.axhline(value, color=VERMILION, linestyle="--", label=f"DenseCLIP: {value:.1f}")
    ax.margins(x=0.12, y=0.2)
    if others:
        figure.legend(loc="outside right center")
    else:
        ax.legend(loc="best")
    return figure


def _label_point(ax: Axes, x: float, y: float, colour: str) -> None:
    ax.annotate(f"{y:.1f}", (x, y), (0, 6), textcoords="offset points", ha="center", color=colour)


@click.command("archive-size")
@CONFIG
@METRICS_TABLE
@RUN
@FILES
def archive_size(config_file: Path, metrics: Path, run: Path, files: tuple[Path, ...]) -> None:
    """mIoU against the number of images in an archive."""
    experiment = open_experiment(config_file)
    compared = read_compared(experiment, "metrics.csv")
    drawn = archive_size_figure(pd.read_csv(metrics), experiment.paper, *compared)
    write_figure(drawn, *files, remark=uncommitted(run))
