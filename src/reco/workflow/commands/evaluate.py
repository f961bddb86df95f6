"""Commands of evaluate.smk, and the one that walks back from its results."""

from pathlib import Path

import click

from reco.options import CONFIG, FILE, PLUS, ZERO_SHOT, images_option, open_experiment


@click.command()
@CONFIG
@images_option("images of the val split")
@ZERO_SHOT
@PLUS
@click.option("--metrics", type=FILE, required=True, help="CSV to write: a row per method.")
@click.option("--per-class", type=FILE, required=True, help="CSV to write: per method and class.")
@click.option("--summary", type=FILE, required=True, help="JSON to write: the main methods.")
def evaluate(
    config_file: Path,
    images: Path,
    zero_shot: Path,
    plus: Path | None,
    metrics: Path,
    per_class: Path,
    summary: Path,
) -> None:
    """Score all methods against the ground truth.

    \b
    reco evaluate --images data/stamps/images/val.csv --zero-shot data/stamps/masks/val \\
        --metrics metrics.csv --per-class per_class.csv --summary metrics.json
    """
    from reco.data.tables import read_table, write_table
    from reco.files import write_json
    from reco.workflow.evaluate import METRICS, PER_CLASS, evaluate, summarise

    experiment = open_experiment(config_file)
    methods = [(method, zero_shot / method.slug) for method in experiment.zero_shot]
    if plus:
        methods += [(method, plus / method.slug) for method in experiment.plus]
    rows, class_rows = evaluate(methods, experiment.split("val"), images, experiment.scored)
    write_table(metrics, METRICS, rows)
    write_table(per_class, PER_CLASS, class_rows)
    write_json(summary, summarise(read_table(metrics), experiment.best, experiment.paper))


@click.command()
@CONFIG
@click.option("--retrieval", type=FILE, required=True, help="CSV to write.")
@click.option("--summary", type=FILE, required=True, help="JSON to write: means over concepts.")
def precision(config_file: Path, retrieval: Path, summary: Path) -> None:
    """Precision of archives, where labels are known.

    \b
    reco precision --retrieval retrieval.csv --summary retrieval.json
    """
    from reco.data.tables import write_table
    from reco.files import write_json
    from reco.workflow.evaluate import RETRIEVAL, mean_precision, precision

    experiment = open_experiment(config_file)
    rows = []
    if experiment.index_labels:
        archives = [
            (concept.name, Path(experiment.archive(concept.slug)))
            for concept in experiment.targets
            if not concept.reference
        ]
        largest = experiment.config.all_archive_sizes[-1]
        rows = precision(archives, experiment.index_labels, range(1, largest + 1))
    write_table(retrieval, RETRIEVAL, rows)
    write_json(summary, mean_precision(rows, experiment.config.all_archive_sizes))


@click.command()
@CONFIG
@click.option("--run", type=FILE, required=True, help="JSON to write: versions, seed, devices ...")
@click.option("--merged", type=FILE, required=True, help="YAML to write: every key of the config.")
@click.option("--logs", type=FILE, help="Folder of the jobs' logs: tell where networks ran.")
@click.option("--stages", default="", help="Rules with networks, such as 'embed text'.")
@click.argument("files", type=FILE, nargs=-1)
def record(
    config_file: Path,
    run: Path,
    merged: Path,
    logs: Path | None,
    stages: str,
    files: tuple[Path, ...],
) -> None:
    """Write down what made the results.

    Config, revision, versions, seed, devices.

    FILES are files and folders whose digests are recorded.

    \b
    reco record --run run.json --merged config.yaml --logs data/stamps/logs data/stamps/masks
    """
    import yaml

    from reco.files import write_json, write_text
    from reco.workflow.record import describe_run

    experiment = open_experiment(config_file)
    values = experiment.config.model_dump(mode="json")
    write_text(merged, yaml.safe_dump(values, sort_keys=False, allow_unicode=True))
    write_json(run, describe_run(experiment, files, logs, stages.split()))


@click.command()
@click.argument("file", type=FILE)
def trace(file: Path) -> None:
    """Tell where a file comes from.

    Jobs, code, config, seed, packages, digests of the data. FILE is anything that the workflow
    made. Files that are not as the run recorded them are named.

    \b
    reco trace results/stamps/tables/methods.md
    """
    from reco.workflow.trace import trace

    click.echo(trace(file))
