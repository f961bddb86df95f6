"""Background: the saliency below which a pixel is none of the concepts, found without a label.

The paper has no such threshold: its argmax gives every pixel some concept, and of one concept all
pixels. Photographs at hand are mostly something else.
"""

import numpy as np

QUANTILE = 0.95  # of saliency where the concept most likely is not
BETWEEN = 0.5  # where between there and its peaks in the archive the threshold lies
BANK_BETWEEN = 0.2  # the same for scores of a bank of seeds, whose extent the picture tells
PEAK = 0.99  # quantile of a picture's scores that counts as their peak
EXTENT = 0.65  # where between what other things reach and that peak the concept ends
RANGE = 2.0  # times `crf.bilateral_srgb`: ground that is none of the words is one thing to the CRF


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
    low, high = bounds(archive, others)
    return low + BETWEEN * (high - low)


def bounds(archive: np.ndarray, others: np.ndarray) -> tuple[float, float]:
    """What other things reach, and what a concept reaches where it is; see `threshold`."""
    low = float(np.quantile(others, QUANTILE))
    high = float(np.median(archive.reshape(len(archive), -1).max(axis=1)))
    return low, high


def extent(maps: np.ndarray, low: np.ndarray, least: np.ndarray) -> np.ndarray:
    """The score from which on a pixel of one picture is each concept.

    One threshold for all pictures floods those in which the concept is plain to see. So a concept
    ends at EXTENT of the way from `low` to its peak in this picture, and nowhere below `least`.

    Args:
        maps: (n, h, w) scores.
        low: (n,) what other things reach; see `bounds`.
        least: (n,) below it nothing is the concept in any picture.

    Returns:
        (n,) of the maps' type.
    """
    peak = np.quantile(maps.reshape(len(maps), -1), PEAK, axis=1)
    return np.maximum(low + EXTENT * (peak - low), least).astype(maps.dtype)
