"""Co-segment: what do the images of an archive have in common? (paper section 3.2)

Plain NumPy, one matrix product per archive image; the (n h w)^2 adjacency matrix of the paper
never exists. No deep-learning framework is imported: a job per concept must start in no time.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

Merge = Literal["mean", "weighted", "winner"]
Variant = Literal["paper", "released"]


@dataclass(frozen=True)
class Cosegmentation:
    """The result of `cosegment`.

    Attributes:
        reference: (c,) float32, L2-normalised reference embedding.
        seeds: (n, 2) int64, (row, column) of the seed in each image.
        support: (n, h, w) float32, mean over images of the best match (higher = more in common).
    """

    reference: np.ndarray
    seeds: np.ndarray
    support: np.ndarray


def cosegment(
    features: np.ndarray,
    weights: np.ndarray | None = None,
    *,
    merge: Merge = "mean",
    variant: Variant = "paper",
) -> Cosegmentation:
    """Find one seed per image and merge them into the concept's reference embedding.

    With f the L2-normalised features, A[(i,p),(j,q)] = <f_ip, f_jq> * weights_jq; the support of
    a pixel is the mean over images j of its maximum over q, the seed of an image its pixel of
    largest support (the first one on a tie).

    Args:
        features: (n, c, h, w) encoder features of the archive, in order of retrieval rank.
        weights: (n, h, w) in [0, 1], saliency of the pixel that is matched *to*; None = 1.
        merge: how the raw seed features become one vector: their `mean`; `weighted` by
            1, 1-1/n, ..., 1/n over rank; or the `winner`, the seed most similar to all others.
        variant: `released` takes the maximum for image j over images j..2j, as the published code
            does by a slip in a slice (docs/deviations.md); `paper` over image j.

    Raises:
        ValueError: shapes that do not fit, an empty archive, or values that are not finite.
    """
    features = np.asarray(features, dtype=np.float32)
    if features.ndim != 4 or 0 in features.shape:
        raise ValueError(f"features must be (n, c, h, w) and not empty, not {features.shape}")
    if not np.isfinite(features).all():
        raise ValueError("features hold nan or infinity")
    n, c, h, w = features.shape
    if weights is None:
        weights = np.ones((n, h, w), dtype=np.float32)
    weights = np.asarray(weights, dtype=np.float32)
    if weights.shape != (n, h, w):
        raise ValueError(f"weights must be {(n, h, w)}, not {weights.shape}")
    pixels = features.reshape(n, c, h * w).transpose(0, 2, 1)  # (n, hw, c)
    best = best_matches(normalise(pixels), weights.reshape(n, h * w))
    if variant == "released":
        best = np.stack([best[:, j : 2 * j + 1].max(1) for j in range(n)], axis=1)
    elif variant != "paper":
        raise ValueError(f"variant must be 'paper' or 'released', not {variant!r}")
    support = best.mean(1).reshape(n, h * w)
    seeds = support.argmax(1)
    reference = merge_seeds(pixels[np.arange(n), seeds], merge)
    rows, columns = np.divmod(seeds, w)
    return Cosegmentation(reference, np.stack([rows, columns], 1), support.reshape(n, h, w))


def best_matches(pixels: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Each pixel's best weighted match in each image.

    Args:
        pixels: (n, p, c) float32, L2-normalised.
        weights: (n, p) of the pixel that is matched to, not negative: it can then be folded into
            the features.

    Returns:
        (n * p, n) float32.
    """
    n, p, c = pixels.shape
    rows = np.ascontiguousarray(pixels.reshape(n * p, c))
    best = np.empty((n * p, n), dtype=np.float32)
    for j in range(n):
        columns = pixels[j] * weights[j, :, None]
        best[:, j] = (rows @ columns.T).max(1)
    return best


def merge_seeds(seeds: np.ndarray, merge: Merge = "mean") -> np.ndarray:
    """Merge raw seed features (n, c) into one L2-normalised vector (c,); see `cosegment`."""
    n = len(seeds)
    if merge == "mean":
        merged = seeds.mean(0)
    elif merge == "weighted":
        merged = ((1 - np.arange(n, dtype=np.float32) / n)[:, None] * seeds).sum(0)
    elif merge == "winner":
        unit = normalise(seeds)
        merged = seeds[(unit @ unit.sum(0)).argmax()]
    else:
        raise ValueError(f"merge must be 'mean', 'weighted' or 'winner', not {merge!r}")
    return normalise(merged)


def guidance(
    dense_features: np.ndarray,
    text: np.ndarray,
    size: tuple[int, int],
    temperature: float = 10.0,
) -> np.ndarray:
    """Language-guided saliency: sigmoid(temperature * cosine), squashed first and resized after.

    Args:
        dense_features: (n, d, h, w) dense features of the language-image model.
        text: (d,) unit text embedding, or (m, d) for several concepts.
        size: (height, width) of the result.

    Returns:
        (n, *size) float32, or (n, m, *size) for several concepts.
    """
    text = np.asarray(text, dtype=np.float32)
    unit = normalise(np.asarray(dense_features, dtype=np.float32), axis=1)
    cosine = np.einsum("ndhw,md->nmhw", unit, np.atleast_2d(text))
    maps = resize(sigmoid(np.float32(temperature) * cosine), size)
    return maps if text.ndim == 2 else maps[:, 0]


def context_weights(features: np.ndarray, context_references: np.ndarray) -> np.ndarray:
    """Context elimination: the product over context concepts b of 1 - sigmoid(cos(F, r_b)).

    Args:
        features: (n, c, h, w) encoder features.
        context_references: (b, c); none (0, c) gives ones.

    Returns:
        (n, h, w) float32 in (0, 1).
    """
    unit = normalise(np.asarray(features, dtype=np.float32), axis=1)
    references = normalise(np.asarray(context_references, dtype=np.float32))
    cosine = np.einsum("nchw,bc->nbhw", unit, references)
    return (1 - sigmoid(cosine)).prod(1)


def normalise(values: np.ndarray, axis: int = -1) -> np.ndarray:
    """Divide by the L2 norm along `axis`; a zero vector stays zero."""
    norm = np.linalg.norm(values, axis=axis, keepdims=True)
    return values / np.maximum(norm, np.finfo(values.dtype).tiny)


def sigmoid(values: np.ndarray) -> np.ndarray:
    """The logistic function, without overflow."""
    return 0.5 * (1 + np.tanh(0.5 * values))


def resize(maps: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bilinear resize of the last two axes, `align_corners=False`, no antialias (as PyTorch)."""
    rows, columns = (_interpolation(n, m) for n, m in zip(maps.shape[-2:], size, strict=True))
    return (rows @ maps @ columns.T).astype(np.float32)


def _interpolation(length: int, wanted: int) -> np.ndarray:
    """(wanted, length) matrix of bilinear weights."""
    if length == wanted:
        return np.eye(length, dtype=np.float32)
    position = np.maximum((np.arange(wanted) + 0.5) * (length / wanted) - 0.5, 0)
    low = np.minimum(position.astype(int), length - 1)
    high = np.minimum(low + 1, length - 1)
    share = (position - low).astype(np.float32)
    matrix = np.zeros((wanted, length), dtype=np.float32)
    np.add.at(matrix, (np.arange(wanted), low), 1 - share)
    np.add.at(matrix, (np.arange(wanted), high), share)
    return matrix
