"""Embeddings of an index: one matrix, and beside it what it is of.

`index.npy` has a row per image of `index.csv`; `index.npy.sha256` is its digest; `index.json`,
which is written last, says which model made it of which images.
"""

from pathlib import Path
from typing import TypedDict

from reco.errors import RecoError
from reco.files import MAKE_AGAIN, read_digest, read_json


class Description(TypedDict):
    """What embeddings are of.

    Attributes:
        model: spec of the model.
        size: side of its input in pixels.
        state: fingerprint of the images, the model and its code.
    """

    model: str
    size: int
    state: str


def description_of(embeddings: str | Path) -> Path:
    """The JSON beside embeddings that describes them."""
    return Path(embeddings).with_suffix(".json")


def read_description(embeddings: str | Path) -> Description:
    """What embeddings are of.

    Raises:
        RecoError: no such file, or damaged.
    """
    path = description_of(embeddings)
    described = read_json(path)
    if not isinstance(described, dict) or described.keys() != Description.__annotations__.keys():
        raise RecoError(f"{path}: does not describe embeddings: {MAKE_AGAIN}")
    return Description(model=described["model"], size=described["size"], state=described["state"])


def index_mark(embeddings: Path) -> str:
    """What tells one index from another: the first digits of the digest noted beside it.

    Raises:
        RecoError: none was noted.
    """
    return read_digest(embeddings)[:12]
