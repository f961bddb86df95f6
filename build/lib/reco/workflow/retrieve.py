"""Retrieve: archives of concepts, from the embeddings of the index and of texts. No network."""

import csv
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from reco.data.embeddings import description_of, index_mark, read_description
from reco.data.tables import read_table, write_table
from reco.errors import RecoError
from reco.files import (
    MAKE_AGAIN,
    check_digest,
    open_array,
    read_metadata,
    read_tensors,
)
from reco.method.retrieve import retrieve


def retrieve_archives(
    embeddings: Path, images: Path, texts: Sequence[Path], size: int, archives: Sequence[Path]
) -> None:
    """Write archives as CSV: rank (from 1), path, key, similarity, index.

    The last is `index_mark` of the embeddings that were ranked. Several are made in one pass over
    the index, which takes hardly longer than one.

    Args:
        embeddings: .npy (n, d) of `reco gather`, one row per row of `images`.
        images: CSV of the usable index images (path, key).
        texts: text embeddings of concepts.
        size: images of an archive.
        archives: the CSV to write for each text.

    Raises:
        RecoError: the index is smaller than the archive, of another model than the texts, or
            damaged.
    """
    check_index(embeddings, texts)
    matrix = open_array(embeddings)
    if size > len(matrix):
        raise RecoError(
            f"{images}: the index has {len(matrix)} usable images, fewer than the archive size "
            f"{size}: add images or lower archive_size and archive_sizes in the config"
        )
    vectors = np.stack([read_tensors(text)["retrieval"] for text in texts])
    try:
        rows, _ = retrieve([matrix], vectors, size)
    except ValueError as error:
        raise RecoError(f"{embeddings}: {error}: {MAKE_AGAIN}") from None
    found = read_rows(images, set(rows.ravel().tolist()))
    mark = index_mark(embeddings)
    for archive, best, vector in zip(archives, rows, vectors, strict=True):
        # In double precision, so that no digit depends on how many concepts were ranked at once.
        scores = matrix[best].astype(np.float64) @ vector.astype(np.float64)
        ranked = enumerate(zip(best.tolist(), scores.tolist(), strict=True), 1)
        write_table(
            archive,
            ["rank", "path", "key", "similarity", "index"],
            [(rank, *found[row], f"{score:.6f}", mark) for rank, (row, score) in ranked],
        )


def check_index(embeddings: Path, texts: Sequence[Path]) -> None:
    """Raise RecoError unless embeddings are whole, and of the model that texts were embedded by.

    Their digest is compared unless they are older than what describes them, which is written
    after them: a job per concept cannot read 2 GB twice.
    """
    described = read_description(embeddings)
    if embeddings.stat().st_mtime_ns >= description_of(embeddings).stat().st_mtime_ns:
        check_digest(embeddings)
    for text in texts:
        model = read_metadata(text).get("retrieval")
        if model != described["model"]:
            raise RecoError(
                f"{embeddings}: embedded by {described['model']}, and {text} by {model}, which "
                f"cannot be compared: {MAKE_AGAIN}"
            )


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
