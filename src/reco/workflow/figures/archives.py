"""Archives: the first images of concepts, with the support and the seeds of co-segmentation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill
from typing import Any

import click
import numpy as np
import pandas as pd
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from PIL import Image

from reco.data.colours import BLUE, VERMILION
from reco.data.geometry import square
from reco.data.images import read_image
from reco.data.tables import read_table
from reco.errors import RecoError
from reco.experiment import Experiment
from reco.files import read_tensors
from reco.options import CONFIG, FILES, RETRIEVAL_TABLE, RUN, open_experiment
from reco.revision import uncommitted
from reco.workflow.catalog import read_index_labels
from reco.workflow.figures.style import OUTLINE, STYLE, bare, blend, spread, write_figure, write_on

COLUMNS = 8  # images in a row: all that is shown of each of several concepts

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
        for i, ax in enumerate(line, start):
            bare(ax)
            if i < len(archive.pictures):
                support = (archive.support[i] - low) / max(high - low, 1e-9)
                _archive_image(ax, archive, i, support.clip(0, 1))
                ax.set_title(f"{i + 1}", fontsize=6, pad=1.5, color="#555555")
        if start == 0:
            label = "\n".join(filter(None, [fill(archive.name, 14), archive.note]))
            line[0].set_ylabel(label, rotation=0, ha="right", va="center", labelpad=6)
    _archive_legend(figure, axes, known=any(s is not None for a in archives for s in a.shown))
    return figure


def _archive_image(ax: Axes, archive: Archive, i: int, support: np.ndarray) -> None:
    picture, (height, width) = archive.pictures[i], support.shape
    side = len(picture)
    smooth = Image.fromarray(support.astype(np.float32)).resize(
        (side, side), Image.Resampling.BILINEAR
    )
    heat = HEAT(np.asarray(smooth))
    # Half of the colour goes, so that the heat map has it.
    pale = blend(picture, picture.mean(2, keepdims=True) / 255, np.float64(0.5))
    ax.imshow(blend(pale, heat[..., :3], heat[..., 3:]), interpolation="lanczos")
    row, column = (archive.seeds[i] + 0.5) * side / np.array([height, width])
    ax.plot(column, row, **SEED)
    if archive.shown[i] is not None:
        mark, colour = ("✓", BLUE) if archive.shown[i] else ("✗", VERMILION)
        style = {"color": colour, "fontsize": 6.5, "fontweight": "bold", "bbox": OUTLINE}
        write_on(ax, 0.03, 0.965, mark, ha="left", va="top", **style)


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
    for text, colour in zip(legend.get_texts()[1:], [BLUE, VERMILION], strict=False):
        text.set_color(colour)


@click.command()
@CONFIG
@RETRIEVAL_TABLE
@click.option("--concept", "slug", help="Slug of one concept; else several are chosen.")
@click.option("--count", type=click.IntRange(1), default=6, show_default=True, help="Concepts.")
@RUN
@FILES
def archives(
    config_file: Path,
    retrieval: Path,
    slug: str | None,
    count: int,
    run: Path,
    files: tuple[Path, ...],
) -> None:
    """Archives with support and seeds: of several concepts, or all images of one."""
    experiment = open_experiment(config_file)
    if slug and slug not in experiment.concepts:
        raise RecoError(
            f"--concept {slug}: no such concept; known: {' '.join(experiment.concepts)}"
        )
    k = experiment.config.archive_size
    precision = precision_at(pd.read_csv(retrieval), k)
    slugs = [slug] if slug else choose_archives(experiment, precision, count)
    images = k if slug else COLUMNS
    shown = [read_archive(experiment, name, precision, images) for name in slugs]
    write_figure(archives_figure(shown, COLUMNS), *files, remark=uncommitted(run))
