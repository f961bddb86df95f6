"""Methods: DenseCLIP, ReCo and ReCo+, each without and with the CRF."""

from pathlib import Path

import click
import pandas as pd

from reco.method.variants import Method
from reco.options import CONFIG, FILE, FILES, METRICS_TABLE, RUN, images_option, open_experiment
from reco.revision import uncommitted
from reco.workflow.evaluate import WAY
from reco.workflow.tables.formats import write_tables
from reco.workflow.tables.names import method_name, percent
from reco.workflow.tables.provenance import provenance_of_split


def methods_table(metrics: pd.DataFrame, paper: Method, best: Method) -> pd.DataFrame:
    """DenseCLIP, ReCo with all its parts and ReCo+, each without and with the CRF.

    Args:
        paper, best: ReCo with all its parts, by the paper's recipe and by the experiment's;
            where they differ, both are rows, and named.
    """
    several = best.recipe != paper.recipe
    rows = metrics[
        (metrics.method == "denseclip")
        | (_of(metrics, paper) & (metrics.method == "reco"))
        | (_of(metrics, best) & metrics.method.isin(["reco", "reco_plus"]))
    ]
    names = [
        method_name(row.method, row.crf, row.recipe if several and row.method == "reco" else "")
        for row in rows.itertuples()
    ]
    return pd.DataFrame({"Method": names} | percent(rows))


def _of(metrics: pd.DataFrame, method: Method) -> pd.Series:
    """Which rows are of a method's recipe and parts, with or without a CRF."""
    return (metrics[list(WAY)] == [getattr(method, name) for name in WAY]).all(axis=1)


def best_on_val(curve: pd.DataFrame) -> str:
    """What choosing a checkpoint of ReCo+ on val would have given; "" where val was not looked at.

    The released code reports that choice, which reads the labels that are scored.
    """
    looks = curve.dropna(subset="val_mean_iou")
    if looks.empty:
        return ""
    best, last = looks.loc[looks.val_mean_iou.idxmax()], looks.iloc[-1]
    return (
        f"Of {len(looks)} checkpoints of ReCo+ the best on val, without CRF, has "
        f"{100 * best.val_mean_iou:.1f} mIoU (step {best.step:.0f}), the last "
        f"{100 * last.val_mean_iou:.1f}. To choose it takes the labels that are scored: no result."
    )


@click.command()
@CONFIG
@METRICS_TABLE
@images_option("images of the val split")
@click.option("--curve", type=FILE, help="curve.csv of `reco train`.")
@RUN
@FILES
def methods(
    config_file: Path,
    metrics: Path,
    images: Path,
    curve: Path | None,
    run: Path,
    files: tuple[Path, ...],
) -> None:
    """DenseCLIP, ReCo and ReCo+, without and with the CRF."""
    experiment = open_experiment(config_file)
    made = methods_table(pd.read_csv(metrics), experiment.paper, experiment.best)
    looks = best_on_val(pd.read_csv(curve)) if curve else ""
    notes = [
        looks,
        provenance_of_split(experiment, experiment.split("val"), images),
        uncommitted(run),
    ]
    write_tables(made, "Segmentation, in percent.", notes, *files)
