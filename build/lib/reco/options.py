"""Options that several commands share."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from reco.experiment import Experiment

FILE = click.Path(path_type=Path)
CONFIG = click.option(
    "--config",
    "config_file",
    type=FILE,
    envvar="RECO_CONFIG",
    default="config/config.yaml",
    show_default=True,
    show_envvar=True,
    help="Config of the experiment.",
)
ZERO_SHOT = click.option(
    "--zero-shot", type=FILE, required=True, help="Masks of `reco segment-split`."
)
PLUS = click.option("--plus", type=FILE, help="Masks of `reco segment-plus`, if it was trained.")
MASKS = click.option(
    "--masks", type=FILE, required=True, help="Folder to write, one folder a method."
)
FEATURES = click.option(
    "--features", type=FILE, required=True, help="CSV: where the features of the archive are."
)
EMBEDDINGS = click.option("--embeddings", type=FILE, required=True, help=".npy of `reco gather`.")
MODEL = click.option("--model", required=True, help="Language-image model that ranks the index.")
SIZE = click.option("--size", type=int, required=True, help="Side of its input in pixels.")
SPLIT = click.option("--split", type=click.Choice(["train", "val"]), required=True)
WORKERS = click.option(
    "--workers",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Processes or threads.",
)
EXPERIMENT = click.option(
    "--experiment", help="Whose index and settings to use.  [default: stamps]"
)
INDEX = click.option("--index", type=FILE, help="A folder of photographs to learn from instead.")
ARCHIVE_SIZE = click.option(
    "--archive-size", type=click.IntRange(1), help="Images to learn a concept from."
)
DOUBTFUL = click.option(
    "--doubtful", is_flag=True, help="Take words, too, that no image looks like."
)
EDGES = click.option(
    "--crf/--no-crf", default=True, show_default=True, help="Follow edges: a dense CRF; slower."
)
RUN = click.option(
    "--run", type=FILE, required=True, help="run.json: tells of uncommitted changes."
)
FILES = click.argument("files", type=FILE, nargs=-1, required=True)
METRICS_TABLE = click.option(
    "--metrics", type=FILE, required=True, help="metrics.csv of `reco evaluate`."
)
RETRIEVAL_TABLE = click.option(
    "--retrieval", type=FILE, required=True, help="retrieval.csv of `reco precision`."
)


def images_option(what: str) -> Callable:
    """The option that names a list of images: of `reco catalog`, `catalog-split` or `gather`."""
    return click.option("--images", type=FILE, required=True, help=f"CSV: {what}.")


def open_experiment(config_file: Path) -> "Experiment":
    """The experiment of a config file."""
    from reco.config import load  # a job per concept must not wait for these
    from reco.experiment import Experiment

    return Experiment(load(config_file))
