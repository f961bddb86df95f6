"""Retrieve: archives of concepts, from the embeddings of the index and of texts. No network."""

import csv
from itertools import islice
from pathlib import Path

import numpy as np

from reco.data.folder import read_table, write_table
from reco.errors import RecoError
from reco.experiment import Experiment
from reco.files import MAKE_AGAIN, check_digest, open_array, read_digest, read_tensors
from reco.method.retrieve import retrieve


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
