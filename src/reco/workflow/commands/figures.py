"""Commands of figures.smk: what a person looks at."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from reco.errors import RecoError
from reco.options import (
    CONFIG,
    FILE,
    FILES,
    METRICS_TABLE,
    PLUS,
    RETRIEVAL_TABLE,
    RUN,
    images_option,
    open_experiment,
)
from reco.revision import uncommitted

if TYPE_CHECKING:
    pass


@click.group()
def table() -> None:
    """Write a table to FILES: .md, .tex or .html."""


@table.command("components")
@CONFIG
@METRICS_TABLE
@images_option("images of the val split")
@RUN
@FILES
def table_components(
    config_file: Path, metrics: Path, images: Path, run: Path, files: tuple[Path, ...]
) -> None:
    """The parts of ReCo, switched on and off."""
    import pandas as pd

    from reco.workflow.tables import components_table, provenance_of_split, write_tables

    experiment = open_experiment(config_file)
    made = components_table(pd.read_csv(metrics), experiment.paper, experiment.best)
    title = "Parts of ReCo: language guidance (LGC), context elimination (CE), CRF, in percent."
    notes = [provenance_of_split(experiment, images), uncommitted(run)]
    write_tables(made, title, notes, *files)


@table.command("methods")
@CONFIG
@METRICS_TABLE
@images_option("images of the val split")
@click.option("--curve", type=FILE, help="curve.csv of `reco train`.")
@RUN
@FILES
def table_methods(
    config_file: Path,
    metrics: Path,
    images: Path,
    curve: Path | None,
    run: Path,
    files: tuple[Path, ...],
) -> None:
    """DenseCLIP, ReCo and ReCo+, without and with the CRF."""
    import pandas as pd

    from reco.workflow.tables import best_on_val, methods_table, provenance_of_split, write_tables

    experiment = open_experiment(config_file)
    made = methods_table(pd.read_csv(metrics), experiment.paper, experiment.best)
    looks = best_on_val(pd.read_csv(curve)) if curve else ""
    notes = [looks, provenance_of_split(experiment, images), uncommitted(run)]
    write_tables(made, "Segmentation, in percent.", notes, *files)


@table.command("retrieval")
@CONFIG
@RETRIEVAL_TABLE
@images_option("images of the index")
@RUN
@FILES
def table_retrieval(
    config_file: Path, retrieval: Path, images: Path, run: Path, files: tuple[Path, ...]
) -> None:
    """Precision of the archive of every concept, the worst last."""
    import pandas as pd

    from reco.data.tables import read_table
    from reco.workflow.tables import provenance, retrieval_remarks, retrieval_table, write_tables

    experiment = open_experiment(config_file)
    names = [concept.name for concept in experiment.targets]
    sizes = experiment.config.all_archive_sizes
    made = retrieval_table(pd.read_csv(retrieval), names, sizes)
    title = "Retrieval: share of a concept's first k images that show it (P@k), in percent."
    index = f"index of {len(read_table(images))} images"
    notes = [*retrieval_remarks(made), provenance(experiment, index), uncommitted(run)]
    write_tables(made, title, notes, *files, bold=False)


@click.group()
def figure() -> None:
    """Draw a figure to FILES: .png or .pdf."""


@figure.command("archives")
@CONFIG
@RETRIEVAL_TABLE
@click.option("--concept", "slug", help="Slug of one concept; else several are chosen.")
@click.option("--count", type=click.IntRange(1), default=6, show_default=True, help="Concepts.")
@RUN
@FILES
def figure_archives(
    config_file: Path,
    retrieval: Path,
    slug: str | None,
    count: int,
    run: Path,
    files: tuple[Path, ...],
) -> None:
    """Archives with support and seeds: of several concepts, or all images of one."""
    import pandas as pd

    from reco.workflow.figures.archives import (
        archives_figure,
        choose_archives,
        precision_at,
        read_archive,
    )
    from reco.workflow.figures.style import write_figure

    experiment = open_experiment(config_file)
    k = experiment.config.archive_size
    precision = precision_at(pd.read_csv(retrieval), k)
    slugs = [slug] if slug else choose_archives(experiment, precision, count)
    if slug and slug not in experiment.concepts:
        raise RecoError(
            f"--concept {slug}: no such concept; known: {' '.join(experiment.concepts)}"
        )
    shown = k if slug else 8
    archives = [read_archive(experiment, slug, precision, shown) for slug in slugs]
    write_figure(archives_figure(archives, columns=8), *files, remark=uncommitted(run))


@figure.command("predictions")
@CONFIG
@images_option("images of the val split")
@click.option("--zero-shot", type=FILE, required=True, help="Masks of `reco segment-split`.")
@PLUS
@click.option("--count", type=click.IntRange(1), default=6, show_default=True, help="Images.")
@RUN
@FILES
def figure_predictions(
    config_file: Path,
    images: Path,
    zero_shot: Path,
    plus: Path | None,
    count: int,
    run: Path,
    files: tuple[Path, ...],
) -> None:
    """Predictions beside the ground truth, from the best image to the worst."""
    from reco.data.tables import read_table
    from reco.workflow.figures.predictions import (
        choose_predictions,
        prediction_methods,
        predictions_figure,
    )
    from reco.workflow.figures.style import write_figure
    from reco.workflow.tables import method_name

    experiment = open_experiment(config_file)
    methods = prediction_methods(experiment)
    folders = [zero_shot / method.slug for method in methods if method.method != "reco_plus"]
    if plus:
        folders += [plus / method.slug for method in methods if method.method == "reco_plus"]
    chosen = choose_predictions(experiment.split("val"), read_table(images), folders, count)
    ways = {method.recipe for method in methods if method.method == "reco"}
    names = [
        method_name(method.method, method.crf, method.recipe if len(ways) > 1 else "")
        if method.method == "reco"
        else method_name(method.method, method.crf)
        for method in methods
    ]
    write_figure(
        predictions_figure(chosen, names, experiment.scored), *files, remark=uncommitted(run)
    )


@figure.command("archive-size")
@CONFIG
@METRICS_TABLE
@RUN
@FILES
def figure_archive_size(
    config_file: Path, metrics: Path, run: Path, files: tuple[Path, ...]
) -> None:
    """mIoU against the number of images in an archive."""
    import pandas as pd

    from reco.workflow.figures.curves import archive_size_figure
    from reco.workflow.figures.style import write_figure

    experiment = open_experiment(config_file)
    label, others = experiment.compared("metrics.csv")
    drawn = archive_size_figure(
        pd.read_csv(metrics),
        experiment.paper,
        label or "ReCo",
        {name: pd.read_csv(path) for name, path in others.items()},
    )
    write_figure(drawn, *files, remark=uncommitted(run))


@figure.command("precision")
@CONFIG
@RETRIEVAL_TABLE
@images_option("images of the index")
@RUN
@FILES
def figure_precision(
    config_file: Path, retrieval: Path, images: Path, run: Path, files: tuple[Path, ...]
) -> None:
    """Precision of retrieval against the number of images in an archive."""
    import pandas as pd

    from reco.workflow.figures.curves import precision_figure
    from reco.workflow.figures.style import write_figure

    label, others = open_experiment(config_file).compared("retrieval.csv")
    drawn = precision_figure(
        pd.read_csv(retrieval),
        len(pd.read_csv(images)),
        label,
        {name: pd.read_csv(path) for name, path in others.items()},
    )
    write_figure(drawn, *files, remark=uncommitted(run))


@figure.command("rare")
@click.option("--scores", type=FILE, required=True, help="rare.csv of `reco rare`.")
@click.option("--summary", type=FILE, required=True, help="rare.json of `reco rare`.")
@RUN
@FILES
def figure_rare(scores: Path, summary: Path, run: Path, files: tuple[Path, ...]) -> None:
    """IoU of one concept against the threshold on its saliency."""
    import pandas as pd

    from reco.files import read_json
    from reco.workflow.figures.curves import rare_figure
    from reco.workflow.figures.style import write_figure

    drawn = rare_figure(pd.read_csv(scores), read_json(summary))
    write_figure(drawn, *files, remark=uncommitted(run))


@figure.command("training")
@click.option("--curve", type=FILE, required=True, help="curve.csv of `reco train`.")
@RUN
@FILES
def figure_training(curve: Path, run: Path, files: tuple[Path, ...]) -> None:
    """Loss of ReCo+ by step."""
    import pandas as pd

    from reco.workflow.figures.curves import training_figure
    from reco.workflow.figures.style import write_figure

    write_figure(training_figure(pd.read_csv(curve)), *files, remark=uncommitted(run))
