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
PLUS = click.option("--plus", type=FILE, help="Masks of `reco segment-plus`, if it was trained.")
SPLIT = click.option("--split", type=click.Choice(["train", "val"]), required=True)
WORKERS = click.option(
    "--workers",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Processes or threads.",
)
EXPERIMENT = click.option(
    "--experiment", default="stamps", show_default=True, help="Whose index and settings to use."
)
INDEX = click.option("--index", type=FILE, help="A folder of photographs to learn from instead.")
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
    """The option that names a table made by `reco catalog`."""
    return click.option("--images", type=FILE, required=True, help=f"CSV: {what}.")


def open_experiment(config_file: Path) -> "Experiment":
    """The experiment of a config file."""
    from reco.config import load  # a job per concept must not wait for these
    from reco.experiment import Experiment

    return Experiment(load(config_file))
