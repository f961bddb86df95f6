"""Curves: scores by archive size, precision by rank, IoU by threshold, loss by step."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import pandas as pd
from matplotlib import rc_context
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from reco.data.colours import BLUE, SKY, VERMILION
from reco.method.variants import Method
from reco.workflow.figures.style import LINES, STYLE, plot, write_text
from reco.workflow.tables import method_name


@rc_context(STYLE)
def archive_size_figure(
    metrics: pd.DataFrame,
    best: Method,
    label: str = "ReCo",
    others: Mapping[str, pd.DataFrame] = MappingProxyType({}),
) -> Figure:
    """mIoU of ReCo (all parts but the CRF) against archive size, beside DenseCLIP.

    Args:
        metrics: metrics.csv.
        best: the paper's ReCo with all its parts.
        label: of this experiment.
        others: metrics.csv of further experiments, by label.
    """
    figure, ax = plot("images in an archive (k)", "mIoU (%)")
    for color, (name, table) in zip(LINES, [(label, metrics), *others.items()], strict=False):
        plain = table[~table.crf.astype(bool)]
        reco = plain[
            (plain.method == "reco")
            & (plain.recipe == best.recipe)
            & (plain.lgc == best.lgc)
            & (plain.ce == best.ce)
        ]
        reco = reco.sort_values("archive_size")
        ax.plot(reco.archive_size, 100 * reco.mean_iou, color=color, marker="o", label=name)
        for k, value in zip(reco.archive_size, 100 * reco.mean_iou, strict=True):
            if not others:
                _label_point(ax, k, value, color)
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
    figure, ax = plot("images in an archive (k)", "precision (%)")
    ax.set_ylim(0, 102)
    if retrieval.empty:
        ax.set_xticks([])
        text = "Unknown: no label of the index names a concept."
        write_text(ax, 0.5, 0.5, text, ha="center", va="bottom", fontsize=9)
        text = "Labels are given with the key index.labels of the config."
        write_text(ax, 0.5, 0.47, text, ha="center", va="top", color="#555555")
        return figure
    wide = _precision_by_k(retrieval)
    low, high = wide.quantile(0.25, axis=1), wide.quantile(0.75, axis=1)
    ax.fill_between(wide.index, low, high, color=SKY, alpha=0.4, linewidth=0)
    mean = wide.mean(axis=1)
    label = label or f"mean of {wide.shape[1]} concepts"
    handles: list[Artist] = []
    tables = {label: retrieval, **others}
    for color, (name, table) in zip(LINES, tables.items(), strict=False):
        line = mean if name == label else _precision_by_k(table).mean(axis=1)
        ax.plot(line, color=color, linewidth=2, marker="o" if len(line) == 1 else None)
        handles.append(Line2D([], [], color=color, linewidth=2, label=name))
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


def _label_point(ax: Axes, x: float, y: float, color: str) -> None:
    ax.annotate(f"{y:.1f}", (x, y), (0, 6), textcoords="offset points", ha="center", color=color)


@rc_context(STYLE)
def rare_figure(scores: pd.DataFrame, summary: Mapping[str, Any]) -> Figure:
    """IoU of one concept against the threshold on its saliency, and where Otsu's lies.

    Args:
        scores: rare.csv (method, threshold, iou).
        summary: rare.json: by method, `otsu` and `best_by_labels` with threshold and iou.
    """
    figure, ax = plot("saliency at or above which a pixel is the concept", "IoU (%)")
    for color, (name, table) in zip(LINES, scores.groupby("method", sort=False), strict=False):
        otsu, best = summary[name]["otsu"], summary[name]["best_by_labels"]
        label = f"{method_name(name, False)}: {100 * otsu['iou']:.1f}, {100 * best['iou']:.1f}"
        ax.plot(table.threshold, 100 * table.iou, color=color, label=label)
        ax.plot(otsu["threshold"], 100 * otsu["iou"], color=color, marker="o")
    figure.legend(
        loc="outside right center", title="at Otsu's threshold (dot),\nat the best by the labels"
    )
    return figure


@rc_context(STYLE)
def training_figure(curve: pd.DataFrame) -> Figure:
    """Loss of ReCo+ at every step, and its running mean.

    Args:
        curve: step, loss, lr.
    """
    figure, ax = plot("step", "cross-entropy to ReCo's masks")
    window = max(1, len(curve) // 15)
    smooth = curve.loss.rolling(window, min_periods=1, center=True).mean()
    ax.plot(curve.step, curve.loss, color=SKY, linewidth=0.7, label="a step")
    ax.plot(curve.step, smooth, color=BLUE, linewidth=2, label=f"mean of {window} steps")
    ax.set_ylim(bottom=0)
    ax.legend()
    return figure
