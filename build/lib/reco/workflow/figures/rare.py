"""Rare: IoU of one concept against the threshold on its saliency."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure

from reco.files import read_json
from reco.options import FILE, FILES, RUN
from reco.revision import uncommitted
from reco.workflow.figures.style import LINES, STYLE, new_plot, write_figure
from reco.workflow.tables.names import method_name


@rc_context(STYLE)
def rare_figure(scores: pd.DataFrame, summary: Mapping[str, Any]) -> Figure:
    """IoU of one concept against the threshold on its saliency, and where Otsu's lies.

    Args:
        scores: rare.csv (method, threshold, iou).
        summary: rare.json: by method, `otsu` and `best_by_labels` with threshold and iou.
    """
    figure, ax = new_plot("saliency at or above which a pixel is the concept", "IoU (%)")
    for colour, (name, table) in zip(LINES, scores.groupby("method", sort=False), strict=False):
        otsu, best = summary[name]["otsu"], summary[name]["best_by_labels"]
        label = f"{method_name(name, False)}: {100 * otsu['iou']:.1f}, {100 * best['iou']:.1f}"
        ax.plot(table.threshold, 100 * table.iou, color=colour, label=label)
        ax.plot(otsu["threshold"], 100 * otsu["iou"], color=colour, marker="o")
    figure.legend(
        loc="outside right center", title="at Otsu's threshold (dot),\nat the best by the labels"
    )
    return figure


@click.command()
@click.option("--scores", type=FILE, required=True, help="rare.csv of `reco rare`.")
@click.option("--summary", type=FILE, required=True, help="rare.json of `reco rare`.")
@RUN
@FILES
def rare(scores: Path, summary: Path, run: Path, files: tuple[Path, ...]) -> None:
    """IoU of one concept against the threshold on its saliency."""
    drawn = rare_figure(pd.read_csv(scores), read_json(summary))
    write_figure(drawn, *files, remark=uncommitted(run))
