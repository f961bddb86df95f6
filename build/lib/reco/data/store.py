"""A store of arrays by key that grows and is never rewritten.

Embeddings and features cost a network's forward pass, so they are kept by what they depend on:
one folder per dataset, model and input size, a key per image (the digest of its bytes) or
sentence. A store is a set of shards, each an array file and a list with a line per row: its key and
the digest of its values. Both files are named after the digest of the list. The list is written
last, and trusted only if it fits its name, so a killed run leaves no shard that a later run would
trust; and what two runs at once write under one name is the same.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from reco.errors import RecoError
from reco.files import write_array, write_text
from reco.progress import LOG

SPLITS = "-splits"  # end of the name of a folder with features of a benchmark's splits


class Place(NamedTuple):
    """Where one array is: row `row` of the .npy file `shard`."""

    shard: str
    row: int


class Store:
    """Arrays of equal shape, by key, in the shards of one folder."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def places(self) -> dict[str, Place]:
        """Where every stored array is.

        Lists of keys that are damaged, or that an earlier version wrote, are left out with a
        warning: what they name is computed again.
        """
        found = {}
        refused = []
        for path in sorted(self.folder.glob("[!.]*.keys")):  # hidden: of a run that was killed
            words = _read_list(path)
            if words is None:
                refused.append(path.name)
                continue
            shard = path.with_suffix(".npy").as_posix()
            found.update({key: Place(shard, row) for row, key in enumerate(words[::2])})
        if refused:
            LOG.warning(
                "%s: %d lists of keys are damaged or of an earlier version, such as %s: what they "
                "name is computed again; delete them and the .npy beside them",
                self.folder,
                len(refused),
                refused[0],
            )
        return found

    def append(self, keys: Sequence[str], arrays: np.ndarray) -> None:
        """Add one shard: `arrays` (n, ...) of float32, kept as float16, for n keys.

        Raises:
            RecoError: a value is nan or beyond the range of float16, or the disk is full.
        """
        try:
            half = as_stored(arrays)
        except RecoError as error:
            raise RecoError(f"{self.folder}: {error}") from None
        if len(half) != len(keys):
            raise ValueError(f"{len(keys)} keys for {len(half)} arrays")
        pairs = zip(keys, half, strict=True)
        text = "".join(f"{key} {_digest(row)}\n" for key, row in pairs)
        name = _name(text.encode())
        write_array(self.folder / f"{name}.npy", half.shape, half.dtype, [half])
        write_text(self.folder / f"{name}.keys", text)


def as_stored(arrays: np.ndarray) -> np.ndarray:
    """Arrays as a store keeps them: float16.

    Raises:
        RecoError: a value is nan or beyond the range of float16.
    """
    with np.errstate(over="ignore"):  # what overflows is refused below
        half = np.ascontiguousarray(arrays).astype("<f2")
    if not np.isfinite(half).all():
        raise RecoError(
            "the model gave nan, infinity or values beyond 65504; check its weights and the images "
            "of this batch"
        )
    return half


def read_places(places: Sequence[Place]) -> np.ndarray:
    """Stack the arrays at `places`, in that order, as (n, ...) float32.

    Every row is compared with its digest, and one shard is open at a time.

    Raises:
        RecoError: a shard is missing, or a row is not what was stored.
    """
    wanted: dict[str, list[int]] = {}
    for i, place in enumerate(places):
        wanted.setdefault(place.shard, []).append(i)
    result: np.ndarray | None = None
    for shard, positions in wanted.items():
        arrays, digests = _open(shard)
        if result is None:
            result = np.empty((len(places), *arrays.shape[1:]), np.float32)
        for i in positions:
            row = places[i].row
            if row >= min(len(arrays), len(digests)) or _digest(arrays[row]) != digests[row]:
                raise RecoError(f"{shard}: row {row} is damaged: {_remedy(shard)}")
            result[i] = arrays[row]
    if result is None:
        raise ValueError("no places to read")
    return result


def _open(shard: str) -> tuple[np.ndarray, list[str]]:
    """The arrays of a shard, memory-mapped, and the digest of each."""
    try:
        arrays = np.load(shard, mmap_mode="r", allow_pickle=False)
        words = _read_list(Path(shard).with_suffix(".keys"))
    except Exception as error:  # NumPy's reader of headers has many kinds
        raise RecoError(f"{shard}: damaged or missing ({error}): {_remedy(shard)}") from None
    if words is None:
        raise RecoError(f"{shard}: its list of keys is damaged: {_remedy(shard)}")
    return arrays, words[1::2]


def _read_list(path: Path) -> list[str] | None:
    """Keys and digests in turn; None where the list does not fit its name."""
    content = path.read_bytes()
    return content.decode().split() if _name(content) == path.stem else None


def _name(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _digest(row: np.ndarray) -> str:
    """64 bits of the SHA-256 of an array: type, shape and values."""
    digest = hashlib.sha256(f"{row.dtype.str} {row.shape} ".encode())
    digest.update(np.ascontiguousarray(row).data)
    return digest.hexdigest()[:16]


def _remedy(shard: str) -> str:
    """How to have a shard made again: the tables that name its rows must be made anew, too."""
    kind = Path(shard).parent.parent
    features = "split_features" if kind.parent.name.endswith(SPLITS) else "features"
    tables = {"global": "parts", "dense": features, "encoder": features}.get(kind.name)
    names = f"{Path(shard).with_suffix('')}.*" + (f" data/*/{tables}/*" if tables else "")
    return f"delete {names} and run again, which computes only what was in it"
