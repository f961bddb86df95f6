"""Whitening: the space of every scale of a bank, from a sample of the index. No label is read."""

from pathlib import Path

import numpy as np
from safetensors.numpy import save

from reco.data.embeddings import index_mark
from reco.data.store import read_places
from reco.errors import RecoError
from reco.experiment import Experiment
from reco.files import atomic, open_array, read_metadata
from reco.method.bank import measure
from reco.models import Loader, load
from reco.progress import LOG
from reco.workflow.bank import pack_spaces
from reco.workflow.embed import embed_features
from reco.workflow.retrieve import read_rows

MEASURED = 200  # images: at 320 pixels and stride 32, 20,000 positions


def draw(experiment: Experiment, total: int, count: int) -> dict[int, tuple[str, str]]:
    """Index images drawn at random, by the experiment's seed: row of the index -> path and key.

    A smaller count gives the first ones of a larger one.

    Args:
        total: number of usable images.
    """
    rows = np.random.default_rng(experiment.config.seed).permutation(total)[:count]
    found = read_rows(Path(experiment.usable), set(rows.tolist()))
    return {row: found[row] for row in rows.tolist()}


def whiten_index(experiment: Experiment, embeddings: Path, load: Loader = load) -> None:
    """Measure the spaces of all scales on MEASURED images of the index and write them.

    The features come from the store, which the archives' images share.

    Args:
        embeddings: .npy of `reco gather`, whose mark is noted in the file.

    Raises:
        RecoError: an image cannot be read any more, or see `reco.method.bank.measure`.
    """
    total = len(open_array(embeddings))
    drawn = draw(experiment, total, MEASURED)
    items = {key: experiment.index_root / path for path, key in drawn.values()}
    spaces = {}
    for scale in experiment.config.bank.scales:
        places = embed_features(experiment, items, load, scale)["encoder"]
        features = read_places([places[key] for key in items])
        positions, channels = features[:, 0].size, features.shape[1]
        if positions < channels:
            LOG.warning(
                "whitening: %d positions for %d channels at %d pixels: the index is small, so the "
                "space rests on the shrinkage; more images make it better",
                *(positions, channels, scale),
            )
        spaces[scale] = measure(features)
    _write(Path(experiment.whitening), pack_spaces(spaces), index_mark(embeddings))


def _write(path: Path, tensors: dict[str, np.ndarray], mark: str) -> None:
    with atomic(path) as temporary:
        temporary.write_bytes(save(tensors, {"index": mark}))


def is_of_index(path: str | Path, mark: str) -> bool:
    """Whether a whitening is there and was measured on the index of this `index_mark`."""
    try:
        return read_metadata(path).get("index", "") == mark
    except RecoError:  # missing or damaged
        return False
