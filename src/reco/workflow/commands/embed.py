"""Commands of embed.smk: images and texts in the spaces of the networks."""

from pathlib import Path

import click

from reco.options import CONFIG, FILE, MODEL, SIZE, SPLIT, images_option, open_experiment


@click.command()
@CONFIG
@images_option("images of the index")
@MODEL
@SIZE
@click.option(
    "--part", default="1-of-1", show_default=True, help="Which slice: 3-of-64 is the third of 64."
)
@click.option("--table", type=FILE, required=True, help="CSV to write: where embeddings are.")
def embed(config_file: Path, images: Path, model: str, size: int, part: str, table: Path) -> None:
    """Embed images of the index that the store lacks.

    \b
    reco embed --images data/stamps/images/index.csv --model packaged --size 320 --table part.csv
    """
    from reco.workflow.embed import embed_part

    embed_part(open_experiment(config_file), images, model, size, part, table)


@click.command()
@click.argument("parts", nargs=-1, required=True, type=FILE)
@click.option("--embeddings", type=FILE, required=True, help=".npy to write: (n, d), unit rows.")
@click.option("--usable", type=FILE, required=True, help="CSV to write: the image of every row.")
@click.option("--skipped", type=FILE, required=True, help="CSV to write: unreadable files, why.")
@MODEL
@SIZE
@click.option("--state", required=True, help="State of the images, noted beside the embeddings.")
def gather(
    parts: tuple[Path, ...],
    embeddings: Path,
    usable: Path,
    skipped: Path,
    model: str,
    size: int,
    state: str,
) -> None:
    """Gather the embeddings of all PARTS in one matrix.

    PARTS are tables of `reco embed`, in order.

    \b
    reco gather part.csv --embeddings index.npy --usable index.csv --skipped skipped.csv \\
        --model packaged --size 320 --state mine
    """
    from reco.data.embeddings import Description
    from reco.workflow.embed import gather

    described = Description(model=model, size=size, state=state)
    gather(parts, embeddings, usable, skipped, described)


@click.command("embed-split")
@CONFIG
@SPLIT
@images_option("images of the split")
@click.option("--table", type=FILE, required=True, help="CSV to write: where features are.")
def embed_split(config_file: Path, split: str, images: Path, table: Path) -> None:
    """Compute features of a split that the store lacks.

    \b
    reco embed-split --split val --images data/stamps/images/val.csv --table val.csv
    """
    from reco.workflow.views import embed_split

    embed_split(open_experiment(config_file), split, images, table)


@click.command()
@CONFIG
def text(config_file: Path) -> None:
    """Embed texts of concepts that the store lacks.

    \b
    reco text --config mine.yaml
    """
    from reco.workflow.text import embed_concepts

    embed_concepts(open_experiment(config_file))
