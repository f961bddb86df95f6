"""The command of rare.smk."""

from pathlib import Path

import click

from reco.options import CONFIG, FILE, images_option, open_experiment


@click.command()
@CONFIG
@images_option("images of the val split")
@click.option("--scores", type=FILE, required=True, help="CSV to write: IoU at every threshold.")
@click.option("--summary", type=FILE, required=True, help="JSON to write: at two thresholds.")
def rare(config_file: Path, images: Path, scores: Path, summary: Path) -> None:
    """Score one concept against background.

    \b
    reco rare --images data/stamps/images/val.csv --scores rare.csv --summary rare.json
    """
    from reco.data.tables import write_table
    from reco.files import write_json
    from reco.workflow.rare import RARE, rare, summarise, table

    experiment = open_experiment(config_file)
    found = rare(experiment, images, experiment.kept_features("val"))
    write_table(scores, RARE, table(found))
    write_json(summary, summarise(found))
