"""Retrieve: the archive of a concept is the k images closest to its text (paper section 3.1).

All concepts in one pass over the index, for reading it and widening it costs more than ranking it
for one concept more.
"""

from collections.abc import Iterator, Sequence

import numpy as np

ROWS = 2048  # images in a product: 6 MiB of float32 at 768 numbers each, which a cache can hold
LOOKED_AT = 1 << 21  # scores that are looked through at a time
LANES = 16  # a product of a multiple of this many texts is a third faster


def retrieve(
    shards: Sequence[np.ndarray], texts: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Rank images by cosine similarity to several texts at once, exactly.

    Args:
        shards: (n_i, d) L2-normalised image embeddings in index order, any float type, may be
            memory-mapped; what is held of them at a time does not grow with n.
        texts: (m, d) L2-normalised text embeddings.
        k: how many images to return for each text.

    Returns:
        Rows (m, k) int64, counted through all shards, by falling similarity, ties by index order;
        and similarities (m, k) float32.

    Raises:
        ValueError: k exceeds the number of images, the dimensions differ, or an embedding is not
            finite.
    """
    n = sum(len(shard) for shard in shards)
    if any(shard.ndim != 2 or shard.shape[1] != texts.shape[1] for shard in shards):
        shapes = [shard.shape for shard in shards]
        raise ValueError(f"embeddings {shapes} do not fit texts of {texts.shape[1]} numbers")
    if not 1 <= k <= n:
        raise ValueError(f"cannot take {k} of {n} images")
    best = [(np.empty(0, np.int64), np.empty(0, np.float32)) for _ in texts]
    least = np.full(len(texts), -np.inf, np.float32)  # an image must beat this to be among the k
    for start, scores in _scores(shards, texts):
        images, concepts = np.nonzero(scores > least)
        order = np.argsort(concepts, kind="stable")
        counts = np.bincount(concepts, minlength=len(texts))
        for concept, found in enumerate(np.split(images[order], np.cumsum(counts)[:-1])):
            if len(found):
                rows, values = best[concept]
                rows = np.concatenate([rows, found + start])
                values = np.concatenate([values, scores[found, concept]])
                best[concept] = rows, values = _largest(rows, values, k)
                if len(rows) == k:
                    least[concept] = values[-1]
    return np.stack([rows for rows, _ in best]), np.stack([values for _, values in best])


def _largest(rows: np.ndarray, scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k largest scores with their rows, falling; of equal ones the first."""
    if len(scores) > 4 * k:  # sorting all would take longer
        near = scores >= np.partition(scores, -k)[-k]
        rows, scores = rows[near], scores[near]
    order = np.argsort(-scores, kind="stable")[:k]
    return rows[order], scores[order]


def _scores(shards: Sequence[np.ndarray], texts: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (first row, (rows, m) float32 similarities) through all images, a few MiB at a time.

    Every product has the same shape, so that equal embeddings have equal scores wherever they are.
    The array is overwritten by the next one.
    """
    m, d = texts.shape
    queries = np.zeros((d, -(-m // LANES) * LANES), np.float32)
    queries[:, :m] = texts.T
    rows = np.zeros((ROWS, d), np.float32)
    products = max(1, LOOKED_AT // (ROWS * queries.shape[1]))
    out = np.empty((products * ROWS, queries.shape[1]), np.float32)
    first = start = filled = 0
    for shard in shards:
        for begin in range(0, len(shard), ROWS):
            part = shard[begin : begin + ROWS]
            rows[: len(part)] = part
            product = out[filled : filled + ROWS]
            with np.errstate(invalid="ignore"):  # what is not finite is refused below
                np.matmul(rows, queries, out=product)
            if not np.isfinite(product[: len(part), 0]).all():
                last = start + len(part) - 1
                raise ValueError(f"an embedding of rows {start} to {last} is nan or infinite")
            filled += len(part)
            start += len(part)
            # The first pass looks at few, for the sake of a bound on the others.
            if filled + ROWS > len(out) or first == 0:
                yield first, out[:filled, :m]
                first, filled = start, 0
    if filled:
        yield first, out[:filled, :m]
