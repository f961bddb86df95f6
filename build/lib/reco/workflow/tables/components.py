"""Components: the parts of ReCo, switched on and off."""

from pathlib import Path

import click
import pandas as pd

from reco.method.variants import Method
from reco.options import CONFIG, FILES, METRICS_TABLE, RUN, images_option, open_experiment
from reco.revision import uncommitted
from reco.workflow.tables.formats import write_tables
from reco.workflow.tables.names import METHOD_NAMES, RECIPES, percent
from reco.workflow.tables.provenance import provenance_of_split


def components_table(metrics: pd.DataFrame, paper: Method, best: Method) -> pd.DataFrame:
    """The parts of ReCo switched on and off, at the archive size of the recipe.

    Where there is a bank of seeds, its parts are added one by one: `RECIPES`.

    Args:
        metrics: metrics.csv of `reco evaluate`, scores in 0..1.
        paper, best: ReCo with all its parts, by the paper's recipe and by the experiment's.
    """
    sizes = {0, paper.archive_size}
    rows = metrics[
        (metrics.archive_size.isin(sizes) | (metrics.recipe != "paper"))
        & (metrics.method != "reco_plus")
    ]
    parts = {"Method": rows.method.map(METHOD_NAMES)}
    if best.recipe != paper.recipe:
        parts["Recipe"] = rows.recipe.map(RECIPES).where(rows.method != "denseclip")
    parts |= {
        "LGC": rows.lgc.astype(bool),
        "CE": rows.ce.astype(bool),
        "CRF": rows.crf.astype(bool),
        "k": rows.archive_size.where(rows.archive_size > 0).astype("Int64").astype("string"),
    }
    return pd.DataFrame(parts | percent(rows))


@click.command()
@CONFIG
@METRICS_TABLE
@images_option("images of the val split")
@RUN
@FILES
def components(
    config_file: Path, metrics: Path, images: Path, run: Path, files: tuple[Path, ...]
) -> None:
    """The parts of ReCo, switched on and off."""
    experiment = open_experiment(config_file)
    made = components_table(pd.read_csv(metrics), experiment.paper, experiment.best)
    title = "Parts of ReCo: language guidance (LGC), context elimination (CE), CRF, in percent."
    notes = [provenance_of_split(experiment, experiment.split("val"), images), uncommitted(run)]
    write_tables(made, title, notes, *files)
