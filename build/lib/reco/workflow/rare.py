"""Rare: one concept against background, by a threshold on its saliency (the paper's FireNet study).

The argmax over concepts says nothing where there is one. The paper does not state its threshold, so
the IoU is given at every one, and two are named: Otsu's, which is found in the saliency of the
images themselves and reads no label, and the best, which reads them and is an upper bound.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from reco.data.tables import read_table
from reco.errors import RecoError
from reco.experiment import Experiment
from reco.method.segment import predict
from reco.method.variants import Method
from reco.progress import track
from reco.workflow.segment import as_views, read_knowledge
from reco.workflow.views import see

BINS = 1000
THRESHOLDS = np.arange(BINS) / BINS  # lower edges: at or above is the concept
RARE = ("method", "threshold", "iou")


@dataclass(frozen=True)
class Histogram:
    """How often a saliency in [i, i + 1) / BINS met the concept and the background.

    Attributes:
        concept, background: (BINS,) numbers of pixels.
    """

    concept: np.ndarray
    background: np.ndarray

    @property
    def iou(self) -> np.ndarray:
        """(BINS,) IoU of the concept where saliency at or above each of THRESHOLDS predicts it."""
        hit, false = (values[::-1].cumsum()[::-1] for values in (self.concept, self.background))
        union = self.concept.sum() + false
        return np.divide(hit, union, out=np.full(BINS, np.nan), where=union > 0)

    @property
    def otsu(self) -> int:
        """Index in THRESHOLDS that parts the pixels best by variance (Otsu 1979); no label read."""
        counts = self.concept + self.background
        values = (np.arange(BINS) + 0.5) / BINS
        below = np.concatenate([[0], counts.cumsum()[:-1]])
        above = counts.sum() - below
        moment = np.concatenate([[0], (counts * values).cumsum()[:-1]])
        rest = (counts * values).sum() - moment
        with np.errstate(divide="ignore", invalid="ignore"):
            between = below * above * (moment / below - rest / above) ** 2
        return int(np.nan_to_num(between, nan=-1).argmax())


def rare(
    experiment: Experiment, images: Path, features: Path | None = None
) -> dict[str, Histogram]:
    """Histograms of DenseCLIP, of the reference embedding alone, and of ReCo, by method.

    Args:
        images: CSV of `reco catalog-split`; masks with label ids 0 (background) and 1.
        features: CSV of `reco embed-split`; None = no features were kept.

    Raises:
        RecoError: not exactly one concept.
    """
    if len(experiment.targets) != 1:
        raise RecoError("concepts: this benchmark scores one concept against background: name one")
    split = experiment.split("val")
    methods = _methods(experiment)
    knowledge = read_knowledge(experiment, methods)
    counts = {method.kind: np.zeros((2, BINS), np.int64) for method in methods}
    rows = read_table(images)
    seen = as_views(see(experiment, "val", rows, [split.geometry.size], features))
    for row, (_, picture, views) in track(
        zip(rows, seen, strict=True), "score the concept", total=len(rows)
    ):
        truth = split.truth(row)
        size = (picture.shape[0], picture.shape[1])
        for _, method, map_ in predict(*views[min(size)], knowledge, methods, size):
            bins = np.minimum((map_[0] * BINS).astype(int), BINS - 1)
            for label in (0, 1):
                found = np.bincount(bins[truth == label], minlength=BINS)
                counts[method.kind][label] += found
    return {name: Histogram(both[1], both[0]) for name, both in counts.items()}


def _methods(experiment: Experiment) -> list[Method]:
    best = experiment.paper
    return [
        Method("denseclip", False, False, False, 0),
        *(replace(best, kind=name, crf=False) for name in ("reference", "reco")),
    ]


def table(found: dict[str, Histogram]) -> list[tuple[str, str, str]]:
    """Rows of rare.csv (method, threshold, IoU)."""
    return [
        (name, f"{threshold:.3f}", f"{iou:.6f}")
        for name, histogram in found.items()
        for threshold, iou in zip(THRESHOLDS, histogram.iou, strict=True)
    ]


def summarise(found: dict[str, Histogram]) -> dict[str, dict[str, dict[str, float]]]:
    """The IoU at Otsu's threshold and at the best one, by method."""

    def at(histogram: Histogram, i: int) -> dict[str, float]:
        iou = round(float(histogram.iou[i]), 6)
        return {"threshold": float(THRESHOLDS[i]), "iou": iou}

    return {
        name: {
            "otsu": at(histogram, histogram.otsu),
            "best_by_labels": at(histogram, int(np.nanargmax(histogram.iou))),
        }
        for name, histogram in found.items()
    }
