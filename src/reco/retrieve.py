"""Retrieve: the archive of a concept is the k images closest to its text (paper section 3.1)."""

from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from reco.errors import RecoError
from reco.folder import read_table, write_table

CHUNK = 65536


def retrieve(embeddings: np.ndarray, text: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Rank images by cosine similarity to a text.

    Args:
        embeddings: (n, d) L2-normalised image embeddings, any float type, may be memory-mapped.
        text: (d,) L2-normalised text embedding.
        k: how many to return.

    Returns:
        Rows (k,) int64 by falling similarity, ties by index order, and similarities (k,) float32.

    Raises:
        ValueError: k exceeds n, or the dimensions differ.
    """
    if embeddings.ndim != 2 or embeddings.shape[1] != len(text):
        raise ValueError(f"embeddings {embeddings.shape} do not fit a text of {len(text)} numbers")
    if not 1 <= k <= len(embeddings):
        raise ValueError(f"cannot take {k} of {len(embeddings)} images")
    text = text.astype(np.float32)
    scores = np.empty(len(embeddings), dtype=np.float32)
    for start in range(0, len(embeddings), CHUNK):
        part = np.asarray(embeddings[start : start + CHUNK], dtype=np.float32)
        scores[start : start + CHUNK] = part @ text
    least = np.partition(scores, -k)[-k]
    candidates = np.flatnonzero(scores >= least)
    top = candidates[np.argsort(-scores[candidates], kind="stable")[:k]]
    return top, scores[top]


def retrieve_archive(embeddings: Path, images: Path, text: Path, k: int, archive: Path) -> None:
    """Write the archive of a concept as CSV: rank (from 1), path, key, similarity.

    Args:
        embeddings: .npy (n, d), one row per row of `images`.
        images: CSV of the usable index images (path, key).
        text: safetensors with `retrieval` (d,).

    Raises:
        RecoError: the index is smaller than the archive.
    """
    matrix = np.load(embeddings, mmap_mode="r", allow_pickle=False)
    if k > len(matrix):
        raise RecoError(
            f"{images}: the index has {len(matrix)} usable images, fewer than the archive size "
            f"{k}: add images or lower archive_size and archive_sizes in the config"
        )
    rows, scores = retrieve(matrix, load_file(text)["retrieval"], k)
    index = read_table(images)
    write_table(
        archive,
        ["rank", "path", "key", "similarity"],
        [
            (rank, index[row]["path"], index[row]["key"], f"{score:.6f}")
            for rank, (row, score) in enumerate(zip(rows, scores, strict=True), 1)
        ],
    )
