"""Commands of download.smk: what an experiment starts from."""

from pathlib import Path

import click

from reco.options import CONFIG, FILE, SPLIT, WORKERS, open_experiment


@click.command()
@click.option("--weights", type=FILE, required=True, help="The safetensors file to write.")
def weights(weights: Path) -> None:
    """Convert the packaged network's weights.

    To safetensors; both are checked by SHA-256.

    \b
    reco weights --weights data/models/packaged/tf_efficientnet_lite2.safetensors
    """
    from reco.models.packaged import convert

    convert(weights.parent)


@click.command()
@click.option("--packages", type=FILE, required=True, help="YAML list of Debian packages.")
@click.option(
    "--source",
    default="apt",
    show_default=True,
    help="apt, a folder with the .deb files, or the address of a Debian mirror.",
)
@click.option("--folder", type=FILE, required=True, help="Where the .deb files go.")
def fetch(packages: Path, source: str, folder: Path) -> None:
    """Fetch the photographs of `stamps`.

    They are in Debian packages, which are checked by SHA-256.

    \b
    reco fetch --packages config/stamps/packages.yaml --folder data/packages
    """
    from reco.data.downloads.debian import fetch

    fetch(packages, folder, source=None if source == "apt" else source)


@click.command()
@click.argument("names", nargs=-1)
@click.option(
    "--folder", type=FILE, default="data/downloads", show_default=True, help="Where they go."
)
@click.option(
    "--root", type=FILE, help="Where a dataset lies that you signed for.  [default: FOLDER/NAME]"
)
@click.option(
    "--listing", type=FILE, default="config/downloads.yaml", show_default=True, help="The list."
)
def download(names: tuple[str, ...], folder: Path, root: Path | None, listing: Path) -> None:
    """Fetch datasets and weights of the paper.

    \b
    reco download                    # lists what there is
    reco download clip-rn50 voc-2010  # fetches, checks, unpacks

    NAMES are those of config/downloads.yaml; without any, they are listed. What its owners give
    only to those who sign up is not fetched: the command says where to sign and what is missing.
    """
    from reco.data.downloads.listing import read_downloads
    from reco.data.downloads.published import fetch_download

    if not names:
        known = read_downloads(listing)
        width = max(len(entry.name) for entry in [*known.downloads, *known.gated])
        for entry in known.downloads:
            click.echo(f"{entry.name:{width}}  {entry.title} ({entry.licence}: {entry.terms})")
        for owned in known.gated:
            click.echo(f"{owned.name:{width}}  {owned.title}: sign up at {owned.page}")
    for name in names:
        fetch_download(name, folder, listing=listing, root=root)


@click.command()
@click.argument("kind", type=click.Choice(["embeddings", "references"]))
@click.argument("source", metavar="PICKLE", type=FILE)
@click.argument("out", type=FILE)
def convert(kind: str, source: Path, out: Path) -> None:
    """Convert a pickle that the paper's authors released.

    Nothing in it is executed.

    \b
    reco convert references released.pkl references.safetensors

    embeddings: of images, to OUT (.npy) and the list of files beside it (.csv).
    references: embeddings of concepts, to OUT (.safetensors).
    """
    from reco.data.released import convert_embeddings, convert_references

    if kind == "embeddings":
        convert_embeddings(source, out, out.with_suffix(".csv"))
    else:
        convert_references(source, out)


@click.command()
@CONFIG
@click.option(
    "--packages", type=FILE, default="data/packages", show_default=True, help="The .debs."
)
@click.option(
    "--photographs", type=FILE, default="data/photographs", show_default=True, help="Unpacked here."
)
@WORKERS
def compose(config_file: Path, packages: Path, photographs: Path, workers: int) -> None:
    """Compose the scenes of `stamps` from photographs.

    \b
    reco compose --workers 2
    """
    from reco.data.downloads.debian import unpack
    from reco.data.downloads.listing import read_packages
    from reco.data.scenes import compose
    from reco.data.tables import read_table
    from reco.experiment import BACKGROUNDS, CUTOUTS, PACKAGES
    from reco.files import read_json, shipped, write_json
    from reco.workflow.plan import scan_images

    experiment = open_experiment(config_file)
    cutouts, backgrounds = shipped(CUTOUTS), shipped(BACKGROUNDS)
    config, rows = experiment.config, read_table(cutouts) + read_table(backgrounds)
    for package in read_packages(shipped(PACKAGES)):
        wanted = [row["path"] for row in rows if row["package"] == package.name]
        unpack(packages / package.file, photographs / package.name, wanted)
    sizes = config.stamps.model_dump(include={"size", "index", "train", "val"})
    scenes = Path(experiment.scenes)
    compose(cutouts, backgrounds, photographs, scenes, seed=config.seed, workers=workers, **sizes)
    record = read_json(scenes / "composed.json")
    state = {name: found.digest for name, found in scan_images(experiment).items()}
    write_json(scenes / "composed.json", {**record, "state": state})


@click.command()
@CONFIG
@click.option("--index", type=FILE, required=True, help="CSV to write: images of the index.")
@click.option("--labels", type=FILE, help="CSV to write: what they show, where folders tell it.")
@WORKERS
def catalog(config_file: Path, index: Path, labels: Path | None, workers: int) -> None:
    """List the images of the index.

    Only those that are new or changed are read.

    \b
    reco catalog --index index.csv --workers 2
    """
    from reco.workflow.catalog import catalog_index, label_index

    experiment = open_experiment(config_file)
    catalog_index(
        experiment.index_root,
        index,
        experiment.config.deepest_archive,
        known=Path(experiment.digests),
        workers=workers,
    )
    if labels:
        label_index(index, labels)


@click.command("catalog-split")
@CONFIG
@SPLIT
@click.option("--images", type=FILE, required=True, help="CSV to write: images of the split.")
def catalog_split(config_file: Path, split: str, images: Path) -> None:
    """List and check the images of a split and its masks.

    \b
    reco catalog-split --split val --images val.csv
    """
    from reco.workflow.catalog import catalog_split

    catalog_split(open_experiment(config_file).split(split), images, need_masks=split == "val")
