"""Evaluate: score masks against ground truth, and archives against the labels of the index."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from reco.errors import RecoError
from reco.experiment import Method
from reco.folder import read_mask, read_table
from reco.metrics import ConfusionMatrix
from reco.progress import track

METRICS = (
    "method",
    "lgc",
    "ce",
    "crf",
    "archive_size",
    "split",
    "mean_iou",
    "pixel_accuracy",
    "mean_accuracy",
)
RETRIEVAL = ("concept", "k", "precision", "in_index")
PER_CLASS = (*METRICS[:6], "class", "iou", "accuracy", "pixels")


def score(
    masks: Path, root: Path, images: Sequence[dict[str, str]], classes: int, labels: int
) -> ConfusionMatrix:
    """Compare a folder of predicted masks with the ground truth of a split.

    The ground truth is resized (nearest) to the prediction, which has the size of the network's
    input: `sizes.benchmark` in the config.

    Args:
        masks: folder of predictions, a PNG per image, named like its mask.
        root: benchmark folder.
        images: rows with `mask` and `prediction`, paths below `root` and `masks`.
        classes: label ids of the benchmark.
        labels: label ids that may be predicted, at least `classes`.
    """
    matrix = ConfusionMatrix(labels)
    for row in images:
        truth = read_mask(root / row["mask"], classes)
        with Image.open(masks / row["prediction"]) as image:
            guess = np.asarray(image).astype(np.int64)
        if truth.shape != guess.shape:
            height, width = guess.shape
            resized = Image.fromarray(truth).resize((width, height), Image.Resampling.NEAREST)
            truth = np.asarray(resized)
        matrix.update(truth, guess)
    return matrix


def summarize(metrics: Sequence[dict[str, str]], best: Method) -> dict[str, dict[str, float]]:
    """The scores of DenseCLIP, of ReCo with all its parts and of ReCo+, by method.

    Names say nothing of settings (`reco_crf`), so that runs with other settings can be compared.

    Args:
        metrics: rows of metrics.csv.
        best: ReCo with all its parts.
    """
    whole = {"lgc": str(best.lgc), "ce": str(best.ce), "archive_size": str(best.archive_size)}
    found = {}
    for row in metrics:
        wanted = whole if row["method"] in ("reco", "reco_plus") else {"method": "denseclip"}
        if all(row[key] == value for key, value in wanted.items()):
            name = row["method"] + ("_crf" if row["crf"] == "True" else "")
            found[name] = {score: float(row[score]) for score in METRICS[6:]}
    return found


def mean_precision(
    rows: Sequence[tuple[object, ...]], sizes: Sequence[int]
) -> dict[str, dict[str, float]]:
    """Precision at the archive sizes, averaged over concepts; without rows, nothing.

    Args:
        rows: of retrieval.csv.
    """
    at = {k: [float(str(row[2])) for row in rows if row[1] == k] for k in sizes}
    means = {str(k): round(float(np.mean(values)), 6) for k, values in at.items() if values}
    return {"precision": means}


def evaluate(
    methods: Sequence[tuple[Method, Path]],
    root: Path,
    images: Path,
    classes: Sequence[str],
    labels: Sequence[str],
    split: str,
) -> tuple[list[tuple[object, ...]], list[tuple[object, ...]]]:
    """Score every method: rows of metrics.csv and of per_class.csv."""
    rows = read_table(images)
    if not all(row["mask"] for row in rows):
        raise RecoError(f"{images}: images without masks cannot be scored")
    metrics: list[tuple[object, ...]] = []
    per_class: list[tuple[object, ...]] = []
    for method, masks in track(methods, "evaluate", unit="method"):
        matrix = score(masks, root, rows, len(classes), len(labels))
        key = (method.method, method.lgc, method.ce, method.crf, method.archive_size, split)
        scores = (matrix.mean_iou, matrix.pixel_accuracy, matrix.mean_accuracy)
        metrics.append((*key, *(f"{value:.6f}" for value in scores)))
        pixels = matrix.counts.sum(1)
        for label, name in enumerate(labels):
            iou, accuracy = matrix.iou[label], matrix.accuracy[label]
            per_class.append((*key, name, f"{iou:.6f}", f"{accuracy:.6f}", pixels[label]))
    return metrics, per_class


def precision(
    archives: Sequence[tuple[str, Path]], labels: Path, sizes: Sequence[int]
) -> list[tuple[str, int, str, int]]:
    """Precision at k of retrieval: the share of the first k images that show the concept.

    Args:
        archives: (concept name, archive CSV).
        labels: CSV with columns path and concepts (';' between several).
        sizes: the values of k.

    Returns:
        (concept, k, precision, number of index images that show it) for every concept that the
        labels know.
    """
    shown = {row["path"]: set(row["concepts"].split(";")) for row in read_table(labels)}
    everything = [name for names in shown.values() for name in names]
    rows = []
    for name, archive in archives:
        total = everything.count(name)
        if not total:
            continue
        hits = [name in shown.get(row["path"], ()) for row in read_table(archive)]
        rows += [(name, k, f"{np.mean(hits[:k]):.4f}", total) for k in sizes if k <= len(hits)]
    return rows
