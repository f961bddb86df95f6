"""Retrieve: the archive of a concept is the k images closest to its text (paper section 3.1).

All concepts in one pass over the index, for reading it and widening it costs more than ranking it
for one concept more.
"""

import csv
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from reco.errors import RecoError
from reco.experiment import Experiment
from reco.files import MAKE_AGAIN, check_digest, open_array, read_digest, read_tensors
from reco.folder import read_table, write_table

ROWS = 2048  # images in a product: 6 MiB of float32 at 768 numbers each, which a cache can hold
SCORES = 1 << 21  # scores that are looked through at a time
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
    queries = torch.zeros(d, -(-m // LANES) * LANES)
    queries[:, :m] = torch.as_tensor(texts, dtype=torch.float32).T
    rows = torch.zeros(ROWS, d)
    products = max(1, SCORES // (ROWS * queries.shape[1]))
    out = torch.empty(products * ROWS, queries.shape[1])
    first = start = filled = 0
    for shard in shards:
        for begin in range(0, len(shard), ROWS):
            part = shard[begin : begin + ROWS]
            rows[: len(part)] = torch.from_numpy(part)
            product = out[filled : filled + ROWS]
            torch.mm(rows, queries, out=product)
            if not torch.isfinite(product[: len(part), 0]).all():
                last = start + len(part) - 1
                raise ValueError(f"an embedding of rows {start} to {last} is nan or infinite")
            filled += len(part)
            start += len(part)
            # The first pass looks at few, for the sake of a bound on the others.
            if filled + ROWS > len(out) or first == 0:
                yield first, out[:filled, :m].numpy()
                first, filled = start, 0
    if filled:
        yield first, out[:filled, :m].numpy()


def retrieve_archives(experiment: Experiment, embeddings: Path, images: Path) -> None:
    """Write the archive of every concept as CSV: rank (from 1), path, key, similarity, index.

    The last is `index_mark` of the embeddings that were ranked.

    Args:
        embeddings: .npy (n, d), one row per row of `images`, with its digest beside it.
        images: CSV of the usable index images (path, key).

    Raises:
        RecoError: the index is smaller than the archive, or the embeddings are damaged.
    """
    check_digest(embeddings)
    matrix = open_array(embeddings)
    k = experiment.config.deepest_archive
    if k > len(matrix):
        raise RecoError(
            f"{images}: the index has {len(matrix)} usable images, fewer than the archive size "
            f"{k}: add images or lower archive_size and archive_sizes in the config"
        )
    slugs = experiment.sources
    texts = np.stack([read_tensors(experiment.text(slug))["retrieval"] for slug in slugs])
    try:
        rows, _ = retrieve([matrix], texts, k)
    except ValueError as error:
        raise RecoError(f"{embeddings}: {error}: {MAKE_AGAIN}") from None
    found = read_rows(images, set(rows.ravel().tolist()))
    mark = index_mark(embeddings)
    for slug, places, text in zip(slugs, rows, texts, strict=True):
        # In double precision, so that no digit depends on how many concepts were ranked at once.
        scores = matrix[places].astype(np.float64) @ text.astype(np.float64)
        ranked = enumerate(zip(places.tolist(), scores.tolist(), strict=True), 1)
        write_table(
            experiment.archive(slug),
            ["rank", "path", "key", "similarity", "index"],
            [(rank, *found[row], f"{score:.6f}", mark) for rank, (row, score) in ranked],
        )


def index_mark(embeddings: Path) -> str:
    """What tells one index from another: the first digits of the digest noted beside it.

    Raises:
        RecoError: none was noted.
    """
    return read_digest(embeddings)[:12]


def read_archive(path: str | Path) -> list[dict[str, str]]:
    """The rows of an archive, of which there is at least one.

    Raises:
        RecoError: no such file, damaged or empty.
    """
    rows = read_table(path)
    if not rows:
        raise RecoError(f"{path}: has no images: {MAKE_AGAIN}")
    return rows


def read_rows(images: Path, wanted: set[int]) -> dict[int, tuple[str, str]]:
    """Path and key of some rows of the list of images, which may be too long to hold."""
    with open(images, newline="", encoding="utf-8") as file:
        lines = enumerate(islice(csv.reader(file), 1, None))
        return {row: (path, key) for row, (path, key) in lines if row in wanted}
