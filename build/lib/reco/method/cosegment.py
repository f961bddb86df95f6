"""Co-segment: what do the images of an archive have in common? (paper section 3.2)

The (n h w)^2 adjacency matrix of the paper never exists: it is taken block by block, and only half
of it, for without its weights it is symmetric. Arrays are NumPy's or PyTorch's, and results are of
the caller's kind. NumPy needs no deep-learning framework, and none is imported here: a job per
concept must start in no time. Tensors in main memory are computed on by NumPy, so that their seeds
are NumPy's to the last tie; tensors on an accelerator are computed on there. Arithmetic is in
float32: float64 is rounded to it, float16 and bfloat16 are widened. Only where such a half
precision is given on an accelerator is the large product taken in float16; what could be a seed by
it is then decided in float32.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

import numpy as np

from reco.method.maps import (
    as_float32,
    beside,
    is_tensor,
    length,
    like,
    namespace,
    normalise,
    resize,
    sigmoid,
)

if TYPE_CHECKING:
    from torch import Tensor

Merge = Literal["mean", "weighted", "winner"]
Variant = Literal["paper", "released"]
Array = TypeVar("Array", np.ndarray, "Tensor")

BLOCK = 1024  # pixels on a side of a block of the adjacency matrix: 4 MiB, which a cache can hold
FAINT = 1e-12  # a smaller weight is not divided by
HALF_ERROR = 4e-3  # more than float16 can be off in a product of two unit vectors


@dataclass(frozen=True)
class Cosegmentation(Generic[Array]):
    """The result of `cosegment`, arrays of the features' kind.

    Attributes:
        reference: (c,) float32, L2-normalised reference embedding.
        seeds: (n, 2) int64, (row, column) of the seed in each image.
        support: (n, h, w) float32, mean over images of the best match (higher = more in common).
    """

    reference: Array
    seeds: Array
    support: Array


def cosegment(
    features: Array,
    weights: Array | None = None,
    *,
    merge: Merge = "mean",
    variant: Variant = "paper",
) -> Cosegmentation[Array]:
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
        ValueError: shapes that do not fit, an empty archive, features that are not finite, weights
            outside [0, 1] or nan, an unknown merge or variant.
    """
    values = as_float32(features)
    if values.ndim != 4 or 0 in values.shape:
        raise ValueError(f"features must be (n, c, h, w) and not empty, not {tuple(values.shape)}")
    xp = namespace(values)
    if not xp.isfinite(values).all():
        raise ValueError("features hold nan or infinity")
    if variant not in ("paper", "released"):
        raise ValueError(f"variant must be 'paper' or 'released', not {variant!r}")
    n, c, h, w = values.shape
    pixels = values.reshape(n, c, h * w).swapaxes(1, 2)  # (n, hw, c)
    columns = _column_weights(weights, values)
    screen = is_tensor(values) and features.dtype.itemsize == 2
    find = screened_support if screen else exact_support
    support = find(pixels, columns, variant).reshape(n, h * w)
    seeds = support.argmax(1)
    reference = merge_seeds(pixels[beside(np.arange(n), seeds), seeds], merge)
    places = xp.stack([seeds // w, seeds % w], 1)
    support = support.reshape(n, h, w)
    return Cosegmentation(*(like(result, features) for result in (reference, places, support)))


def exact_support(pixels: Any, weights: Any, variant: Variant) -> Any:
    """(n * p,) float32: the mean over images of each pixel's best match; see `best_matches`."""
    return _mean_over_images(best_matches(pixels, weights), variant)


def best_matches(pixels: Any, weights: Any) -> Any:
    """Each pixel's best weighted match in each image.

    With f the pixels' unit vectors and w their weights, a block of <w_p f_p, w_q f_q> serves both
    ways: its maximum over q is w_p times what is wanted for p, its maximum over p is w_q times what
    is wanted for q. So half of the products are enough, and no block needs to be weighted.

    Args:
        pixels: (n, p, c) float32, of any length.
        weights: (n, p) of the pixel that is matched to, not negative.

    Returns:
        (n, n * p) float32: the image that is matched to, the pixel.
    """
    n, p, c = pixels.shape
    xp = namespace(pixels)
    lengths = length(pixels)
    scaled = (pixels * (weights[..., None] / lengths)).reshape(n * p, c)
    best = beside(np.empty((n, n * p), np.float32), pixels)
    step = max(1, BLOCK // p)
    groups = [(i, min(i + step, n)) for i in range(0, n, step)]
    for number, (i, i_end) in enumerate(groups):
        rows = slice(i * p, i_end * p)
        for j, j_end in groups[number:]:
            columns = slice(j * p, j_end * p)
            block = scaled[rows] @ scaled[columns].T
            best[j:j_end, rows] = xp.amax(block.reshape(-1, j_end - j, p), 2).T
            if j > i:
                best[i:i_end, columns] = xp.amax(block.reshape(i_end - i, p, -1), 1)
    faint = weights < FAINT
    best /= xp.where(faint, 1, weights).reshape(-1)
    if faint.any():  # these the obvious way
        alone = pixels[faint] / lengths[faint]
        for j in range(n):
            best[j, faint.reshape(-1)] = xp.amax(alone @ scaled[j * p : (j + 1) * p].T, 1)
    return best


def screened_support(pixels: Any, weights: Any, variant: Variant) -> Any:
    """Support by products in float16; where the largest of an image may be, in float32.

    So the seeds are those of `exact_support`, and the rest is within `HALF_ERROR` of it.

    Args:
        pixels: (n, p, c) float32 tensor, of any length.
        weights: (n, p) of the pixel that is matched to, not negative.

    Returns:
        (n * p,) float32.
    """
    n, p, c = pixels.shape
    xp = namespace(pixels)
    unit = normalise(pixels)
    half = unit.half()
    rows = half.reshape(n * p, c)
    products = ((rows @ half[j].T) * weights[j] for j in range(n))
    support = _mean_over_images(xp.stack([xp.amax(block, 1) for block in products]), variant)
    most = support.reshape(n, p).amax(1, keepdim=True)
    near = support.reshape(n, p) >= most - 2 * HALF_ERROR * weights.max()
    columns = unit * weights[..., None]
    exact = xp.stack([xp.amax(unit[near] @ columns[j].T, 1) for j in range(n)])
    support[near.reshape(-1)] = _mean_over_images(exact, variant)
    return support


def _mean_over_images(best: Any, variant: Variant) -> Any:
    """(pixels,) support from the best matches (n, pixels) in each image."""
    if variant == "released":
        xp, n = namespace(best), len(best)
        best = xp.stack([xp.amax(best[j : 2 * j + 1], 0) for j in range(n)])
    return best.mean(0)


def merge_seeds(seeds: Any, merge: Merge = "mean") -> Any:
    """Merge raw seed features (n, c) into one L2-normalised vector (c,); see `cosegment`."""
    n = len(seeds)
    if merge == "mean":
        merged = seeds.mean(0)
    elif merge == "weighted":
        falling = beside(1 - np.arange(n, dtype=np.float32) / n, seeds)
        merged = (falling[:, None] * seeds).sum(0)
    elif merge == "winner":
        unit = normalise(seeds)
        merged = seeds[(unit @ unit.sum(0)).argmax()]
    else:
        raise ValueError(f"merge must be 'mean', 'weighted' or 'winner', not {merge!r}")
    return normalise(merged)


def guidance(
    dense_features: Array,
    text: Array,
    size: tuple[int, int],
    temperature: float = 10.0,
) -> Array:
    """Language-guided saliency: sigmoid(temperature * cosine), squashed first and resized after.

    Args:
        dense_features: (n, d, h, w) dense features of the language-image model.
        text: (d,) unit text embedding, or (m, d) for several concepts.
        size: (height, width) of the result.

    Returns:
        (n, *size) float32, or (n, m, *size) for several concepts, of the features' kind.
    """
    unit = normalise(as_float32(dense_features), axis=1)
    vectors = beside(as_float32(text), unit)
    several = vectors.ndim == 2
    xp = namespace(unit)
    cosine = xp.einsum("ndhw,md->nmhw", unit, vectors if several else vectors[None])
    maps = resize(sigmoid(float(temperature) * cosine), size)
    return like(maps if several else maps[:, 0], dense_features)


def context_weights(features: Array, context_references: Array) -> Array:
    """Context elimination: the product over context concepts b of 1 - sigmoid(cos(F, r_b)).

    Args:
        features: (n, c, h, w) encoder features.
        context_references: (b, c); none (0, c) gives ones.

    Returns:
        (n, h, w) float32 in (0, 1), of the features' kind.
    """
    unit = normalise(as_float32(features), axis=1)
    references = normalise(beside(as_float32(context_references), unit))
    cosine = namespace(unit).einsum("nchw,bc->nbhw", unit, references)
    return like((1 - sigmoid(cosine)).prod(1), features)


def _column_weights(weights: Any, features: Any) -> Any:
    """(n, h * w) float32 weights beside the features, from (n, h, w) or None for ones."""
    n, _, h, w = features.shape
    if weights is None:
        return beside(np.ones((n, h * w), dtype=np.float32), features)
    values = as_float32(weights)
    if values.shape != (n, h, w):
        raise ValueError(f"weights must be {(n, h, w)}, not {tuple(values.shape)}")
    if not (values.min() >= 0 and values.max() <= 1):  # written so that nan fails
        raise ValueError("weights must be in [0, 1]")
    return beside(values.reshape(n, h * w), features)
