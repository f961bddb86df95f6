"""Figures: archives, predictions, curves; drawn from masks and metrics, without a network.

Functions `*_figure` draw data that they are given; `read_*` find the data of an experiment. Figures
are made without pyplot, so nothing global changes, and without dates, so equal data make equal
files.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from textwrap import fill
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps, rc_context
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize, to_rgb
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator
from PIL import Image
from scipy.ndimage import binary_dilation

from reco.data.colours import BLUE, GREEN, GREY, ORANGE, PALETTE, PURPLE, SKY, VERMILION, YELLOW
from reco.data.geometry import square
from reco.data.images import read_image
from reco.data.split import Row, Split
from reco.data.tables import read_table
from reco.experiment import Experiment
from reco.files import atomic, read_tensors
from reco.method.metrics import IGNORE
from reco.method.variants import Method
from reco.progress import track
from reco.workflow.catalog import read_index_labels
from reco.workflow.tables import method_name

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
    places = np.linspace(0, len(ordered) - 1, min(count, len(ordered))).round().astype(int)
    return [ordered[place] for place in places]


# ---- archives ---------------------------------------------------------------------------------

# Little support is transparent, much is opaque.
HEAT = ListedColormap(
    np.column_stack(
        [colormaps["plasma"](np.linspace(0.25, 1, 256))[:, :3], np.linspace(0, 0.6, 256)]
    )
)


SEED: dict[str, Any] = {
    **{"marker": "o", "markersize": 5, "markerfacecolor": "none", "markeredgewidth": 1.4},
    **{"markeredgecolor": "white", "linestyle": "none"},
    "path_effects": [withStroke(linewidth=2.6, foreground="black")],
}


@dataclass(frozen=True)
class Archive:
    """The first images of a concept's archive and what co-segmentation made of them.

    Attributes:
        name: the concept, as people write it.
        note: a few words on the archive, such as its precision; may be empty.
        pictures: n of (s, s, 3) uint8, as the networks saw them.
        support: (n, h, w) support of every position, any scale.
        seeds: (n, 2) row and column of the seed, in positions of `support`.
        shown: whether an image shows the concept; None where that is not known.
    """

    name: str
    note: str
    pictures: list[np.ndarray]
    support: np.ndarray
    seeds: np.ndarray
    shown: list[bool | None]


def read_archive(
    experiment: Experiment, slug: str, precision: Mapping[str, float], count: int
) -> Archive:
    """The first `count` images of a concept's archive, co-segmented with all parts of ReCo.

    Args:
        precision: of archives of the experiment's size, in 0..1, by concept.
    """
    config, variant = experiment.config, experiment.best_variant
    size = config.bank.scales[0] if config.banked else config.sizes.archive
    name = experiment.concepts[slug].name
    rows = read_table(experiment.archive(slug))[: min(count, experiment.best.archive_size)]
    found = read_tensors(experiment.best_source(slug))
    pictures = [read_image(experiment.index_root / row["path"]) for row in rows]
    labels = read_index_labels(experiment.index_labels) if experiment.index_labels else {}
    shows = {path: name.casefold() in names for path, names in labels.items()}
    known = any(shows.values())
    return Archive(
        name,
        f"precision\n{precision[name]:.0%}" if name in precision else "",
        [square(image, size) for image in pictures],
        found[f"{variant}.support"][: len(rows)],
        found[f"{variant}.seeds"][: len(rows)],
        [shows.get(row["path"], False) if known else None for row in rows],
    )


def choose_archives(
    experiment: Experiment, precision: Mapping[str, float], count: int
) -> list[str]:
    """Slugs of `count` target concepts, from the best archive to the worst where that is known."""
    slugs = {concept.name: concept.slug for concept in experiment.targets}
    return [slugs[name] for name in spread(list(slugs), precision, count)]


def precision_at(retrieval: pd.DataFrame, k: int) -> dict[str, float]:
    """Precision of the archives of k images, in 0..1, by concept."""
    rows = retrieval[retrieval.k == k]
    return dict(zip(rows.concept, rows.precision.astype(float), strict=True))


@rc_context(STYLE)
def archives_figure(archives: Sequence[Archive], columns: int) -> Figure:
    """Archives below each other, `columns` images a line, with support and seeds."""
    columns = min(columns, max(len(archive.pictures) for archive in archives))
    lines = [
        (archive, start)
        for archive in archives
        for start in range(0, len(archive.pictures), columns)
    ]
    layout = ConstrainedLayoutEngine(w_pad=0.015, h_pad=0.015, wspace=0, hspace=0)
    figure = Figure(figsize=(0.9 * columns + 1.2, 1.04 * len(lines) + 0.55), layout=layout)
    axes = figure.subplots(len(lines), columns, squeeze=False)
    for line, (archive, start) in zip(axes, lines, strict=True):
        low, high = np.percentile(archive.support, [2, 98])
        for place, ax in enumerate(line, start):
            _bare(ax)
            if place < len(archive.pictures):
                support = (archive.support[place] - low) / max(high - low, 1e-9)
                _archive_image(ax, archive, place, support.clip(0, 1))
                ax.set_title(f"{place + 1}", fontsize=6, pad=1.5, color="#555555")
        if start == 0:
            label = "\n".join(filter(None, [fill(archive.name, 14), archive.note]))
            line[0].set_ylabel(label, rotation=0, ha="right", va="center", labelpad=6)
    _archive_legend(figure, axes, known=any(s is not None for a in archives for s in a.shown))
    return figure


def _archive_image(ax: Axes, archive: Archive, place: int, support: np.ndarray) -> None:
    picture, (height, width) = archive.pictures[place], support.shape
    side = len(picture)
    smooth = Image.fromarray(support.astype(np.float32)).resize(
        (side, side), Image.Resampling.BILINEAR
    )
    heat = HEAT(np.asarray(smooth))
    # Half of the colour goes, so that the heat map has it.
    pale = _blend(picture, picture.mean(2, keepdims=True) / 255, np.float64(0.5))
    ax.imshow(_blend(pale, heat[..., :3], heat[..., 3:]), interpolation="lanczos")
    row, column = (archive.seeds[place] + 0.5) * side / np.array([height, width])
    ax.plot(column, row, **SEED)
    if archive.shown[place] is not None:
        mark, color = ("✓", BLUE) if archive.shown[place] else ("✗", VERMILION)
        style = {"color": color, "fontsize": 6.5, "fontweight": "bold", "bbox": OUTLINE}
        _write(ax, 0.03, 0.965, mark, ha="left", va="top", **style)


def _archive_legend(figure: Figure, axes: np.ndarray, *, known: bool) -> None:
    heat = ScalarMappable(Normalize(0, 1), HEAT)
    bar = figure.colorbar(
        heat, ax=axes, location="bottom", shrink=0.3, aspect=25, pad=0.01, anchor=(0.0, 1.0)
    )
    bar.set_ticks([0, 1], labels=["low", "high"])
    bar.ax.tick_params(length=0)
    bar.set_label("support in co-segmentation", labelpad=-6)
    bar.outline.set_linewidth(0.5)
    names = ["seed", "✓ shows the concept", "✗ does not"][: 3 if known else 1]
    handles = [Line2D([], [], label=name) for name in names]
    for handle, style in zip(handles, [SEED, {"alpha": 0}, {"alpha": 0}], strict=False):
        handle.set(**style)
    legend = figure.legend(
        handles=handles, loc="lower right", ncols=3, handlelength=1, handletextpad=0.3
    )
    for text, color in zip(legend.get_texts()[1:], [BLUE, VERMILION], strict=False):
        text.set_color(color)


# ---- predictions ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Prediction:
    """One image, its ground truth and what several methods make of it.

    Attributes:
        name: of the image.
        picture: (h, w, 3) uint8.
        truth: (h, w) label ids, -1 = not scored.
        guesses: a (h, w) array of label ids per method.
    """

    name: str
    picture: np.ndarray
    truth: np.ndarray
    guesses: list[np.ndarray]

    @property
    def accuracies(self) -> np.ndarray:
        """(methods,) share of scored pixels that are right; nan where none is scored."""
        scored = self.truth >= 0
        if not scored.any():
            return np.full(len(self.guesses), np.nan)
        return np.array([(guess == self.truth)[scored].mean() for guess in self.guesses])


def prediction_methods(experiment: Experiment) -> list[Method]:
    """What is shown side by side: DenseCLIP, ReCo, ReCo with CRF, ReCo+ with CRF if trained.

    Where there is a bank of seeds, ReCo is the paper's with CRF and the bank's with CRF.
    """
    best = experiment.best
    other = experiment.paper if experiment.config.banked else replace(best, crf=False)
    return [Method("denseclip", False, False, False, 0), other, best, *experiment.plus[-1:]]


def read_prediction(split: Split, row: Row, folders: Sequence[Path]) -> Prediction:
    """Read an image of a split at the size at which it was predicted.

    Args:
        row: of the list of the split.
        folders: of masks, one per method.
    """
    return Prediction(
        Path(row["prediction"]).stem,
        np.asarray(split.picture(row)),
        split.truth(row),
        [split.guess(folder, row) for folder in folders],
    )


def choose_predictions(
    split: Split, rows: Sequence[Row], folders: Sequence[Path], count: int
) -> list[Prediction]:
    """`count` images at even steps from the best mean accuracy of the methods to the worst."""
    by_name = {row["prediction"]: row for row in rows}
    accuracy = {
        name: float(np.mean(read_prediction(split, row, folders).accuracies))
        for name, row in track(by_name.items(), "choose images", total=len(by_name))
    }
    return [
        read_prediction(split, by_name[name], folders)
        for name in spread(list(by_name), accuracy, count)
    ]


@rc_context(STYLE)
def predictions_figure(
    predictions: Sequence[Prediction], methods: Sequence[str], labels: Sequence[str]
) -> Figure:
    """A row per image: picture, ground truth, every method, and the row's own legend.

    Args:
        methods: names of the methods, in the order of `Prediction.guesses`.
        labels: names of the scored label ids.
    """
    # Rows have the shape of their picture, but room for the legend.
    shapes = [np.clip(len(p.picture) / p.picture.shape[1], 0.75, 1.6) for p in predictions]
    columns = 2 + len(methods)
    layout = ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)
    figure = Figure(figsize=(1.32 * columns + 1.15, 1.34 * sum(shapes) + 0.55), layout=layout)
    axes = figure.subplots(
        len(predictions),
        columns + 1,
        squeeze=False,
        gridspec_kw={"width_ratios": [1] * columns + [0.8], "height_ratios": shapes},
    )
    for line, prediction in zip(axes, predictions, strict=True):
        _prediction_row(line, prediction, labels)
    for ax, title in zip(axes[0], ["image", "ground truth", *methods], strict=False):
        ax.set_title(title.replace(") with", ")\nwith"))  # the longest are wider than a picture
    key = "Colours hold within a row; bold: in the ground truth."
    if any((prediction.truth < 0).any() for prediction in predictions):
        key = f"Outlined: scored. Pale: without ground truth, not scored. {key}"
    figure.supxlabel(key, fontsize=7)
    return figure


def _prediction_row(axes: Sequence[Axes], prediction: Prediction, labels: Sequence[str]) -> None:
    for ax in axes:
        _bare(ax)
    colors = row_colors(prediction)
    axes[0].imshow(prediction.picture)
    for ax, guess in zip(axes[1:], [prediction.truth, *prediction.guesses], strict=False):
        ax.imshow(overlay(prediction.picture, guess, prediction.truth >= 0, colors))
    for ax, accuracy in zip(axes[2:], prediction.accuracies, strict=False):
        note = "not scored" if np.isnan(accuracy) else f"{accuracy:.0%} right"
        _write(ax, 0.025, 0.025, note, ha="left", va="bottom", bbox=OUTLINE, fontsize=6.5)
    true = set(np.unique(prediction.truth))
    names = [(labels[label], color, label in true) for label, color in colors.items()]
    handles = [Patch(color=color, label=fill(name, 18)) for name, color, _ in names]
    if np.setdiff1d(prediction.guesses, list(colors)).size:
        handles.append(Patch(color=GREY, label="any other"))
    legend = axes[-1].legend(
        handles=handles,
        loc="center left",
        handlelength=1,
        handleheight=1,
        labelspacing=0.35,
        fontsize=6.5,
        borderpad=0,
    )
    for text, (*_, is_true) in zip(legend.get_texts(), names, strict=False):
        text.set_fontweight("bold" if is_true else "normal")


def row_colors(prediction: Prediction) -> dict[int, str]:
    """Colours of the labels that matter in an image: of the ground truth first, then predicted.

    Larger areas first, counted where the image is scored; labels beyond the palette get none.
    """
    scored = prediction.truth >= 0
    places = scored if scored.any() else np.ones_like(scored)
    groups = [prediction.truth[places], np.concatenate([g[places] for g in prediction.guesses])]
    ordered: dict[int, None] = {}
    for group in groups:
        ids, areas = np.unique(group[group >= 0], return_counts=True)
        ordered |= dict.fromkeys(ids[np.argsort(-areas, kind="stable")].tolist())
    return dict(zip(ordered, PALETTE, strict=False))


def overlay(
    picture: np.ndarray, guess: np.ndarray, scored: np.ndarray, colors: Mapping[int, str]
) -> np.ndarray:
    """Labels in colour over a picture that is pale where nothing is scored.

    Args:
        picture: (h, w, 3) uint8.
        guess: (h, w) label ids; -1 is left without colour.
        scored: (h, w) bool; the border of this region is drawn in black.
        colors: of label ids; others are grey.

    Returns:
        (h, w, 3) uint8.
    """
    inside = scored[..., None]
    paint = np.full(picture.shape, to_rgb(GREY))
    for label, color in colors.items():
        paint[guess == label] = to_rgb(color)
    pale = _blend(picture, np.ones(3), np.where(inside, 0.0, 0.6))
    painted = _blend(pale, paint, np.where(inside, 0.7, 0.25) * (guess != IGNORE)[..., None])
    border = binary_dilation(scored) & ~scored
    return np.where(border[..., None], np.uint8(0), painted)


# ---- curves -----------------------------------------------------------------------------------


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
    figure, ax = _plot("images in an archive (k)", "mIoU (%)")
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
    figure, ax = _plot("images in an archive (k)", "precision (%)")
    ax.set_ylim(0, 102)
    if retrieval.empty:
        ax.set_xticks([])
        text = "Unknown: no label of the index names a concept."
        _write(ax, 0.5, 0.5, text, ha="center", va="bottom", fontsize=9)
        text = "Labels are given with the key index.labels of the config."
        _write(ax, 0.5, 0.47, text, ha="center", va="top", color="#555555")
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
    figure, ax = _plot("saliency at or above which a pixel is the concept", "IoU (%)")
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
    figure, ax = _plot("step", "cross-entropy to ReCo's masks")
    window = max(1, len(curve) // 15)
    smooth = curve.loss.rolling(window, min_periods=1, center=True).mean()
    ax.plot(curve.step, curve.loss, color=SKY, linewidth=0.7, label="a step")
    ax.plot(curve.step, smooth, color=BLUE, linewidth=2, label=f"mean of {window} steps")
    ax.set_ylim(bottom=0)
    ax.legend()
    return figure


# ---- parts ------------------------------------------------------------------------------------


def _plot(x: str, y: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(5.4, 3.2), layout="constrained")
    ax = figure.subplots()
    ax.set(xlabel=x, ylabel=y)
    return figure, ax


def _bare(ax: Axes) -> None:
    ax.set(xticks=[], yticks=[])
    ax.grid(False)
    for spine in ax.spines.values():
        spine.set_visible(False)


def _write(ax: Axes, x: float, y: float, text: str, **style: Any) -> None:
    """Write at a place given as shares (0..1) of the width and height of the axes."""
    ax.text(x, y, text, transform=ax.transAxes, **style)


def _blend(picture: np.ndarray, color: np.ndarray, alpha: np.ndarray | np.float64) -> np.ndarray:
    """Lay colours (0..1) over a uint8 picture with opacity `alpha`, (h, w, 1)."""
    return np.round(picture * (1 - alpha) + 255 * color * alpha).astype(np.uint8)
