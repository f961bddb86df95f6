"""Commands of train.smk."""

from pathlib import Path

import click

from reco.options import CONFIG, FILE, MASKS, WORKERS, images_option, open_experiment


@click.command()
@CONFIG
@images_option("images of the train split")
@click.option("--masks", type=FILE, help="Folder of the split's pseudo-masks; a probe needs none.")
@click.option("--weights", type=FILE, required=True, help="safetensors to write.")
@click.option("--model", type=FILE, required=True, help="JSON to write: what the weights are.")
@click.option("--curve", type=FILE, required=True, help="CSV to write: loss by step.")
@click.option("--val", type=FILE, help="CSV: images of the val split, for looks at it on the way.")
@WORKERS
def train(
    config_file: Path,
    images: Path,
    masks: Path | None,
    weights: Path,
    model: Path,
    curve: Path,
    val: Path | None,
    workers: int,
) -> None:
    """Train ReCo+ on ReCo's own masks.

    From the last checkpoint, if it was killed.

    DeepLab has --workers processes that draw its crops.

    \b
    reco train --images data/stamps/images/train.csv --weights model.safetensors \\
        --model model.json --curve curve.csv
    """
    from reco.workflow.train import train_plus

    experiment = open_experiment(config_file)
    features = experiment.kept_features("train")
    train_plus(experiment, images, masks, weights, model, curve, val, features, workers)


@click.command("segment-plus")
@CONFIG
@images_option("images of the val split")
@click.option("--weights", type=FILE, required=True, help="Weights of `reco train`.")
@click.option("--model", type=FILE, required=True, help="Their description.")
@MASKS
@WORKERS
def segment_plus(
    config_file: Path,
    images: Path,
    weights: Path,
    model: Path,
    masks: Path,
    workers: int,
) -> None:
    """Segment the val split with ReCo+.

    \b
    reco segment-plus --images data/stamps/images/val.csv --weights model.safetensors \\
        --model model.json --masks masks
    """
    from reco.workflow.train import segment_plus

    experiment = open_experiment(config_file)
    features = experiment.kept_features("val")
    segment_plus(experiment, images, weights, model, masks, workers, features)
