"""The line below a table that says how it was made."""

from pathlib import Path

from reco.config import config_fingerprint
from reco.data.split import Split
from reco.data.tables import read_table
from reco.experiment import Experiment


def provenance(experiment: Experiment, what: str) -> str:
    """How a table was made, in a line.

    Args:
        what: the images it is about, such as `split val: 120 images, 73 classes`.
    """
    config = experiment.config
    return (
        f"Experiment {config.experiment}, {what}; {len(experiment.targets)} concepts, "
        f"archives of k = {config.archive_size}, seed {config.seed}, "
        f"config {config_fingerprint(config)}."
    )


def provenance_of_split(experiment: Experiment, split: Split, images: Path) -> str:
    """How a table of the scores of a split was made; `images` is the list of the split."""
    count, classes = len(read_table(images)), len(experiment.scored)
    return provenance(experiment, f"split {split.name}: {count} images, {classes} classes")
