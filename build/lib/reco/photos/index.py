"""Index: the photographs that words are learned from, listed and embedded."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path

import numpy as np

from reco import models
from reco.concepts import slugify
from reco.config import Config, FolderIndex, check_config
from reco.config import load as read_config
from reco.data.embeddings import Description, description_of
from reco.data.folder import printable, scan
from reco.data.imagenet import vocabulary
from reco.data.store import read_places
from reco.errors import RecoError
from reco.experiment import Experiment
from reco.files import fingerprint, open_array, read_json
from reco.method.bank import Space
from reco.workflow.bank import read_spaces
from reco.workflow.catalog import catalog_index
from reco.workflow.embed import embed_features, embed_part, gather
from reco.workflow.text import embed_names
from reco.workflow.whiten import draw

SAMPLE = 64  # images drawn from the index, to tell what a word is not


def find_config(
    experiment: str | None, config: str | Path | Config | None, *, indexed: bool = False
) -> Config:
    """The config that is given or named, else that of the experiment's last run.

    Args:
        experiment: None = stamps.
        indexed: whether another index takes the place of the experiment's. Then the defaults do
            where no experiment was named or run: photographs and words need no project.

    Raises:
        RecoError: no such file, or no such experiment.
    """
    if isinstance(config, Config):
        return config
    if config is not None:
        return read_config(config)
    name = experiment or "stamps"
    recorded = Path("results", name, "config.yaml")
    merged = sorted(
        Path("data", name, "config").glob("[0-9a-f]*.json"), key=lambda p: p.stat().st_mtime
    )
    for file in [recorded, *reversed(merged)]:
        if file.exists():
            return read_config(file)
    if indexed and experiment is None:
        return check_config({}).model_copy(update={"benchmark": None, "train": None})
    known = sorted(path.parent.name for path in Path("results").glob("*/config.yaml"))
    raise RecoError(
        f"no experiment {name!r} here; known: {', '.join(known) or 'none'}. Run this in the "
        "project's folder, or name a folder of photographs to learn from (--index)"
    )


def check_index(experiment: Experiment) -> None:
    """Raise RecoError unless the index of an experiment was embedded, by its config's model."""
    config, made = experiment.config, experiment.embeddings
    if not Path(made).exists():
        raise RecoError(
            f"{made}: the index of {config.experiment!r} was not embedded yet: "
            f"run 'snakemake --cores all {made}' in the project's folder, or name "
            "a folder of photographs as the index"
        )
    found, wanted = experiment.index, (config.models.retrieval, config.sizes.retrieval)
    if (found["model"], found["size"]) != wanted:
        raise RecoError(
            f"{made}: embedded by {found['model']} at {found['size']} pixels, but the config "
            f"asks for {wanted[0]} at {wanted[1]}: run 'snakemake --cores all {made}' with "
            "this config, or load the experiment with its own"
        )


def with_folder(config: Config, index: Path) -> Config:
    """A config whose index is a folder of photographs; it is an experiment of its own.

    Raises:
        RecoError: no such folder, or one whose name cannot be written down.
    """
    root = index.absolute()
    if not root.is_dir():
        raise RecoError(f"{root}: no such folder: name one with photographs to learn from")
    if printable(str(root)) != str(root):
        raise RecoError(f"{printable(str(root))}: rename it: this name is not text in UTF-8")
    name = f"{slugify(root.name)[:40]}-{fingerprint(str(root), 6)}"
    changes = {"experiment": name, "index": FolderIndex(kind="folder", root=root)}
    return config.model_copy(update=changes)


def embed_index(experiment: Experiment, loader: models.Loader) -> None:
    """List and embed the index, unless its files are as they were.

    Raises:
        RecoError: it holds no photographs, or none that can be read.
    """
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
    """Images drawn from the index.

    Attributes:
        paths: of the m files.
        embeddings: (m, d) float32.
        encoder, dense: features (m, c, h, w) and (m, d', h', w') float32.
    """

    paths: list[Path]
    embeddings: np.ndarray
    encoder: np.ndarray
    dense: np.ndarray


@dataclass(frozen=True)
class Index:
    """An index that was embedded. What is known of it as a whole is found when first asked for.

    Attributes:
        plan: of an experiment with this index.
        loader: see `reco.photos.segmenter.Segmenter`.
    """

    plan: Experiment
    loader: models.Loader

    @cached_property
    def embeddings(self) -> np.ndarray:
        """(n, d), a row per image; read where it lies."""
        return open_array(self.plan.embeddings)

    @cached_property
    def vocabulary(self) -> tuple[list[str], np.ndarray]:
        """Names of common things, and their text embeddings (m, d); see `reco.method.doubt`."""
        names = vocabulary()
        return names, embed_names(self.plan, names, self.loader)

    @cached_property
    def spaces(self) -> dict[int, Space]:
        """Whitened features by scale of the bank; their file must have been made."""
        return read_spaces(self.plan.whitening, self.plan.config.bank.scales)

    @cached_property
    def sample(self) -> Sample:
        """Images drawn from the index at random; features of them are kept in the store."""
        plan, config = self.plan, self.plan.config
        drawn = draw(plan, len(self.embeddings), SAMPLE)
        keys = {key: plan.index_root / path for path, key in drawn.values()}
        scale = config.bank.scales[0] if config.banked else None
        places = embed_features(plan, keys, self.loader, scale)
        return Sample(
            list(keys.values()),
            np.asarray(self.embeddings[list(drawn)], np.float32),
            read_places([places["encoder"][key] for key in keys]),
            read_places([places["dense"][key] for key in keys]),
        )

    def rows(self, paths: Sequence[str]) -> np.ndarray:
        """(k, d) float32 embeddings of some images, by their paths below the index."""
        found = _find_rows(Path(self.plan.usable), paths)
        return np.asarray(self.embeddings[[found[path] for path in paths]], np.float32)


def _find_rows(usable: Path, paths: Sequence[str]) -> dict[str, int]:
    """The row of some images in the list of the index, which may be too long to hold."""
    wanted = set(paths)
    with open(usable, newline="", encoding="utf-8") as file:
        lines = enumerate(islice(csv.reader(file), 1, None))
        return {path: row for row, (path, _) in lines if path in wanted}
