"""Commands of features.smk."""

from pathlib import Path

import click

from reco.options import CONFIG, EMBEDDINGS, open_experiment


@click.command()
@CONFIG
def features(config_file: Path) -> None:
    """Compute features of archives that the store lacks.

    And of the images of the index that a probe learns from.

    \b
    reco features --config mine.yaml
    """
    from reco.models import keeping_loader
    from reco.workflow.embed import embed_archives

    experiment, loader = open_experiment(config_file), keeping_loader()
    embed_archives(experiment, loader)
    if experiment.config.student == "probe":
        from reco.workflow.probe import embed_lessons

        embed_lessons(experiment, loader)


@click.command()
@CONFIG
@EMBEDDINGS
def whiten(config_file: Path, embeddings: Path) -> None:
    """Measure the spaces that seeds are compared in.

    On a sample of the index.

    \b
    reco whiten --embeddings data/stamps/embeddings/index.npy
    """
    from reco.models import keeping_loader
    from reco.workflow.whiten import whiten_index

    whiten_index(open_experiment(config_file), embeddings, keeping_loader())
