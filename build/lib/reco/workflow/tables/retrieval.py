"""Retrieval: precision of the archive of every concept."""

from collections.abc import Sequence
from pathlib import Path

import click
import pandas as pd

from reco.data.tables import read_table
from reco.options import CONFIG, FILES, RETRIEVAL_TABLE, RUN, images_option, open_experiment
from reco.revision import uncommitted
from reco.workflow.tables.formats import write_tables
from reco.workflow.tables.provenance import provenance


def retrieval_table(
    retrieval: pd.DataFrame, concepts: Sequence[str], sizes: Sequence[int]
) -> pd.DataFrame:
    """Precision of every concept's archive, the worst concept last.

    Args:
        retrieval: retrieval.csv of `reco precision`; concepts that the labels of the index do not
            name are missing there and have nan here.
        concepts: names of all target concepts.
        sizes: values of k, ascending; the largest one orders the concepts.
    """
    wide = retrieval.pivot(index="concept", columns="k", values="precision")
    wide = 100 * wide.reindex(index=list(concepts), columns=list(sizes)).astype(float)
    known = retrieval.drop_duplicates("concept").set_index("concept").in_index
    wide.columns = [f"P@{k}" for k in sizes]
    wide.insert(0, "In index", known.reindex(wide.index).astype("Int64").astype("string"))
    wide = wide.rename_axis("Concept").reset_index()
    return wide.sort_values(
        [f"P@{sizes[-1]}", "Concept"], ascending=[False, True], ignore_index=True
    )


def retrieval_remarks(table: pd.DataFrame) -> list[str]:
    """Sentences on the concepts that retrieval cannot find, or that nobody can tell of."""
    last = table.columns[-1]
    k = last.removeprefix("P@")
    unknown, never = table.Concept[table[last].isna()], table.Concept[table[last] == 0]
    remarks = []
    if len(never):
        remarks.append(f"Never found in the first {k} images: {', '.join(never)}.")
    if len(unknown):
        remarks.append(f"Unknown, for no label of the index names them: {', '.join(unknown)}.")
    return remarks


@click.command()
@CONFIG
@RETRIEVAL_TABLE
@images_option("images of the index")
@RUN
@FILES
def retrieval(
    config_file: Path, retrieval: Path, images: Path, run: Path, files: tuple[Path, ...]
) -> None:
    """Precision of the archive of every concept, the worst last."""
    experiment = open_experiment(config_file)
    names = [concept.name for concept in experiment.targets]
    made = retrieval_table(pd.read_csv(retrieval), names, experiment.config.all_archive_sizes)
    title = "Retrieval: share of a concept's first k images that show it (P@k), in percent."
    index = f"index of {len(read_table(images))} images"
    notes = [*retrieval_remarks(made), provenance(experiment, index), uncommitted(run)]
    write_tables(made, title, notes, *files, bold=False)
