"""A store of arrays by key that grows and is never rewritten.

Embeddings and features cost a network's forward pass, so they are kept by what they depend on:
one folder per dataset, model and input size, a key per image (the digest of its bytes) or
sentence. A store is a set of shards, each an array file and a list of keys; the list is written
last, so a killed run leaves no shard that a later run would trust.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from reco.errors import RecoError
from reco.files import atomic, write_text


@dataclass(frozen=True)
class Place:
    """Where one array is: row `row` of the .npy file `shard`."""

    shard: str
    row: int


class Store:
    """Arrays of equal shape, by key, in the shards of one folder."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def places(self) -> dict[str, Place]:
        """Where every stored array is."""
        found = {}
        for keys in sorted(self.folder.glob("*.keys")):
            shard = keys.with_suffix(".npy").as_posix()
            for row, key in enumerate(keys.read_text(encoding="utf-8").split()):
                found[key] = Place(shard, row)
        return found

    def append(self, keys: Sequence[str], arrays: np.ndarray) -> None:
        """Add one shard: `arrays` (n, ...) of float32, kept as float16, for n keys.

        Raises:
            RecoError: a value is nan or beyond the range of float16.
        """
        with np.errstate(over="ignore"):  # what overflows is refused below
            half = np.asarray(arrays).astype(np.float16)
        if len(half) != len(keys):
            raise ValueError(f"{len(keys)} keys for {len(half)} arrays")
        if not np.isfinite(half).all():
            raise RecoError(
                f"{self.folder}: the model gave nan, infinity or values beyond 65504; "
                "check its weights and the images of this batch"
            )
        name = hashlib.sha256("\n".join(keys).encode()).hexdigest()[:16]
        with atomic(self.folder / f"{name}.npy") as temporary:
            np.save(temporary, half, allow_pickle=False)
        write_text(self.folder / f"{name}.keys", "\n".join(keys) + "\n")


def read_places(places: Sequence[Place]) -> np.ndarray:
    """Stack the arrays at `places`, in that order, as (n, ...) float32.

    Raises:
        RecoError: a shard is missing or damaged.
    """
    shards = {place.shard: _open(place.shard) for place in places}
    try:
        rows = [shards[place.shard][place.row] for place in places]
    except IndexError:
        raise RecoError(f"{places[0].shard}: shorter than its list of keys: {_REMEDY}") from None
    return np.stack(rows).astype(np.float32)


_REMEDY = "delete this shard (.npy and .keys) and run the stage that makes it again"


def _open(shard: str) -> np.ndarray:
    try:
        return np.load(shard, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise RecoError(f"{shard}: damaged or missing ({error}): {_REMEDY}") from None
