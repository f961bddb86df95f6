"""Refine: the dense CRF on one image, at the resolution that the config asks for.

Apart from the module that segments, so that the processes that do this load no model library.
"""

import os
from collections.abc import Sequence
from multiprocessing import parent_process
from multiprocessing.process import BaseProcess
from threading import Thread

import numpy as np
from PIL import Image

from reco.config import CRF
from reco.method.crf import dense_crf
from reco.method.maps import area_means, resize

BAND = 1 << 20  # pixels that are looked at together


def end_with_parent() -> None:
    """Set up a process that refines: it ends with the process that started it, which, killed, would
    leave it waiting for ever."""
    if parent := parent_process():
        Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: BaseProcess) -> None:
    parent.join()
    os._exit(1)


def shrink(probabilities: np.ndarray, longest: int | None) -> np.ndarray:
    """Scale (C, H, W) probabilities down to `longest` pixels on the longer side, by area means.

    None, or an image that is smaller already, leaves them as they are.
    """
    height, width = probabilities.shape[1:]
    scale = (longest or max(height, width)) / max(height, width)
    if scale >= 1:
        return probabilities
    return area_means(probabilities, (max(1, round(height * scale)), max(1, round(width * scale))))


def refine(image: np.ndarray, probabilities: np.ndarray, settings: CRF) -> np.ndarray:
    """The label of every pixel of an image after a dense CRF, posteriors scaled up bilinearly.

    Args:
        image: (H, W, 3) uint8 RGB.
        probabilities: (C, h, w) float32, of the image's shape or of a smaller one.

    Returns:
        (H, W) int64, index of the most probable class.
    """
    posteriors, size = mean_field(image, probabilities, settings), image.shape[:2]
    maps = posteriors if posteriors.shape[1:] == size else resize(posteriors, size)
    return maps.argmax(0)


def mean_field(image: np.ndarray, probabilities: np.ndarray, settings: CRF) -> np.ndarray:
    """Posteriors (C, h, w) of a dense CRF at the size of the probabilities; see `shrink`.

    The widths of its kernels in pixels, which are those of the image, are scaled alike.
    """
    height, width = image.shape[:2]
    small = probabilities.shape[1:]
    scale = max(small) / max(height, width)
    return dense_crf(
        np.asarray(Image.fromarray(image).resize(small[::-1], Image.Resampling.BOX)),
        probabilities,
        gaussian_sxy=settings.gaussian_sxy * scale,
        gaussian_compat=settings.gaussian_compat,
        bilateral_sxy=settings.bilateral_sxy * scale,
        bilateral_srgb=settings.bilateral_srgb,
        bilateral_compat=settings.bilateral_compat,
        iterations=settings.iterations,
        tolerance=settings.tolerance,
    )


def largest(maps: np.ndarray, size: tuple[int, int], labels: Sequence[int]) -> np.ndarray:
    """(H, W) int32: at every pixel the label of the largest map; of equal ones the first.

    They are resized (bilinear) one at a time and some rows at a time, so that a large photograph
    and many concepts need little more memory than the result.

    Args:
        maps: (C, h, w).
        size: (H, W).
        labels: one for each map.
    """
    height, width = size
    known = np.array(labels, np.int32)
    found = np.empty(size, np.int32)
    tall = resize(maps, (height, maps.shape[2]))
    rows = max(1, BAND // width)
    for top in range(0, height, rows):
        band = tall[:, top : top + rows]
        best = np.full((band.shape[1], width), -np.inf, np.float32)
        which = np.zeros(best.shape, np.int32)
        for i, map_ in enumerate(band):
            wide = resize(map_, best.shape)
            which[wide > best] = i
            np.maximum(best, wide, out=best)
        found[top : top + rows] = known[which]
    return found
