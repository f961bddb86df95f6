"""A split of a benchmark: its images, ground truth and predictions, at the size they count."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from reco.data.benchmarks import Reader
from reco.data.geometry import Geometry
from reco.data.images import read_image, read_values
from reco.errors import RecoError

Row = Mapping[str, str]
"""Of the list of a split: image, mask (may be empty), prediction, paths below `root` and masks."""


@dataclass(frozen=True)
class Split:
    """Where the images of a split are, what its labels mean, and which pixels count.

    Attributes:
        reader: of the dataset.
        root: its folder.
        name: of the split, as the dataset has it.
        geometry: of everything that is segmented and scored.
    """

    reader: Reader
    root: Path
    name: str
    geometry: Geometry

    def picture(self, row: Row) -> Image.Image:
        """RGB picture of an image.

        Raises:
            RecoError: it cannot be read.
        """
        return self.geometry.picture(read_image(self.root / row["image"]))

    def truth(self, row: Row) -> np.ndarray:
        """(h, w) int32: label ids of the ground truth, IGNORE = -1, in the size of the picture."""
        return self.geometry.labels(self.reader.read_mask(self.root / row["mask"]))

    def guess(self, masks: Path, row: Row) -> np.ndarray:
        """(h, w) int32: label ids of a predicted mask, merged where the benchmark merges.

        Raises:
            RecoError: no such mask.
        """
        try:
            labels = read_values(masks / row["prediction"])[1].astype(np.int32)
        except RecoError as error:
            raise RecoError(f"{error}: segment again") from None
        merge = self.reader.merge
        return labels if merge is None else merge[labels].astype(np.int32)
