"""Preprocessing: pictures as networks take them."""

import numpy as np
from PIL import Image

from reco.data.images import middle
from reco.models import Statistics

Values = tuple[float, ...]  # one for each of red, green and blue

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Normalised:
    """`preprocess` of a backend: resized, cut, then normalised as (value / 255 - mean) / std."""

    size: int
    mean: Values
    std: Values

    def preprocess(
        self, image: Image.Image, size: int | None = None, *, crop: bool = True
    ) -> np.ndarray:
        """See `reco.models.Backend.preprocess`; bicubic, antialiased, to torchvision's sizes."""
        size = size or (self.size if crop else None)
        image = image.convert("RGB")
        if crop:
            image = middle(image)
        shorter = min(image.size)
        if size is not None and shorter != size:
            width, height = (int(size * side / shorter) for side in image.size)
            image = image.resize((width, height), Image.Resampling.BICUBIC)
        if crop:
            side = min(image.size)
            left, top = (round((length - side) / 2) for length in image.size)
            image = image.crop((left, top, left + side, top + side))
        values = np.asarray(image, np.float32).transpose(2, 0, 1) / np.float32(255)
        mean, std = (np.array(v, np.float32)[:, None, None] for v in (self.mean, self.std))
        return np.ascontiguousarray((values - mean) / std)


def pixel_statistics(wanted: Statistics, mean: Values, std: Values) -> tuple[Values, Values]:
    """A network's own mean and standard deviation, or ImageNet's where those are wanted."""
    return (IMAGENET_MEAN, IMAGENET_STD) if wanted == "imagenet" else (mean, std)
