"""Geometry: which pixels of a picture are segmented and scored, and how they are resized.

Two presets, `geometry` in the config. `whole`: all of them, resized with antialias. `released`:
what the published code does, which differs between the benchmarks: the shorter side to 320 and a
centre crop, by the nearest pixel on Cityscapes and COCO-Stuff, bilinear on PASCAL-Context;
KITTI-STEP as it is. (On Cityscapes that is the middle half of the street, in jagged pictures.)
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps

from reco.config import Config
from reco.data.images import middle
from reco.errors import RecoError

NEAREST, BILINEAR, BICUBIC = (
    Image.Resampling.NEAREST,
    Image.Resampling.BILINEAR,
    Image.Resampling.BICUBIC,
)
LARGEST = 1 << 25  # pixels of a resized picture


@dataclass(frozen=True)
class Geometry:
    """A way from a picture, or its labels, to what is segmented and scored.

    Attributes:
        size: pixels of the shorter side; None = as it is.
        crop: whether the centre square is cut out afterwards.
        resample: how pictures are resized; labels always by the nearest pixel.
    """

    size: int | None
    crop: bool = False
    resample: Image.Resampling = BICUBIC

    def picture(self, image: Image.Image) -> Image.Image:
        """The part of a picture that counts, resized.

        Raises:
            RecoError: it is so long a strip that it would not fit in memory; see `scaled`.
        """
        return self._cut(image, self.resample)

    def scaled(self, size: tuple[int, int]) -> tuple[int, int]:
        """Width and height to which a picture of this width and height is resized.

        Raises:
            RecoError: that is more than LARGEST pixels, of a strip.
        """
        if self.size is None:
            return size
        # torchvision, and so the released code, cuts fractions off
        whole, shorter = int if self.crop else round, min(size)
        width, height = (max(1, whole(self.size * side / shorter)) for side in size)
        if width * height > LARGEST:
            raise RecoError(
                f"{size[0]}x{size[1]} pixels: would become {width}x{height}: cut or leave it out"
            )
        return width, height

    def labels(self, labels: np.ndarray) -> np.ndarray:
        """(h, w) int32: the part that counts of (h, w) integer labels, by the nearest pixel."""
        return np.asarray(self._cut(Image.fromarray(labels.astype(np.int32)), NEAREST))

    def _cut(self, image: Image.Image, resample: Image.Resampling) -> Image.Image:
        if self.crop:
            image = middle(image)
        wanted = self.scaled(image.size)
        image = image if wanted == image.size else image.resize(wanted, resample)
        if self.crop:
            side = min(image.size)
            left, top = (round((length - side) / 2) for length in image.size)
            image = image.crop((left, top, left + side, top + side))
        return image


def square(picture: Image.Image, size: int) -> np.ndarray:
    """(size, size, 3) uint8: what the networks see of an archive image, to show it."""
    return np.asarray(ImageOps.fit(picture, (size, size), BICUBIC))


def archive_geometry(config: Config) -> Geometry | None:
    """The geometry of archive images: the network's own (None), or the released code's.

    The two differ in the filter alone: bicubic or bilinear, shorter side, centre crop.
    """
    released = config.geometry == "released"
    return Geometry(config.sizes.archive, crop=True, resample=BILINEAR) if released else None


def choose_geometry(config: Config) -> Geometry:
    """The geometry of an experiment's benchmark images.

    Raises:
        RecoError: `released` for a benchmark that the published code does not know.
    """
    size, kind = config.sizes.benchmark, config.benchmark.kind if config.benchmark else "none"
    if config.geometry == "whole":
        return Geometry(size)
    if kind in ("cityscapes", "coco_stuff"):
        return Geometry(size, crop=True, resample=NEAREST)
    if kind == "pascal_context":
        return Geometry(size, crop=True, resample=BILINEAR)
    if kind == "kitti_step":
        return Geometry(None)
    raise RecoError(
        f"geometry: the released code has none for the benchmark {kind!r}: write geometry: whole"
    )
