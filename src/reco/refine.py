"""Refine: the dense CRF on one image, at the resolution that the config asks for.

Apart from the module that segments, so that the processes that do this load no model library.
"""

import numpy as np
import torch
from PIL import Image

from reco.config import CRF
from reco.crf import dense_crf


def use_one_thread() -> None:
    """Set up a process that refines: the processes share the cores, not the threads of each."""
    torch.set_num_threads(1)


def refine(image: np.ndarray, probabilities: np.ndarray, settings: CRF) -> np.ndarray:
    """The label of every pixel after a dense CRF.

    With `settings.size`, the mean field runs on the image scaled down to that longer side, its
    kernels' widths in pixels scaled alike, and the posteriors are scaled up bilinearly.

    Args:
        image: (H, W, 3) uint8 RGB.
        probabilities: (C, H, W) of any float type.

    Returns:
        (H, W) int64, index of the most probable class.
    """
    height, width = image.shape[:2]
    scale = min(1.0, (settings.size or max(height, width)) / max(height, width))
    small = (max(1, round(height * scale)), max(1, round(width * scale)))
    picture = Image.fromarray(image).resize(small[::-1], Image.Resampling.BOX)
    posterior = dense_crf(
        np.asarray(picture),
        scale_maps(probabilities.astype(np.float32), small),
        gaussian_sxy=settings.gaussian_sxy * scale,
        gaussian_compat=settings.gaussian_compat,
        bilateral_sxy=settings.bilateral_sxy * scale,
        bilateral_srgb=settings.bilateral_srgb,
        bilateral_compat=settings.bilateral_compat,
        iterations=settings.iterations,
    )
    return scale_maps(posterior, (height, width)).argmax(0)


def scale_maps(maps: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize (C, H, W) float32 maps: box filter when smaller, bilinear when larger."""
    if maps.shape[1:] == size:
        return maps
    smaller = size[0] < maps.shape[1]
    method = Image.Resampling.BOX if smaller else Image.Resampling.BILINEAR
    return np.stack([np.asarray(Image.fromarray(m).resize(size[::-1], method)) for m in maps])
