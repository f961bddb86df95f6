"""The command line: one command per rule of the workflow, with the same verb.

Commands import what they need when they run: a job per concept must not wait for torch.
"""

import logging
import os
import shlex
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from reco.errors import RecoError
from reco.files import MAKE_ROOM, disk_full
from reco.progress import LOG, open_log
from reco.revision import read_revision, uncommitted

if TYPE_CHECKING:
    from reco.experiment import Experiment
    from reco.method.cosegment import Merge, Variant

FILE = click.Path(path_type=Path)
CONFIG = click.option(
    "--config",
    "config_file",
    type=FILE,
    envvar="RECO_CONFIG",
    default="config/config.yaml",
    show_default=True,
    show_envvar=True,
    help="Config of the experiment.",
)
PLUS = click.option("--plus", type=FILE, help="Masks of `reco segment-plus`, if it was trained.")
SPLIT = click.option("--split", type=click.Choice(["train", "val"]), required=True)
WORKERS = click.option(
    "--workers",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Processes or threads.",
)


EXPERIMENT = click.option(
    "--experiment", default="stamps", show_default=True, help="Whose index and settings to use."
)
INDEX = click.option("--index", type=FILE, help="A folder of photographs to learn from instead.")


def images_option(what: str) -> Callable:
    """The option that names a table made by `reco catalog`."""
    return click.option("--images", type=FILE, required=True, help=f"CSV: {what}.")


class InOrder(click.Group):
    """A group that lists its commands in the order of the method, not of the alphabet."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names as they were defined."""
        return list(self.commands)


@click.group(
    cls=InOrder, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.option("--log", type=FILE, help="Also write messages and progress to this file.")
def commands(log: Path | None) -> None:
    """ReCo: retrieve and co-segment for zero-shot transfer.

    The workflow (`snakemake --cores all`) calls these commands in the order of the method; each
    can be run by hand. `reco COMMAND --help` says what a command reads and writes.
    """
    open_log(log)
    if log:
        LOG.debug("code: %s", read_revision() or "not in a git checkout")
        LOG.debug("config: %s", os.environ.get("RECO_CONFIG", "see the command"))
        LOG.debug("command: %s", shlex.join(["reco", *sys.argv[1:]]))


def main() -> None:
    """Run a command; print a RecoError, or that the disk is full, as one line; exit status 1."""
    try:
        commands(standalone_mode=False)
    except RecoError as error:
        LOG.error("error: %s", error)
        sys.exit(1)
    except click.exceptions.Abort:
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except Exception as error:
        if not LOG.handlers:
            logging.basicConfig()
        if disk_full(error):
            LOG.error("error: %s: %s", error, MAKE_ROOM)
            sys.exit(1)
        if isinstance(error, OSError) and error.strerror:  # of the machine, not of the code
            LOG.error("error: %s", ": ".join(filter(None, [error.filename, error.strerror])))
            sys.exit(1)
        LOG.error("%s", traceback.format_exc())
        sys.exit(70)


def _experiment(config_file: Path) -> "Experiment":
    from reco.config import load
    from reco.experiment import Experiment

    return Experiment(load(config_file))


# ---- download ---------------------------------------------------------------------------------


@commands.command()
@click.option("--weights", type=FILE, required=True, help="The safetensors file to write.")
def weights(weights: Path) -> None:
    """Convert the packaged network's weights to safetensors, checked by SHA-256."""
    from reco.models.packaged import convert

    convert(weights.parent)


@commands.command()
@click.option("--packages", type=FILE, required=True, help="YAML list of Debian packages.")
@click.option(
    "--source",
    default="apt",
    show_default=True,
    help="apt, a folder with the .deb files, or the address of a Debian mirror.",
)
@click.option("--folder", type=FILE, required=True, help="Where the .deb files go.")
def fetch(packages: Path, source: str, folder: Path) -> None:
    """Fetch the packages that hold the photographs of `stamps`, checked by SHA-256."""
    from reco.data.downloads import fetch

    fetch(packages, folder, source=None if source == "apt" else source)


@commands.command()
@click.argument("names", nargs=-1)
@click.option(
    "--folder", type=FILE, default="data/downloads", show_default=True, help="Where they go."
)
@click.option(
    "--root", type=FILE, help="Where a data set lies that you signed for.  [default: FOLDER/NAME]"
)
@click.option(
    "--listing", type=FILE, default="config/downloads.yaml", show_default=True, help="The list."
)
def download(names: tuple[str, ...], folder: Path, root: Path | None, listing: Path) -> None:
    """Fetch data sets and weights of the paper, check and unpack them.

    NAMES are those of config/downloads.yaml; without any, they are listed. What its owners give
    only to those who sign up is not fetched: the command says where to sign and what is missing.
    """
    from reco.data.downloads import fetch_download, read_downloads

    if not names:
        known = read_downloads(listing)
        width = max(len(entry.name) for entry in [*known.downloads, *known.gated])
        for entry in known.downloads:
            click.echo(f"{entry.name:{width}}  {entry.title} ({entry.licence}: {entry.terms})")
        for owned in known.gated:
            click.echo(f"{owned.name:{width}}  {owned.title}: sign up at {owned.page}")
    for name in names:
        fetch_download(name, folder, listing=listing, root=root)


@commands.command()
@click.argument("kind", type=click.Choice(["embeddings", "references"]))
@click.argument("source", metavar="PICKLE", type=FILE)
@click.argument("out", type=FILE)
def convert(kind: str, source: Path, out: Path) -> None:
    """Convert a pickle that the paper's authors released; nothing in it is executed.

    embeddings: of images, to OUT (.npy) and the list of files beside it (.csv).
    references: embeddings of concepts, to OUT (.safetensors).
    """
    from reco.data.unpickle import convert_embeddings, convert_references

    if kind == "embeddings":
        convert_embeddings(source, out, out.with_suffix(".csv"))
    else:
        convert_references(source, out)


@commands.command()
@CONFIG
@click.option(
    "--packages", type=FILE, default="data/packages", show_default=True, help="The .debs."
)
@click.option(
    "--photographs", type=FILE, default="data/photographs", show_default=True, help="Unpacked here."
)
@WORKERS
def compose(config_file: Path, packages: Path, photographs: Path, workers: int) -> None:
    """Unpack the photographs and compose the scenes of `stamps` from them."""
    from reco.data.downloads import read_packages, unpack
    from reco.data.folder import read_table
    from reco.data.scenes import compose
    from reco.experiment import BACKGROUNDS, CUTOUTS, PACKAGES
    from reco.files import read_json, shipped, write_json
    from reco.workflow.plan import images_state

    experiment = _experiment(config_file)
    cutouts, backgrounds = shipped(CUTOUTS), shipped(BACKGROUNDS)
    config, rows = experiment.config, read_table(cutouts) + read_table(backgrounds)
    for package in read_packages(shipped(PACKAGES)):
        wanted = [row["path"] for row in rows if row["package"] == package.name]
        unpack(packages / package.file, photographs / package.name, wanted)
    sizes = config.stamps.model_dump(include={"size", "index", "train", "val"})
    scenes = Path(experiment.scenes)
    compose(cutouts, backgrounds, photographs, scenes, seed=config.seed, workers=workers, **sizes)
    record = read_json(scenes / "composed.json")
    write_json(scenes / "composed.json", {**record, "state": images_state(experiment)})


@commands.command()
@CONFIG
@click.option("--index", type=FILE, required=True, help="CSV to write: images of the index.")
@click.option("--labels", type=FILE, help="CSV to write: what they show, where folders tell it.")
@WORKERS
def catalog(config_file: Path, index: Path, labels: Path | None, workers: int) -> None:
    """List the images of the index; only those that are new or changed are read."""
    from reco.workflow.catalog import catalog_index, label_index

    experiment = _experiment(config_file)
    catalog_index(
        experiment.index_root,
        index,
        experiment.config.deepest_archive,
        known=Path(experiment.digests),
        workers=workers,
    )
    if labels:
        label_index(index, labels)


@commands.command("catalog-split")
@CONFIG
@SPLIT
@click.option("--images", type=FILE, required=True, help="CSV to write: images of the split.")
def catalog_split(config_file: Path, split: str, images: Path) -> None:
    """List and check the images of a split, and its masks."""
    from reco.workflow.catalog import catalog_split

    catalog_split(_experiment(config_file).split(split), images, need_masks=split == "val")


# ---- embed ------------------------------------------------------------------------------------


@commands.command()
@CONFIG
@images_option("images of the index")
@click.option("--model", required=True, help="The language-image model that ranks the index.")
@click.option("--size", type=int, required=True, help="Side of its input in pixels.")
@click.option(
    "--part", default="1-of-1", show_default=True, help="Which slice: 3-of-64 is the third of 64."
)
@click.option("--table", type=FILE, required=True, help="CSV to write: where embeddings are.")
def embed(config_file: Path, images: Path, model: str, size: int, part: str, table: Path) -> None:
    """Embed one part of the index; only images that the store lacks."""
    from reco.workflow.embed import embed_part

    embed_part(_experiment(config_file), images, model, size, part, table)


@commands.command()
@click.argument("parts", nargs=-1, required=True, type=FILE)
@click.option("--embeddings", type=FILE, required=True, help=".npy to write: (n, d), unit rows.")
@click.option("--usable", type=FILE, required=True, help="CSV to write: the image of every row.")
@click.option("--skipped", type=FILE, required=True, help="CSV to write: unreadable files, why.")
@click.option("--model", required=True, help="The model of the parts.")
@click.option("--size", type=int, required=True, help="Side of its input in pixels.")
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
    """Gather the embeddings of all PARTS, tables of `reco embed` in order, into one matrix."""
    from reco.data.embeddings import Description
    from reco.workflow.embed import gather

    described = Description(model=model, size=size, state=state)
    gather(parts, embeddings, usable, skipped, described)


@commands.command("embed-split")
@CONFIG
@SPLIT
@images_option("images of the split")
@click.option("--table", type=FILE, required=True, help="CSV to write: where features are.")
def embed_split(config_file: Path, split: str, images: Path, table: Path) -> None:
    """Compute dense features of a split's images; only those that the store lacks."""
    from reco.workflow.views import embed_split

    embed_split(_experiment(config_file), split, images, table)


@commands.command()
@CONFIG
def text(config_file: Path) -> None:
    """Embed the texts of all concepts; only those that the store lacks."""
    from reco.workflow.text import embed_concepts

    embed_concepts(_experiment(config_file))


# ---- retrieve, features, cosegment ------------------------------------------------------------


@commands.command()
@click.option("--embeddings", type=FILE, required=True, help=".npy of `reco gather`.")
@images_option("the image of every row of the embeddings")
@click.option(
    "--text", type=FILE, required=True, help="Text embeddings of a concept.", multiple=True
)
@click.option("--size", type=click.IntRange(1), required=True, help="Images of an archive.")
@click.option("--archive", type=FILE, required=True, help="CSV to write.", multiple=True)
def retrieve(
    embeddings: Path, images: Path, text: tuple[Path, ...], size: int, archive: tuple[Path, ...]
) -> None:
    """Rank the index for a concept and keep its best images: its archive.

    For several concepts in one pass, give --text and --archive as often, in the same order.
    """
    from reco.workflow.retrieve import retrieve_archives

    if len(text) != len(archive):
        raise RecoError(f"--text is given {len(text)} times, --archive {len(archive)} times")
    retrieve_archives(embeddings, images, text, size, archive)


@commands.command()
@CONFIG
def features(config_file: Path) -> None:
    """Compute dense features of the archives' images; only those that the store lacks.

    And of the images of the index that a probe learns from.
    """
    from reco.models import keeping_loader
    from reco.workflow.embed import embed_archives

    experiment, loader = _experiment(config_file), keeping_loader()
    embed_archives(experiment, loader)
    if experiment.config.student == "probe":
        from reco.workflow.probe import embed_lessons

        embed_lessons(experiment, loader)


@commands.command()
@CONFIG
@click.option("--embeddings", type=FILE, required=True, help=".npy of `reco gather`.")
def whiten(config_file: Path, embeddings: Path) -> None:
    """Measure the spaces that seeds are compared in, on a sample of the index."""
    from reco.models import keeping_loader
    from reco.workflow.whiten import whiten_index

    whiten_index(_experiment(config_file), embeddings, keeping_loader())


@commands.command()
@click.option("--features", type=FILE, required=True, help="CSV: where the features are.")
@click.option("--whitening", type=FILE, required=True, help="File of `reco whiten`.")
@click.option("--scales", required=True, help="Shorter sides in pixels, such as '320 448'.")
@click.option("--size", type=click.IntRange(2), required=True, help="Archive images at most.")
@click.option("--bank", type=FILE, required=True, help="safetensors to write.")
def bank(features: Path, whitening: Path, scales: str, size: int, bank: Path) -> None:
    """Find the seeds of one concept's archive and keep them all: its bank."""
    from reco.workflow.bank import bank_archive

    bank_archive(features, whitening, [int(scale) for scale in scales.split()], size, bank)


@commands.command()
@click.option("--features", type=FILE, required=True, help="CSV: where the features are.")
@click.option("--text", type=FILE, required=True, help="Text embeddings of the concept.")
@click.option("--contexts", default="", help="Reference files of context concepts, in order.")
@click.option("--variants", required=True, help="Names such as lgc-ce-k20.")
@click.option(
    "--temperature", type=float, default=10.0, show_default=True, help="Of dense saliency."
)
@click.option("--merge", type=click.Choice(["mean", "weighted", "winner"]), default="mean")
@click.option("--variant", type=click.Choice(["paper", "released"]), default="paper")
@click.option("--reference", type=FILE, required=True, help="safetensors to write.")
def cosegment(
    features: Path,
    text: Path,
    contexts: str,
    variants: str,
    temperature: float,
    merge: "Merge",
    variant: "Variant",
    reference: Path,
) -> None:
    """Co-segment one concept's archive into reference embeddings."""
    from reco.workflow.cosegment import cosegment_archive

    cosegment_archive(
        features,
        text,
        [Path(path) for path in contexts.split()],
        variants.split(),
        reference,
        temperature=temperature,
        merge=merge,
        variant=variant,
    )


# ---- segment, train ---------------------------------------------------------------------------


@commands.command()
@click.argument("photos", metavar="PHOTO_OR_FOLDER...", nargs=-1, required=True, type=FILE)
@click.option(
    "--concepts",
    help='Names with commas between: "fire truck, zebra"; or a file of them (.txt, .yaml).  '
    "[default: the experiment's]",
)
@EXPERIMENT
@INDEX
@click.option(
    "--config", "config_file", type=FILE, envvar="RECO_CONFIG", help="A config instead of those."
)
@click.option("--archive-size", type=click.IntRange(1), help="Images to learn a concept from.")
@click.option(
    "--background/--no-background",
    default=None,
    help="A pixel may be none of the concepts, or must be one.  [default: may be, if there is one]",
)
@click.option("--crf/--no-crf", default=True, show_default=True, help="Follow edges: a dense CRF.")
@click.option("--doubtful", is_flag=True, help="Segment words, too, that no image looks like.")
@click.option("--skip", is_flag=True, help="Exit status 0 even if photographs could not be read.")
@click.option(
    "--out", type=FILE, help="Folder to write.  [default: results/EXPERIMENT/photos/NAME]"
)
@click.option(
    "--work", type=FILE, help="Folder that keeps what is done, where others may empty --out."
)
def segment(
    photos: tuple[Path, ...],
    concepts: str | None,
    experiment: str,
    index: Path | None,
    config_file: Path | None,
    archive_size: int | None,
    background: bool | None,
    crf: bool,
    doubtful: bool,
    skip: bool,
    out: Path | None,
    work: Path | None,
) -> None:
    """Find concepts in photographs: a file, several, or folders of them.

    Each word is learned from the images of an index that look like it (--experiment, or any folder
    of photographs: --index); what was learned is kept. Written are label masks, overlays to look
    at, COCO's run lengths, and tables.

    \b
    reco segment holiday/ --concepts "zebra, fire truck" --background
    """
    from reco.config import lists, read_concepts
    from reco.photos.folder import (
        choose_out,
        find_photos,
        link_results,
        prepare_out,
        prepare_work,
        segment_photos,
        summarize,
    )
    from reco.photos.segmenter import load

    found = find_photos(photos)
    if out:  # before anything is learned
        prepare_out(out, photos)
    segmenter = load(experiment, index=index, config=config_file, archive_size=archive_size)
    settings = segmenter.config
    if concepts is None:
        words = segmenter.targets
    else:
        words = segmenter.concepts(read_concepts(concepts) if lists(concepts) else concepts)
    if background is None:
        background = settings.background
    if not out:
        out = choose_out(settings.experiment, photos)
        prepare_out(out, photos)
    if work:
        prepare_work(work, photos)
    failed = segment_photos(
        segmenter, found, words, work or out, background=background, crf=crf, doubtful=doubtful
    )
    if work:
        link_results(found, failed, work, out)
    click.echo(summarize(out))
    click.echo(f"\nmasks, overlays, overview.png: {out}")
    if failed and not skip:
        raise RecoError(
            f"{len(failed)} of {len(found)} photographs could not be read: {out / 'failed.csv'}"
        )


@commands.command("segment-split")
@CONFIG
@SPLIT
@images_option("images of the split")
@click.option("--masks", type=FILE, required=True, help="Folder to write, one folder a method.")
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
    """Segment a split: val with every method of the tables, train with the best one.

    Masks are made in a hidden folder beside --masks, so that those of a command that was killed
    are there for the next.
    """
    from reco.files import write_text
    from reco.workflow.segment import segment_split

    experiment = _experiment(config_file)
    settings = experiment.config.train
    keep = settings.keep if settings and split == "train" else 1
    methods = experiment.methods(split)
    features = experiment.kept_features(split)
    segment_split(
        *(experiment, split, images, methods, masks, workers, keep), features=features, part=part
    )
    if done:
        write_text(done, f"{part or 'all'}\n")


@commands.command()
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
    """Train ReCo+ on pseudo-masks, from its last checkpoint if it was killed.

    DeepLab has --workers processes that draw its crops.
    """
    from reco.workflow.train import train_plus

    experiment = _experiment(config_file)
    features = experiment.kept_features("train")
    train_plus(experiment, images, masks, weights, model, curve, val, features, workers)


@commands.command("segment-plus")
@CONFIG
@images_option("images of the val split")
@click.option("--weights", type=FILE, required=True, help="Weights of `reco train`.")
@click.option("--model", type=FILE, required=True, help="Their description.")
@click.option("--masks", type=FILE, required=True, help="Folder to write, one folder a method.")
@WORKERS
def segment_plus(
    config_file: Path,
    images: Path,
    weights: Path,
    model: Path,
    masks: Path,
    workers: int,
) -> None:
    """Segment the val split with ReCo+."""
    from reco.workflow.train import segment_plus

    experiment = _experiment(config_file)
    features = experiment.kept_features("val")
    segment_plus(experiment, images, weights, model, masks, workers, features)


# ---- specialist -------------------------------------------------------------------------------


@commands.command()
@click.argument("word")
@click.option("--index", type=FILE, help="Folder of photographs to learn the word from.")
@click.option(
    "--experiment", default="stamps", show_default=True, help="Whose index and settings are used."
)
@click.option("--out", type=FILE, help="Folder to write.  [default: the word]")
@click.option("--photos", type=FILE, help="Folder of photographs to score it on.")
@click.option("--masks", type=FILE, help="Folder of their masks: PNG, 0 = not the concept.")
@click.option("--archive-size", type=click.IntRange(1), help="Images to learn the word from.")
@click.option(
    "--iterations", type=click.IntRange(1), default=100, show_default=True, help="Training steps."
)
@click.option("--doubtful", is_flag=True, help="Go on if no image of the index looks like it.")
def specialist(
    word: str,
    index: Path | None,
    experiment: str,
    out: Path | None,
    photos: Path | None,
    masks: Path | None,
    archive_size: int | None,
    iterations: int,
    doubtful: bool,
) -> None:
    """Train a small segmenter of one WORD, which needs no index after.

    Writes weights, their description, ONNX, the learning curve and a picture to look at; with
    masks, the scores too. `reco specialist-segment` runs it.
    """
    from reco.concepts import slugify
    from reco.photos.segmenter import load
    from reco.photos.specialists.lessons import check_word
    from reco.photos.specialists.make import make_specialist
    from reco.photos.specialists.scores import pair_photographs
    from reco.photos.specialists.specialist import check_out

    check_word(word)
    if (photos is None) != (masks is None):
        raise RecoError("--photos and --masks go together: name both folders")
    folder = out or Path(slugify(word.strip()))
    check_out(folder)
    pairs = pair_photographs(photos, masks) if photos and masks else []
    segmenter = load(experiment, index=index, archive_size=archive_size)
    scores = make_specialist(
        segmenter, word, folder, iterations=iterations, doubtful=doubtful, pairs=pairs
    )
    for name, values in scores.items():
        shown = ", ".join(f"{key} {value:.3f}" for key, value in values.items())
        click.echo(f"{name}, {len(pairs)} photographs: {shown}")
    click.echo(f"{folder}: look at overview.png; run it with 'reco specialist-segment'")


@commands.command("specialist-segment")
@click.argument("model", type=FILE)
@click.argument("photos", type=FILE, nargs=-1, required=True)
@click.option("--out", type=FILE, required=True, help="Folder to write: masks/ and overlays/.")
@click.option("--crf/--no-crf", default=True, show_default=True, help="Follow edges; slower.")
@click.option(
    "--threshold", type=click.FloatRange(0, 1), help="Least probability.  [default: the model's]"
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or mps.")
def specialist_segment(
    model: Path,
    photos: tuple[Path, ...],
    out: Path,
    crf: bool,
    threshold: float | None,
    device: str,
) -> None:
    """Segment PHOTOS (files and folders) with MODEL, a folder of `reco specialist`.

    Masks have the photographs' sizes, 255 where the concept is. Nothing but MODEL is needed.
    """
    from reco.photos.specialists.make import segment_photographs
    from reco.photos.specialists.specialist import load_specialist

    loaded = load_specialist(model, device)
    count = segment_photographs(loaded, photos, out, crf=crf, threshold=threshold)
    click.echo(f"{out}: masks and overlays of {count} photographs")


# ---- evaluate ---------------------------------------------------------------------------------


@commands.command()
@CONFIG
@images_option("images of the val split")
@click.option("--zero-shot", type=FILE, required=True, help="Masks of `reco segment-split`.")
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
    """Score the masks of every method against the ground truth."""
    from reco.data.folder import read_table, write_table
    from reco.files import write_json
    from reco.workflow.evaluate import METRICS, PER_CLASS, evaluate, summarize

    experiment = _experiment(config_file)
    methods = [(method, zero_shot / method.slug) for method in experiment.zero_shot]
    if plus:
        methods += [(method, plus / method.slug) for method in experiment.plus]
    rows, class_rows = evaluate(methods, experiment.split("val"), images, experiment.scored)
    write_table(metrics, METRICS, rows)
    write_table(per_class, PER_CLASS, class_rows)
    write_json(summary, summarize(read_table(metrics), experiment.best, experiment.paper))


@commands.command()
@CONFIG
@click.option("--retrieval", type=FILE, required=True, help="CSV to write.")
@click.option("--summary", type=FILE, required=True, help="JSON to write: means over concepts.")
def precision(config_file: Path, retrieval: Path, summary: Path) -> None:
    """Precision at k of every archive, against the labels of the index where they are known."""
    from reco.data.folder import write_table
    from reco.files import write_json
    from reco.workflow.evaluate import RETRIEVAL, mean_precision, precision

    experiment = _experiment(config_file)
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


@commands.command()
@CONFIG
@images_option("images of the val split")
@click.option("--scores", type=FILE, required=True, help="CSV to write: IoU at every threshold.")
@click.option("--summary", type=FILE, required=True, help="JSON to write: at two thresholds.")
def rare(config_file: Path, images: Path, scores: Path, summary: Path) -> None:
    """Score one concept against background, by a threshold on its saliency."""
    from reco.data.folder import write_table
    from reco.files import write_json
    from reco.workflow.rare import RARE, rare, summarize, table

    experiment = _experiment(config_file)
    found = rare(experiment, images, experiment.kept_features("val"))
    write_table(scores, RARE, table(found))
    write_json(summary, summarize(found))


@commands.command()
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
    """Write down what made the results: config, revision, versions, seed, devices.

    FILES are files and folders whose digests are recorded.
    """
    import yaml

    from reco.files import write_json, write_text
    from reco.workflow.record import describe_run

    experiment = _experiment(config_file)
    values = experiment.config.model_dump(mode="json")
    write_text(merged, yaml.safe_dump(values, sort_keys=False, allow_unicode=True))
    write_json(run, describe_run(experiment, files, logs, stages.split()))


@commands.command()
@click.argument("file", type=FILE)
def trace(file: Path) -> None:
    """Tell where FILE comes from: jobs, code, config, seed, packages, digests of the data.

    FILE is anything that the workflow made: `reco trace results/stamps/tables/methods.md`. Files
    that are not as the run recorded them are named.
    """
    from reco.workflow.trace import trace

    click.echo(trace(file))


# ---- tables, figures --------------------------------------------------------------------------


RUN = click.option(
    "--run", type=FILE, required=True, help="run.json: tells of uncommitted changes."
)
FILES = click.argument("files", type=FILE, nargs=-1, required=True)
METRICS_TABLE = click.option(
    "--metrics", type=FILE, required=True, help="metrics.csv of `reco evaluate`."
)
RETRIEVAL_TABLE = click.option(
    "--retrieval", type=FILE, required=True, help="retrieval.csv of `reco precision`."
)


@commands.group()
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

    experiment = _experiment(config_file)
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

    experiment = _experiment(config_file)
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

    from reco.data.folder import read_table
    from reco.workflow.tables import provenance, retrieval_remarks, retrieval_table, write_tables

    experiment = _experiment(config_file)
    names = [concept.name for concept in experiment.targets]
    sizes = experiment.config.all_archive_sizes
    made = retrieval_table(pd.read_csv(retrieval), names, sizes)
    title = "Retrieval: share of a concept's first k images that show it (P@k), in percent."
    index = f"index of {len(read_table(images))} images"
    notes = [*retrieval_remarks(made), provenance(experiment, index), uncommitted(run)]
    write_tables(made, title, notes, *files, bold=False)


@commands.group()
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

    from reco.workflow.figures import (
        archives_figure,
        choose_archives,
        precision_at,
        read_archive,
        write_figure,
    )

    experiment = _experiment(config_file)
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
    from reco.data.folder import read_table
    from reco.workflow.figures import (
        choose_predictions,
        prediction_methods,
        predictions_figure,
        write_figure,
    )
    from reco.workflow.tables import method_name

    experiment = _experiment(config_file)
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

    from reco.workflow.figures import archive_size_figure, write_figure

    experiment = _experiment(config_file)
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

    from reco.workflow.figures import precision_figure, write_figure

    label, others = _experiment(config_file).compared("retrieval.csv")
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
    from reco.workflow.figures import rare_figure, write_figure

    drawn = rare_figure(pd.read_csv(scores), read_json(summary))
    write_figure(drawn, *files, remark=uncommitted(run))


@figure.command("training")
@click.option("--curve", type=FILE, required=True, help="curve.csv of `reco train`.")
@RUN
@FILES
def figure_training(curve: Path, run: Path, files: tuple[Path, ...]) -> None:
    """Loss of ReCo+ by step."""
    import pandas as pd

    from reco.workflow.figures import training_figure, write_figure

    write_figure(training_figure(pd.read_csv(curve)), *files, remark=uncommitted(run))


@commands.command()
@click.option(
    "--experiment", default="stamps", show_default=True, help="Whose index and settings are used."
)
@click.option("--index", type=FILE, help="A folder of photographs to learn from instead.")
@click.option("--config", "config_file", type=FILE, help="A config instead of the experiment's.")
@click.option("--port", type=click.IntRange(1, 65535), default=7860, show_default=True)
def app(experiment: str, index: Path | None, config_file: Path | None, port: int) -> None:
    """Serve a page to play with, to this machine alone: a photo and words in, masks out."""
    from reco.photos.page.serve import serve

    serve(experiment, index=index, config=config_file, port=port)


@commands.command()
@click.option("--schema", type=FILE, required=True, help="JSON schema to write.")
def schema(schema: Path) -> None:
    """Write the JSON schema of the config, for editors and tests."""
    from reco.config import Config
    from reco.files import write_json

    write_json(schema, Config.model_json_schema())


if __name__ == "__main__":
    main()
