"""Predictions: images beside their ground truth and what several methods make of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from textwrap import fill

import click
import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Patch
from scipy.ndimage import binary_dilation

from reco.data.colours import GREY, PALETTE
from reco.data.split import Row, Split
from reco.data.tables import read_table
from reco.experiment import Experiment
from reco.method.metrics import IGNORE
from reco.method.variants import Method
from reco.options import CONFIG, FILES, PLUS, RUN, ZERO_SHOT, images_option, open_experiment
from reco.progress import track
from reco.revision import uncommitted
from reco.workflow.figures.style import OUTLINE, STYLE, bare, blend, spread, write_figure, write_on
from reco.workflow.tables.names import method_name


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


def mask_folders(methods: Sequence[Method], zero_shot: Path, plus: Path | None) -> list[Path]:
    """Folders of the masks of these methods; without `plus`, none of ReCo+.

    Args:
        zero_shot, plus: where the masks of `reco segment-split` and of `reco segment-plus` are.
    """
    roots = {method: plus if method.kind == "reco_plus" else zero_shot for method in methods}
    return [root / method.slug for method, root in roots.items() if root]


def column_names(methods: Sequence[Method]) -> list[str]:
    """Names of methods side by side; ReCo's recipe is named where there is more than one."""
    recos = [method for method in methods if method.kind == "reco"]
    named = recos if len({method.recipe for method in recos}) > 1 else []
    return [
        method_name(method.kind, method.crf, method.recipe if method in named else "")
        for method in methods
    ]


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
        bare(ax)
    colours = row_colours(prediction)
    axes[0].imshow(prediction.picture)
    for ax, guess in zip(axes[1:], [prediction.truth, *prediction.guesses], strict=False):
        ax.imshow(overlay(prediction.picture, guess, prediction.truth >= 0, colours))
    for ax, accuracy in zip(axes[2:], prediction.accuracies, strict=False):
        note = "not scored" if np.isnan(accuracy) else f"{accuracy:.0%} right"
        write_on(ax, 0.025, 0.025, note, ha="left", va="bottom", bbox=OUTLINE, fontsize=6.5)
    true = set(np.unique(prediction.truth))
    names = [(labels[label], colour, label in true) for label, colour in colours.items()]
    handles = [Patch(color=colour, label=fill(name, 18)) for name, colour, _ in names]
    if np.setdiff1d(prediction.guesses, list(colours)).size:
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


def row_colours(prediction: Prediction) -> dict[int, str]:
    """Colours of the labels that matter in an image: of the ground truth first, then predicted.

    Larger areas first, counted where the image is scored; labels beyond the palette get none.
    """
    scored = prediction.truth >= 0
    counted = scored if scored.any() else np.ones_like(scored)
    groups = [prediction.truth[counted], np.concatenate([g[counted] for g in prediction.guesses])]
    ordered: dict[int, None] = {}
    for group in groups:
        ids, areas = np.unique(group[group >= 0], return_counts=True)
        ordered |= dict.fromkeys(ids[np.argsort(-areas, kind="stable")].tolist())
    return dict(zip(ordered, PALETTE, strict=False))


def overlay(
    picture: np.ndarray, guess: np.ndarray, scored: np.ndarray, colours: Mapping[int, str]
) -> np.ndarray:
    """Labels in colour over a picture that is pale where nothing is scored.

    Args:
        picture: (h, w, 3) uint8.
        guess: (h, w) label ids; -1 is left without colour.
        scored: (h, w) bool; the border of this region is drawn in black.
        colours: of label ids; others are grey.

    Returns:
        (h, w, 3) uint8.
    """
    inside = scored[..., None]
    paint = np.full(picture.shape, to_rgb(GREY))
    for label, colour in colours.items():
        paint[guess == label] = to_rgb(colour)
    pale = blend(picture, np.ones(3), np.where(inside, 0.0, 0.6))
    painted = blend(pale, paint, np.where(inside, 0.7, 0.25) * (guess != IGNORE)[..., None])
    border = binary_dilation(scored) & ~scored
    return np.where(border[..., None], np.uint8(0), painted)


@click.command()
@CONFIG
@images_option("images of the val split")
@ZERO_SHOT
@PLUS
@click.option("--count", type=click.IntRange(1), default=6, show_default=True, help="Images.")
@RUN
@FILES
def predictions(
    config_file: Path,
    images: Path,
    zero_shot: Path,
    plus: Path | None,
    count: int,
    run: Path,
    files: tuple[Path, ...],
) -> None:
    """Predictions beside the ground truth, from the best image to the worst."""
    experiment = open_experiment(config_file)
    methods = prediction_methods(experiment)
    folders = mask_folders(methods, zero_shot, plus)
    chosen = choose_predictions(experiment.split("val"), read_table(images), folders, count)
    drawn = predictions_figure(chosen, column_names(methods), experiment.scored)
    write_figure(drawn, *files, remark=uncommitted(run))
