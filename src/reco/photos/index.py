"""Index: the photographs that words are learned from, listed and embedded."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np

from reco import models
from reco.data.embeddings import Description, description_of
from reco.data.folder import read_table, scan
from reco.errors import RecoError
from reco.experiment import Experiment
from reco.files import read_json, read_tensors
from reco.workflow.catalog import catalog_index
from reco.workflow.embed import embed_part, gather
from reco.workflow.retrieve import read_archive


def embed_index(experiment: Experiment, loader: models.Loader) -> None:
    """List and embed the index, unless its files are as they were."""
    config, root = experiment.config, experiment.index_root
    state = scan(root, times=True)
    made, described = Path(experiment.embeddings), replace(experiment, images=state.digest).index
    if made.exists() and _is_noted(description_of(made), described):
        return
    if not state.count:
        raise RecoError(f"{root}: holds no photographs to learn from")
    images, part = Path(experiment.data, "images/index.csv"), Path(experiment.data, "parts/all.csv")
    catalog_index(root, images, 1)
    embed_part(
        experiment, images, config.models.retrieval, config.sizes.retrieval, "1-of-1", part, loader
    )
    skipped = Path(experiment.data, "embeddings/skipped.csv")
    gather([part], made, Path(experiment.usable), skipped, described)


def _is_noted(path: Path, wanted: Description) -> bool:
    try:
        return read_json(path) == wanted
    except RecoError:  # missing, or torn
        return False


@dataclass(frozen=True)
class Sample:
    """Images drawn from the index: embeddings (m, d), features (m, c, h, w) and (m, d', h', w')."""

    paths: list[Path]
    embeddings: np.ndarray
    encoder: np.ndarray
    dense: np.ndarray


def _is_whole(text: str) -> bool:
    """Whether a concept's text embeddings are there."""
    try:
        return bool(read_tensors(text))
    except RecoError:
        return False


def _is_of_index(archive: str, mark: str) -> bool:
    """Whether an archive is there and was ranked from an index; see `index_mark`."""
    try:
        return {row["index"] for row in read_archive(archive)} == {mark}
    except RecoError:
        return False


def _is_of_archive(archive: str, features: str, count: int) -> bool:
    """Whether a list of features is there and is that of the archive's first images."""
    try:
        listed = read_table(features)
    except RecoError:
        return False
    return [row["key"] for row in listed] == [row["key"] for row in read_archive(archive)[:count]]


def _find_rows(usable: Path, paths: Sequence[str]) -> dict[str, int]:
    """The row of some images in the list of the index, which may be too long to hold."""
    wanted = set(paths)
    with open(usable, newline="", encoding="utf-8") as file:
        lines = enumerate(islice(csv.reader(file), 1, None))
        return {path: row for row, (path, _) in lines if path in wanted}
