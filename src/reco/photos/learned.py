"""Learned: what is known of a word."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from reco.concepts import Concept


@dataclass(frozen=True)
class Archived:
    """An image of a concept's archive.

    Attributes:
        path: of the file.
        similarity: of image and text, a cosine.
        seed: (row, column) of its seed, as shares of the height and width of its centre square.
        support: (h, w) how well each part of that square matches the other images.
    """

    path: Path
    similarity: float
    seed: tuple[float, float]
    support: np.ndarray


@dataclass(frozen=True)
class Learned:
    """What is known of a concept.

    Attributes:
        concept: as it was asked for.
        mark: fingerprint of all that its masks depend on, the index included.
        references: what the recipe compares with: the reference embedding (c,) by the key 0, or
            the prototypes (n, c) of every scale of the bank.
        text: (d,) text embedding of dense saliency.
        archive: the images that it was learned from, the nearest first.
        threshold: saliency, or score of a bank, below which a pixel is background in any
            photograph; see `reco.method.background`.
        low: what other things reach.
        doubt: what speaks against the archive; "" = nothing; see `reco.method.doubt`.
        unlike: images drawn from the index that are unlike the concept, the least alike first.
    """

    concept: Concept
    mark: str
    references: dict[int, Tensor]
    text: Tensor
    archive: tuple[Archived, ...]
    threshold: float
    low: float
    doubt: str
    unlike: tuple[Path, ...] = ()
