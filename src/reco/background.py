"""Background: the saliency below which a pixel is none of the concepts, found without a label.

The paper has no such threshold: its argmax gives every pixel some concept, and of one concept all
pixels. Photographs at hand are mostly something else.
"""

import numpy as np

QUANTILE = 0.95  # of saliency where the concept most likely is not
BETWEEN = 0.5  # where between there and its peaks in the archive the threshold lies


def threshold(archive: np.ndarray, others: np.ndarray) -> float:
    """Half-way between what is not the concept, most likely, and what is.

    Args:
        archive: (n, positions) saliency of the concept in the images of its archive: the median of
            their peaks is what it reaches where it is.
        others: saliency in images of the index that are unlike it: the 95th percentile is what
            other things reach.

    Returns:
        a saliency; at or above it a pixel may be the concept.
    """
    low = float(np.quantile(others, QUANTILE))
    high = float(np.median(archive.reshape(len(archive), -1).max(axis=1)))
    return low + BETWEEN * (high - low)
