"""Bank: the seeds of a concept's archive, and the files of spaces that they are compared in.

One light job per concept: NumPy only, no network.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from reco.data.features import read_features
from reco.data.tables import read_table
from reco.errors import RecoError
from reco.files import MAKE_AGAIN, atomic, read_tensors
from reco.method.bank import Space, find_seeds
from reco.workflow.cosegment import sources_mark


def pack_spaces(spaces: Mapping[int, Space]) -> dict[str, np.ndarray]:
    """Tensors of a whitening file: `<scale>.mean`, `<scale>.matrix` and `<scale>.others`."""
    return {
        f"{scale}.{name}": getattr(space, name)
        for scale, space in spaces.items()
        for name in ("mean", "matrix", "others")
    }


def read_spaces(path: str | Path, scales: Sequence[int]) -> dict[int, Space]:
    """The space of every scale, from the file of `reco whiten`.

    Raises:
        RecoError: missing, damaged, or of other scales.
    """
    stored = read_tensors(path)
    try:
        return {
            scale: Space(*(stored[f"{scale}.{name}"] for name in ("mean", "matrix", "others")))
            for scale in scales
        }
    except KeyError as error:
        raise RecoError(f"{path}: has no {error}: {MAKE_AGAIN}") from None


def bank_archive(
    features: Path, whitening: Path, scales: Sequence[int], size: int, output: Path
) -> None:
    """Read an archive's features from the store and write its seeds as safetensors.

    For every scale `<scale>.prototypes`, `<scale>.seeds` and `<scale>.support`; see `Seeds`.

    Args:
        features: CSV of `Experiment.bank_features`.
        whitening: file of `reco whiten`.
        scales: sides of the networks' input in pixels.
        size: archive images that are used at most.

    Raises:
        RecoError: no or too few images, damaged files, or a whitening of another encoder.
    """
    rows = read_table(features)[:size]
    spaces = read_spaces(whitening, scales)
    results: dict[str, np.ndarray] = {}
    for scale, space in spaces.items():
        try:
            found = find_seeds(read_encoder(rows, scale), space)
        except RecoError as error:
            raise RecoError(f"{features}: {error}") from None
        for name in ("prototypes", "seeds", "support"):
            results[f"{scale}.{name}"] = getattr(found, name)
    made_from = {"made_from": sources_mark(features, [whitening])}
    with atomic(output) as temporary:
        temporary.write_bytes(save(results, made_from))


def read_encoder(rows: Sequence[Mapping[str, str]], scale: int) -> np.ndarray:
    """Encoder features (n, c, h, w) of an archive's rows at a scale.

    Raises:
        RecoError: no rows, or damaged shards.
    """
    if not rows:
        raise RecoError(f"the archive has no images: {MAKE_AGAIN}")
    return read_features(rows, f"encoder_{scale}")
