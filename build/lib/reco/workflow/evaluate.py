"""Evaluate: score masks against ground truth, and archives against the labels of the index."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from reco.data.split import Row, Split
from reco.data.tables import read_table
from reco.errors import RecoError
from reco.method.metrics import ConfusionMatrix
from reco.method.variants import Method
from reco.progress import track
from reco.workflow.catalog import read_index_labels

# Columns: what tells one `Method` of a kind from another, one way of finding concepts, scores.
PARTS = ("recipe", "lgc", "ce", "crf", "archive_size")
WAY = ("recipe", "lgc", "ce", "archive_size")
SCORES = ("mean_iou", "pixel_accuracy", "mean_accuracy")
METRICS = ("method", *PARTS, "split", *SCORES)
PER_CLASS = ("method", *PARTS, "split", "class", "iou", "accuracy", "pixels")
RETRIEVAL = ("concept", "k", "precision", "in_index")


def score(masks: Path, split: Split, images: Sequence[Row], labels: int) -> ConfusionMatrix:
    """Compare a folder of predicted masks with the ground truth of a split.

    Both are compared at the size of the prediction, which the split's geometry gives.

    Args:
        masks: folder of predictions, a PNG per image.
        images: the list of the split.
        labels: label ids that are scored, the benchmark's and those of further concepts.

    Raises:
        RecoError: a prediction is missing or has another size.
    """
    matrix = ConfusionMatrix(labels)
    for row in images:
        truth, guess = split.truth(row), split.guess(masks, row)
        if truth.shape != guess.shape:
            raise RecoError(
                f"{masks / row['prediction']}: {guess.shape} pixels, the ground truth has "
                f"{truth.shape}: segment again"
            )
        matrix.update(truth, guess)
    return matrix


def summarise(
    metrics: Sequence[dict[str, str]], best: Method, paper: Method
) -> dict[str, dict[str, float]]:
    """The scores of DenseCLIP, of ReCo with all its parts and of ReCo+, by method.

    Names say nothing of settings (`reco_crf`), so that runs with other settings can be compared.

    Args:
        metrics: rows of metrics.csv.
        best: ReCo with all its parts.
        paper: the paper's, which is named `reco_paper` where it is another.
    """
    found = {}
    for row in metrics:
        name = row["method"]
        if name == "denseclip" or (name in ("reco", "reco_plus") and _is_way(row, best)):
            pass
        elif name == "reco" and _is_way(row, paper):
            name = "reco_paper"
        else:
            continue
        name += "_crf" if row["crf"] == "True" else ""
        found[name] = {score: float(row[score]) for score in SCORES}
    return found


def _is_way(row: dict[str, str], method: Method) -> bool:
    """Whether a row of metrics.csv is of a method's recipe and parts, with or without a CRF."""
    return all(row[key] == str(getattr(method, key)) for key in WAY)


def mean_precision(
    rows: Sequence[tuple[object, ...]], sizes: Sequence[int]
) -> dict[str, dict[str, float]]:
    """Precision at the archive sizes, averaged over concepts; without rows, nothing.

    Args:
        rows: of retrieval.csv.
    """
    at = {k: [float(str(share)) for _, size, share, _ in rows if size == k] for k in sizes}
    means = {str(k): round(float(np.mean(values)), 6) for k, values in at.items() if values}
    return {"precision": means}


def evaluate(
    methods: Sequence[tuple[Method, Path]], split: Split, images: Path, names: Sequence[str]
) -> tuple[list[tuple[object, ...]], list[tuple[object, ...]]]:
    """Score every method: rows of metrics.csv and of per_class.csv.

    Args:
        methods: with the folder of their masks.
        images: CSV of `reco catalog-split`.
        names: of the label ids that are scored.
    """
    rows = read_table(images)
    if not all(row["mask"] for row in rows):
        raise RecoError(f"{images}: images without masks cannot be scored")
    metrics: list[tuple[object, ...]] = []
    per_class: list[tuple[object, ...]] = []
    for method, masks in track(methods, "evaluate", unit="method"):
        matrix = score(masks, split, rows, len(names))
        key = (method.kind, *(getattr(method, name) for name in PARTS), split.name)
        scores = (getattr(matrix, name) for name in SCORES)
        metrics.append((*key, *(f"{value:.6f}" for value in scores)))
        pixels = matrix.counts.sum(1)
        for label, name in enumerate(names):
            iou, accuracy = matrix.iou[label], matrix.accuracy[label]
            per_class.append((*key, name, f"{iou:.6f}", f"{accuracy:.6f}", pixels[label]))
    return metrics, per_class


def precision(
    archives: Sequence[tuple[str, Path]], labels: Path, sizes: Sequence[int]
) -> list[tuple[str, int, str, int]]:
    """Precision at k of retrieval: the share of the first k images that show the concept.

    Args:
        archives: (concept name, archive CSV).
        labels: see `read_index_labels`.
        sizes: the values of k.

    Returns:
        (concept, k, precision, number of index images that show it) for every concept that the
        labels know.
    """
    shown = read_index_labels(labels)
    everything = [name for names in shown.values() for name in names]
    rows = []
    for name, archive in archives:
        known = name.casefold()
        total = everything.count(known)
        if not total:
            continue
        hits = [known in shown.get(row["path"], ()) for row in read_table(archive)]
        rows += [(name, k, f"{np.mean(hits[:k]):.4f}", total) for k in sizes if k <= len(hits)]
    return rows
