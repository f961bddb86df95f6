"""The command of segment.smk for a benchmark; see `reco.photos.commands` for photographs."""

from pathlib import Path

import click

from reco.options import CONFIG, FILE, MASKS, SPLIT, WORKERS, images_option, open_experiment


@click.command("segment-split")
@CONFIG
@SPLIT
@images_option("images of the split")
@MASKS
@WORKERS
@click.option(
    "--part", help="Make a slice alone, 3-of-8, beside the folder; for jobs side by side."
)
@click.option("--done", type=FILE, help="File to write when that slice is made.")
def segment_split(
    config_file: Path,
    split: str,
    images: Path,
    masks: Path,
    workers: int,
    part: str | None,
    done: Path | None,
) -> None:
    """Segment a split of a benchmark.

    Val with every method of the tables, train with the best one.

    Masks are made in a hidden folder beside --masks, so that those of a command that was killed
    are there for the next.

    \b
    reco segment-split --split val --images data/stamps/images/val.csv --masks masks
    """
    from reco.files import write_text
    from reco.workflow.segment import segment_split

    experiment = open_experiment(config_file)
    settings = experiment.config.train
    keep = settings.keep if settings and split == "train" else 1
    methods = experiment.methods(split)
    features = experiment.kept_features(split)
    segment_split(
        *(experiment, split, images, methods, masks, workers, keep), features=features, part=part
    )
    if done:
        write_text(done, f"{part or 'all'}\n")
