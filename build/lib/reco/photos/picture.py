"""Picture: a photograph as people give it, and as networks see it."""

from pathlib import Path

import numpy as np
from PIL import Image

from reco.data.geometry import Geometry
from reco.data.images import read_image, to_rgb
from reco.errors import RecoError

ASPECT = 4  # longer side of what the networks see, in shorter sides: a photograph's is at most 3
Picture = Image.Image | np.ndarray | str | Path


def as_picture(image: Picture) -> Image.Image:
    """Upright 8-bit RGB of whatever is a picture.

    Raises:
        RecoError: a file that is no image, an array of another shape or type, or no picture at all.
    """
    if isinstance(image, str | Path):
        return read_image(image)
    if isinstance(image, np.ndarray):
        if image.ndim not in (2, 3) or 0 in image.shape or image.shape[2:] not in [(), (3,), (4,)]:
            raise RecoError(f"an array of shape {image.shape} is no picture: give (h, w, 3)")
        if image.dtype.kind != "u" or image.dtype.itemsize > 2:
            raise RecoError(
                f"an array of {image.dtype} is no picture: give uint8 (0 to 255) or uint16 (0 to "
                "65535), as with image.astype(np.uint8)"
            )
        image = Image.fromarray(image if image.itemsize == 1 else (image >> 8).astype(np.uint8))
    if not isinstance(image, Image.Image):
        raise RecoError(
            f"{type(image).__name__} is no picture: give a path, an array or a picture of Pillow"
        )
    try:
        return to_rgb(image)
    except ValueError as error:
        raise RecoError(f"this picture: {error}") from None


def fit(picture: Image.Image, size: int | None) -> Image.Image:
    """A photograph at the size at which networks see it: its shorter side, but no long strip."""
    shorter, longer = sorted(picture.size)
    size = size or shorter
    if longer <= ASPECT * shorter:
        return Geometry(size).picture(picture)
    scale = ASPECT * size / longer
    sides = [max(32, round(side * scale)) for side in picture.size]
    return picture.resize((sides[0], sides[1]), Image.Resampling.BICUBIC)
