"""Bank: the seeds of an archive, kept apart and compared in whitened space (docs/recipe.md).

The paper merges the seeds of an archive into one reference embedding. A mean of many things lies
near all of them and far from each, and a few loud channels decide what is near. The recipe
`seedbank` keeps one prototype of every archive image, in a space in which no direction of the
index's features is louder than another. NumPy only: a job per concept must start in no time.
"""

from dataclasses import dataclass, replace

import numpy as np

from reco.errors import RecoError
from reco.files import MAKE_AGAIN
from reco.method.cosegment import exact_support
from reco.method.maps import area_means, normalise

SHRINK = 0.2  # share of the covariance that is put in its place as a multiple of the identity
SHARE = 0.06  # share of an image's positions, the most supported ones, that are its seeds
OTHERS = 30  # images of the index's sample that an archive is compared with
CONTRAST = 0.5  # of what a position has in common with those
GRID = 10  # support is found on at most as many rows and columns


@dataclass(frozen=True)
class Space:
    """A space in which the index's features have mean 0 and nearly the same spread everywhere.

    Attributes:
        mean: (c,) float32.
        matrix: (c, c) float32, symmetric: S^(-1/2) of the shrunk covariance S.
        others: (m, p, c) float32 unit vectors: positions of m images of any kind, whitened.
    """

    mean: np.ndarray
    matrix: np.ndarray
    others: np.ndarray

    def whiten(self, features: np.ndarray) -> np.ndarray:
        """Unit vectors (n, c, h, w) float32 of features (n, c, h, w): S^(-1/2) (f - mean)."""
        if features.shape[1] != len(self.mean):
            raise RecoError(
                f"features of {features.shape[1]} channels for a whitening of {len(self.mean)}: "
                f"it is of another encoder: {MAKE_AGAIN}"
            )
        centred = features.astype(np.float32) - self.mean[:, None, None]
        n, c, h, w = centred.shape
        turned = self.matrix @ centred.reshape(n, c, h * w)
        return normalise(turned, axis=1).reshape(n, c, h, w)


def measure(features: np.ndarray) -> Space:
    """The space of an index, from features (n, c, h, w) of a sample of its images.

    With S the covariance of all positions, it is shrunk to (1 - SHRINK) S + SHRINK (tr S / c) I
    (Ledoit and Wolf 2004, with a fixed share), so that it can be inverted however few positions
    there are.

    Raises:
        RecoError: values that are not finite, or that do not vary.
    """
    positions = features.astype(np.float64).transpose(0, 2, 3, 1).reshape(-1, features.shape[1])
    if not np.isfinite(positions).all():
        raise RecoError("whitening: features hold nan or infinity: check the encoder's weights")
    mean = positions.mean(axis=0)
    centred = positions - mean
    covariance = centred.T @ centred / len(centred)
    spread = np.trace(covariance) / len(mean)
    if not spread > 1e-12 * max(1.0, float((mean * mean).mean())):
        raise RecoError(
            "whitening: the features of the index do not vary: it shows one even surface, or the "
            "encoder gives the same for any image: use another index or encoder, or recipe: paper"
        )
    shrunk = (1 - SHRINK) * covariance + SHRINK * spread * np.eye(len(mean))
    values, vectors = np.linalg.eigh(shrunk)
    matrix = (vectors / np.sqrt(values)) @ vectors.T
    bare = Space(mean.astype(np.float32), matrix.astype(np.float32), np.empty((0, 0, len(mean))))
    return replace(bare, others=_positions(features[:OTHERS], bare))


def _positions(features: np.ndarray, space: Space) -> np.ndarray:
    """(n, rows * columns, c) float32 whitened unit vectors over a grid; see `pool`."""
    maps = normalise(pool(space.whiten(features)), axis=1)
    return np.ascontiguousarray(maps.reshape(*maps.shape[:2], -1).swapaxes(1, 2))


def pool(maps: np.ndarray, most: int = GRID) -> np.ndarray:
    """Means of (n, c, h, w) over a grid of at most `most` rows and columns, as adaptive pooling."""
    return area_means(maps, [min(length, most) for length in maps.shape[2:]])


@dataclass(frozen=True)
class Seeds:
    """What an archive's images have in common, an entry per image.

    Attributes:
        prototypes: (n, c) float32 unit vectors: the mean of an image's seeds.
        seeds: (n, 2) int32, row and column of the most supported position.
        support: (n, h, w) float32, what a position has in common with the archive rather than with
            any images; see `find_seeds`.
    """

    prototypes: np.ndarray
    seeds: np.ndarray
    support: np.ndarray


def find_seeds(features: np.ndarray, space: Space) -> Seeds:
    """The seeds of an archive, from its encoder features (n, c, h, w), in order of rank.

    The support of a position is the paper's (section 3.2), the mean over archive images of its best
    match, in whitened space and without language guidance or context elimination; less CONTRAST
    times the same over images of any kind. So ground that all photographs of an index share is not
    taken for the concept. The seeds of an image are its SHARE most supported positions, at least
    one.

    Raises:
        RecoError: fewer than two images, which have nothing in common with others.
    """
    if len(features) < 2:
        raise RecoError(
            "a bank of seeds needs at least 2 archive images, for it asks what they have in "
            "common: add images to the index, raise the archive size, or write recipe: paper"
        )
    h, w = (min(length, GRID) for length in features.shape[2:])
    positions = _positions(features, space)
    n = len(positions)
    weights = np.ones((n, h * w), np.float32)
    support = exact_support(positions, weights, "paper")
    flat = positions.reshape(n * h * w, -1)
    anywhere = np.mean([(flat @ other.T).max(axis=1) for other in space.others], axis=0)
    support = (support - CONTRAST * anywhere).reshape(n, h * w)
    count = max(1, round(SHARE * h * w))
    best = np.argsort(-support, axis=1, kind="stable")[:, :count]
    prototypes = normalise(np.take_along_axis(positions, best[..., None], axis=1).mean(axis=1))
    seeds = np.stack([best[:, 0] // w, best[:, 0] % w], axis=1).astype(np.int32)
    return Seeds(prototypes, seeds, support.reshape(n, h, w))
