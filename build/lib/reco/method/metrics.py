"""Segmentation scores from one confusion matrix of all images together."""

import numpy as np

IGNORE = -1  # in place of a label id: a pixel that is neither learned from nor scored


class ConfusionMatrix:
    """Counts of (ground truth, prediction) pixel pairs over `n` classes.

    `counts` is (n, n) int64, rows ground truth, columns prediction. Pixels whose label is outside
    0..n-1 (the ignore values -1, 255, 65535) drop out. With t the diagonal, g the row sums and p
    the column sums: pixel accuracy sum t / sum g, class accuracy t / g, IoU t / (g + p - t). A
    class in neither ground truth nor predictions is nan and left out of means; a class that is
    predicted but not in the ground truth counts with IoU 0, as in the released evaluation.
    """

    def __init__(self, n: int) -> None:
        self.counts = np.zeros((n, n), dtype=np.int64)

    def update(self, labels: np.ndarray, predictions: np.ndarray) -> None:
        """Add one image or batch: integer arrays of equal shape.

        Raises:
            ValueError: shapes differ, or a prediction at a labelled pixel is outside 0..n-1.
        """
        labels, predictions = np.asarray(labels), np.asarray(predictions)
        if labels.shape != predictions.shape:
            raise ValueError(f"labels {labels.shape} and predictions {predictions.shape} differ")
        n = len(self.counts)
        valid = (labels >= 0) & (labels < n)
        truth = labels[valid].astype(np.int64)
        guess = predictions[valid].astype(np.int64)
        if guess.size and (guess.min() < 0 or guess.max() >= n):
            raise ValueError(f"predictions span {guess.min()}..{guess.max()}, classes 0..{n - 1}")
        self.counts += np.bincount(n * truth + guess, minlength=n * n).reshape(n, n)

    @property
    def pixel_accuracy(self) -> float:
        """Share of labelled pixels that are predicted right."""
        with np.errstate(invalid="ignore"):
            return float(np.trace(self.counts) / np.float64(self.counts.sum()))

    @property
    def accuracy(self) -> np.ndarray:
        """Share of each class's pixels that are predicted right: (n,), nan where there are none."""
        with np.errstate(invalid="ignore"):
            return np.diag(self.counts) / self.counts.sum(1)

    @property
    def mean_accuracy(self) -> float:
        """Mean of `accuracy` over the classes of the ground truth."""
        return _nanmean(self.accuracy)

    @property
    def iou(self) -> np.ndarray:
        """Intersection over union of each class: (n,), nan where the class does not occur."""
        hits = np.diag(self.counts)
        with np.errstate(invalid="ignore"):
            return hits / (self.counts.sum(0) + self.counts.sum(1) - hits)

    @property
    def mean_iou(self) -> float:
        """Mean of `iou` over the classes that occur."""
        return _nanmean(self.iou)


def _nanmean(values: np.ndarray) -> float:
    finite = values[~np.isnan(values)]
    return float(finite.mean()) if finite.size else float("nan")
