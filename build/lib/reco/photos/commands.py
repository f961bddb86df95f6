"""Commands for people with photographs."""

from pathlib import Path

import click

from reco.errors import RecoError
from reco.options import ARCHIVE_SIZE, DOUBTFUL, EDGES, EXPERIMENT, FILE, INDEX


@click.command()
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
@ARCHIVE_SIZE
@click.option(
    "--background/--no-background",
    default=None,
    help="A pixel may be none of the concepts, or must be one.  [default: may be, if there is one]",
)
@EDGES
@DOUBTFUL
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
    experiment: str | None,
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
    """Find words in photographs: masks, overlays, tables.

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
        summarise,
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
    click.echo(summarise(out))
    click.echo(f"\nmasks, overlays, overview.png: {out}")
    if failed and not skip:
        raise RecoError(
            f"{len(failed)} of {len(found)} photographs could not be read: {out / 'failed.csv'}"
        )


@click.command()
@EXPERIMENT
@INDEX
@click.option("--config", "config_file", type=FILE, help="A config instead of the experiment's.")
@click.option("--port", type=click.IntRange(1, 65535), default=7860, show_default=True)
def app(experiment: str | None, index: Path | None, config_file: Path | None, port: int) -> None:
    """Play in the browser: a photograph and words in.

    The page is served to this machine alone.

    \b
    reco app
    reco app --index ~/Pictures --port 8000
    """
    from reco.photos.page.serve import serve

    serve(experiment, index=index, config=config_file, port=port)


@click.command()
@click.argument("word")
@EXPERIMENT
@INDEX
@click.option("--out", type=FILE, help="Folder to write.  [default: the word]")
@click.option("--photos", type=FILE, help="Folder of photographs to score it on.")
@click.option("--masks", type=FILE, help="Folder of their masks: PNG, 0 = not the concept.")
@ARCHIVE_SIZE
@click.option(
    "--iterations", type=click.IntRange(1), default=100, show_default=True, help="Training steps."
)
@DOUBTFUL
def specialist(
    word: str,
    index: Path | None,
    experiment: str | None,
    out: Path | None,
    photos: Path | None,
    masks: Path | None,
    archive_size: int | None,
    iterations: int,
    doubtful: bool,
) -> None:
    """Train a small segmenter of one word.

    It needs no index after. Written are weights, their description, ONNX, the learning curve and a
    picture to look at; with masks, the scores too. `reco specialist-segment` runs it.

    \b
    reco specialist buoy --index ~/Pictures --out buoy
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


@click.command("specialist-segment")
@click.argument("model", type=FILE)
@click.argument("photos", type=FILE, nargs=-1, required=True)
@click.option("--out", type=FILE, required=True, help="Folder to write: masks/ and overlays/.")
@EDGES
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
    """Segment photographs with a specialist.

    PHOTOS are files and folders, MODEL is a folder of `reco specialist`.

    \b
    reco specialist-segment buoy/ holiday/ --out found

    Masks have the photographs' sizes, 255 where the concept is. Nothing but MODEL is needed.
    """
    from reco.photos.specialists.specialist import load_specialist
    from reco.photos.specialists.use import segment_photographs

    loaded = load_specialist(model, device)
    count = segment_photographs(loaded, photos, out, crf=crf, threshold=threshold)
    click.echo(f"{out}: masks and overlays of {count} photographs")
