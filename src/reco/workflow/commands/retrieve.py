"""The command of retrieve.smk."""

from pathlib import Path

import click

from reco.errors import RecoError
from reco.options import EMBEDDINGS, FILE, images_option


@click.command()
@EMBEDDINGS
@images_option("the image of every row of the embeddings")
@click.option(
    "--text", type=FILE, required=True, help="Text embeddings of a concept.", multiple=True
)
@click.option("--size", type=click.IntRange(1), required=True, help="Images of an archive.")
@click.option("--archive", type=FILE, required=True, help="CSV to write.", multiple=True)
def retrieve(
    embeddings: Path, images: Path, text: tuple[Path, ...], size: int, archive: tuple[Path, ...]
) -> None:
    """Keep the best images of a concept: its archive.

    For several concepts in one pass, give --text and --archive as often, in the same order.

    \b
    reco retrieve --embeddings index.npy --images index.csv --text zebra.safetensors \\
        --size 20 --archive zebra.csv
    """
    from reco.workflow.retrieve import retrieve_archives

    if len(text) != len(archive):
        raise RecoError(f"--text is given {len(text)} times, --archive {len(archive)} times")
    retrieve_archives(embeddings, images, text, size, archive)
