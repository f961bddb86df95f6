"""What the paper's authors released as pickles, converted once to plain arrays."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from reco.data.tables import write_table
from reco.data.unpickle import read_plain
from reco.errors import RecoError
from reco.files import atomic, write_array
from reco.progress import LOG

NORM = 0.01  # how far from 1 the length of an embedding may be without a word


def convert_embeddings(pickle_path: str | Path, npy_path: str | Path, list_path: str | Path) -> str:
    """Convert embeddings of images: a row per image, in the order of the pickle.

    Two forms are read: a dict of file name -> vector (what the authors' script writes), and a
    matrix with a list of names, as the two items of a tuple, list or dict.

    Args:
        npy_path: .npy to write, (n, d); float16 where the pickle has that, else float32.
        list_path: CSV to write (file), the name of the file of every row.

    Returns:
        which form it was, in words.

    Raises:
        RecoError: not such a pickle, refused, or the embeddings do not belong together.
    """
    path = Path(pickle_path)
    LOG.info("read %s (some minutes for a million images)", path)
    names, rows, form = _split(path, read_plain(path))
    if not names or len(names) != len(rows):
        raise RecoError(f"{path}: {len(names)} names for {len(rows)} embeddings: another file?")
    _check_names(path, names)
    if len(set(names)) < len(names):
        raise RecoError(f"{path}: a name is there twice: another file?")
    first = _vector(path, names[0], rows[0], None)
    dtype = np.float16 if first.dtype == np.float16 else np.float32
    lengths = np.empty(len(rows), np.float32)

    def vectors() -> Iterator[np.ndarray]:
        for i, name in enumerate(names):
            vector = _vector(path, name, rows[i], len(first))
            lengths[i] = np.linalg.norm(vector.astype(np.float64))
            yield vector

    write_array(npy_path, (len(rows), len(first)), np.dtype(dtype), vectors())
    odd = int((np.abs(lengths - 1) > NORM).sum())
    if odd:
        LOG.warning("%s: %d of %d embeddings are not of length 1", path, odd, len(rows))
    write_table(list_path, ["file"], ([name] for name in names))
    LOG.info("%s: %s: %d x %d to %s and %s", path, form, len(rows), len(first), npy_path, list_path)
    return form


def convert_references(pickle_path: str | Path, safetensors_path: str | Path) -> list[str]:
    """Convert reference embeddings: a dict of concept -> vector.

    Args:
        safetensors_path: to write: a (d,) float32 tensor per concept; their order, which
            safetensors does not keep, as `concepts` in the metadata, a name a line.

    Returns:
        the concepts in the order of the pickle.

    Raises:
        RecoError: not such a pickle, or refused.
    """
    path = Path(pickle_path)
    loaded = read_plain(path)
    if not isinstance(loaded, dict) or not loaded:
        raise RecoError(f"{path}: holds no dict of concepts: another file?")
    _check_names(path, loaded)
    length = None
    tensors = {}
    for name, value in loaded.items():
        vector = _vector(path, name, value, length)
        length = len(vector)
        tensors[name] = np.ascontiguousarray(vector, dtype=np.float32)
    with atomic(safetensors_path) as temporary:
        save_file(tensors, temporary, metadata={"concepts": "\n".join(tensors)})
    LOG.info("%s: %d concepts to %s", path, len(tensors), safetensors_path)
    return list(tensors)


def _split(path: Path, loaded: Any) -> tuple[list[Any], Any, str]:
    """Names, embeddings, and the form they were in."""
    items = list(loaded.values()) if isinstance(loaded, dict) else loaded
    if isinstance(items, list | tuple) and len(items) == 2:
        for names, matrix in (items, items[::-1]):
            if isinstance(matrix, np.ndarray) and matrix.ndim == 2:
                if isinstance(names, list | tuple):
                    return list(names), matrix, "a matrix with a list of names"
    if isinstance(loaded, Mapping):
        return list(loaded), items, "a dict of file name to vector"
    raise RecoError(
        f"{path}: neither a dict of file name to vector nor a matrix with a list of names"
    )


def _check_names(path: Path, names: Any) -> None:
    for name in names:
        if not isinstance(name, str) or not name or not name.isprintable() or name[:2] == "__":
            raise RecoError(f"{path}: {str(name)[:60]!r} is no name: another file?")


def _vector(path: Path, name: str, value: Any, length: int | None) -> np.ndarray:
    """`value` if it is a vector of finite floats, of this length if one is given."""
    if not isinstance(value, np.ndarray) or value.ndim != 1 or value.dtype.kind != "f":
        raise RecoError(f"{path}: {name}: not a vector of floats: another file?")
    if len(value) != (len(value) if length is None else length) or not len(value):
        raise RecoError(f"{path}: {name}: {len(value)} numbers, the others have {length}")
    if not np.isfinite(value).all():
        raise RecoError(f"{path}: {name}: holds a number that is not finite: fetch it again")
    return value
