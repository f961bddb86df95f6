"""Photos: photographs in, and for each its mask, an overlay and COCO's run lengths.

One photograph at a time, so that memory does not grow with their number. What is done already, of
the same photograph with the same concepts and settings, is left as it is.
"""

import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from reco.concepts import slugify
from reco.data.batches import ahead
from reco.data.folder import RESULTS, file_state, printable, survey, write_labels
from reco.data.images import KINDS, opened, read_image
from reco.data.tables import read_table, write_table
from reco.errors import RecoError
from reco.files import atomic, fingerprint, read_json, write_json
from reco.photos.learned import Learned
from reco.photos.result import Segmentation, shorten
from reco.photos.segmenter import Segmenter, Words
from reco.photos.sheets import archive_pictures, sheet
from reco.progress import LOG, track
from reco.work import is_whole, link

LONGEST_NAME = 200  # bytes of a file's name; systems take 255, and results add an ending
OVERVIEW = 12  # overlays, and concepts, in the pictures that show some of them
COLUMNS = 8  # images of an archive; of half as many overlays a row
SIDE = 480  # pixels of an overlay in a picture of several, and of two images of an archive
CONCEPTS = ("label", "concept", "archive", "similarity", "threshold", "doubt")
SUMMARY = ("photo", "label", "concept", "share")
RESULT_FOLDERS = ("masks", "overlays", "coco")
TABLES = ("concepts.csv", "summary.csv", "failed.csv", "overview.png", "archives.png")


@dataclass(frozen=True)
class Photo:
    """A photograph to segment.

    Attributes:
        path: where it is.
        name: its path below the folder that was given, or its file name; see `printable`.
        stem: the name of its results, without an ending; unique, and short enough for a file.
    """

    path: Path
    name: str
    stem: str


def find_photos(given: Sequence[str | Path]) -> list[Photo]:
    """The photographs among files and folders, in order; in folders at any depth.

    What else a folder holds is counted in the log.

    Raises:
        RecoError: a path does not exist, or there is no photograph.
    """
    found: dict[str, Path] = {}
    for path in map(Path, given):
        if not path.exists():
            raise RecoError(f"{path}: no such file or folder")
        for file in _photos_in(path) if path.is_dir() else [path]:
            name = printable(file.relative_to(path if path.is_dir() else path.parent).as_posix())
            if found.setdefault(name, file) != file:
                raise RecoError(
                    f"{found[name]} and {file} would have results of the same name: segment them "
                    "one after another, into folders of their own (--out)"
                )
    if not found:
        kinds = ", ".join(sorted(KINDS))
        raise RecoError(f"{', '.join(map(str, given))}: no photographs ({kinds})")
    stems = [name.rsplit(".", 1)[0] for name in found]
    times = Counter(stems)
    return [
        # Of cat.jpg and cat.png, each keeps its ending.
        Photo(path, name, _short(name if times[stem] > 1 else stem))
        for (name, path), stem in zip(found.items(), stems, strict=True)
    ]


def _photos_in(folder: Path) -> list[Path]:
    found = survey(folder)
    if remark := found.remark():
        LOG.info("%s: left out: %s", folder, remark)
    return [folder / name for name in sorted([*found.images, *found.odd])]


def _short(path: str) -> str:
    """A path whose every part is short enough for a name of a file, and still unique."""

    def fit(part: str) -> str:
        whole = part.encode()
        if len(whole) <= LONGEST_NAME:
            return part
        return f"{whole[: LONGEST_NAME - 9].decode(errors='ignore')}-{fingerprint(part, 8)}"

    return "/".join(map(fit, path.split("/")))


def choose_out(experiment: str, given: Sequence[Path]) -> Path:
    """The folder for results of photographs where none was named.

    It is called after the first of them; of a second folder of that name, somewhere else, results
    go beside those of the first.
    """
    first = given[0].absolute()
    name = slugify(first.name if first.is_dir() else first.stem)
    out = Path(f"results/{experiment}/photos/{name}")
    taken = _source(out) not in (None, _name_source(given))
    return out.with_name(f"{name}-{fingerprint(_name_source(given), 6)}") if taken else out


def prepare_out(out: Path, given: Sequence[Path]) -> None:
    """Make a folder for results, and note in it whose they are.

    Raises:
        RecoError: it holds the photographs, other files or results of other photographs, or it
            cannot be written to.
    """
    another = "name another folder with --out"
    if any(path.is_dir() and out.resolve() == path.resolve() for path in given):
        raise RecoError(
            f"{out}: holds the photographs, and results beside them would be taken "
            f"for some: {another}"
        )
    if out.exists() and not out.is_dir():
        raise RecoError(f"{out}: is a file: {another}")
    source = _source(out)
    if source is None and out.exists() and any(out.iterdir()):
        raise RecoError(f"{out}: holds other files: {another}")
    if source not in (None, _name_source(given)):
        raise RecoError(f"{out}: holds results of {', '.join(source)}: {another}")
    try:
        write_json(out / RESULTS, {"made_by": "reco", "photos": _name_source(given)})
    except OSError as error:
        raise RecoError(f"{out}: cannot be written to: {error.strerror}: {another}") from None


def prepare_work(work: Path, given: Sequence[Path]) -> None:
    """Make a folder that keeps what is done; results of other photographs in it are removed.

    Raises:
        RecoError: see `prepare_out`.
    """
    if _source(work) not in (None, _name_source(given)):
        shutil.rmtree(work)
    prepare_out(work, given)


def link_results(
    photos: Sequence[Photo], failed: Sequence[tuple[str, str]], work: Path, out: Path
) -> None:
    """Give the results of photographs in `work` a second name in `out`; see `segment_photos`."""
    lost = {name for name, _ in failed}
    done = [photo for photo in photos if photo.name not in lost]
    files = [file for photo in done for file in _files(photo, Path())]
    for name in [*files, *map(Path, TABLES)]:
        if (work / name).exists():  # without photographs there is no overview
            link(work / name, out / name)
    for folder in RESULT_FOLDERS:
        (out / folder).mkdir(exist_ok=True)


def _name_source(given: Sequence[Path]) -> list[str]:
    return [printable(str(path.absolute())) for path in given]


def _source(out: Path) -> list[str] | None:
    """Whose results a folder holds, as `prepare_out` noted; None = nobody's."""
    try:
        return list(read_json(out / RESULTS)["photos"])
    except (RecoError, KeyError, TypeError):  # none, or torn
        return None


def segment_photos(
    segmenter: Segmenter,
    photos: Sequence[Photo],
    words: Words,
    out: Path,
    *,
    background: bool | None = None,
    crf: bool = True,
    doubtful: bool = False,
) -> list[tuple[str, str]]:
    """Segment photographs and write what was found.

    Writes below `out`: `masks/*.png` (value = number of the concept, from 0; 255 = none),
    `overlays/*.jpg`, `coco/*.json`, `concepts.csv`, `summary.csv` (share of every concept in every
    photograph), `failed.csv`, `overview.png`, and `archives.png` (what they were learned from).

    Args:
        words, background, crf, doubtful: see `Segmenter.segment`.

    Returns:
        (photograph, reason) of those that could not be segmented.

    Raises:
        RecoError: no concept, or all of them are in doubt.
    """
    learned = segmenter.learn(words)
    if all(item.doubt for item in learned) and not doubtful:
        raise RecoError("\n".join(item.doubt for item in learned))
    write_table(out / "concepts.csv", CONCEPTS, _concept_rows(learned))
    for item in learned:
        if item.doubt:
            LOG.warning("%s", item.doubt)
    concepts, marks = [item.concept for item in learned], [item.mark for item in learned]
    settings = [background, crf, doubtful]
    state = [marks, settings, segmenter.config.model_dump(mode="json", exclude={"concepts"})]
    failed: list[tuple[str, str]] = []
    rows: list[tuple[object, ...]] = []
    todo = {photo: _mark(photo, state) for photo in photos}
    for photo, picture in track(_read(photos, todo, out), "segment", total=len(photos)):
        if isinstance(picture, RecoError):
            LOG.warning("skipped: %s", picture)
            failed.append((photo.name, str(picture)))
            continue
        if picture is not None:
            found = segmenter.segment(
                picture, concepts, background=background, crf=crf, doubtful=doubtful
            )
            picture = None  # a large one takes half a gigabyte
            try:
                _write(found, photo, out, todo[photo])
            except OSError as error:  # no full disk, which ends the run
                LOG.warning("skipped: %s: %s", photo.name, error)
                failed.append((photo.name, f"its results could not be written: {error}"))
                continue
        rows += _shares(photo, read_json(_files(photo, out).coco))
    write_table(out / "summary.csv", SUMMARY, rows)
    write_table(out / "failed.csv", ["photo", "reason"], failed)
    lost = {name for name, _ in failed}
    _write_overview(out, [photo for photo in photos if photo.name not in lost])
    _write_archives(out, learned)
    return failed


def _read(
    photos: Iterable[Photo], marks: dict[Photo, str], out: Path
) -> Iterator[tuple[Photo, Image.Image | RecoError | None]]:
    """Each photograph with its picture; None where it is done already."""

    def read(photo: Photo) -> tuple[Photo, Image.Image | RecoError | None]:
        try:
            return photo, None if _done(photo, marks[photo], out) else read_image(photo.path)
        except RecoError as error:
            return photo, error

    return ahead(photos, read, workers=1, most=2)


def _mark(photo: Photo, state: Any) -> str:
    """Fingerprint of what a photograph's results depend on."""
    return fingerprint([file_state(photo.path), state])


def _done(photo: Photo, mark: str, out: Path) -> bool:
    files = _files(photo, out)
    if not is_whole(files):
        return False
    try:
        return bool(read_json(files.coco)["info"]["made_from"] == mark)
    except (RecoError, KeyError, TypeError):  # torn, as by a power cut
        return False


def _write(found: Segmentation, photo: Photo, out: Path, mark: str) -> None:
    files = _files(photo, out)
    write_labels(files.mask, found.labels)
    with atomic(files.overlay) as temporary:
        found.overlay().save(temporary, format="JPEG", quality=88)
    # Last, for it says that the others are there.
    write_json(files.coco, {"info": {"made_from": mark}, **found.to_coco(photo.name)})


def _concept_rows(learned: Sequence[Learned]) -> Iterator[tuple[object, ...]]:
    for label, item in enumerate(learned):
        nearest = f"{item.archive[0].similarity:.4f}"
        threshold = f"{item.threshold:.4f}"
        yield label, item.concept.name, len(item.archive), nearest, threshold, item.doubt


def _shares(photo: Photo, found: dict[str, Any]) -> Iterator[tuple[object, ...]]:
    """Rows of the summary, from the run lengths, which are there of earlier runs too."""
    size = found["images"][0]
    areas = {entry["category_id"]: entry["area"] for entry in found["annotations"]}
    for entry in found["categories"]:
        share = areas.get(entry["id"], 0) / (size["width"] * size["height"])
        yield photo.name, entry["id"] - 1, entry["name"], f"{share:.4f}"


def summarise(out: Path) -> str:
    """A table for people: of every concept, in how many photographs it was found, and how much."""
    rows = read_table(out / "summary.csv")
    lines = []
    for concept in read_table(out / "concepts.csv"):
        shares = [float(row["share"]) for row in rows if row["label"] == concept["label"]]
        found = [share for share in shares if share > 0]
        mean = f"{100 * np.mean(found):.0f} %" if found else "-"
        name = shorten(concept["concept"], 30)
        note = "in doubt" if concept["doubt"] else ""
        lines.append((name, f"{len(found)} of {len(shares)}", mean, note))
    header = ("concept", "found in", "mean share there", "")
    widths = [max(len(line[i]) for line in [header, *lines]) for i in range(len(header))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in [header, *lines]
    )


def _write_overview(out: Path, photos: Sequence[Photo]) -> None:
    """Draw some overlays, at even steps through the photographs."""
    chosen = np.linspace(0, len(photos) - 1, min(OVERVIEW, len(photos))).round().astype(int)
    tiles = []
    for i in chosen.tolist():
        with opened(_files(photos[i], out).overlay, ["JPEG"]) as image:
            image.draft("RGB", (SIDE, SIDE))
            tiles.append(image.convert("RGB"))
    rows = [("", tiles[i : i + COLUMNS // 2]) for i in range(0, len(tiles), COLUMNS // 2)]
    if rows:
        _write_picture(sheet(rows, SIDE), out / "overview.png")


def _write_archives(out: Path, learned: Sequence[Learned]) -> None:
    """Draw the first images of the first archives, with support and seeds."""
    rows = [
        (
            shorten(item.concept.name, 60) + (": in doubt" if item.doubt else ""),
            [picture for picture, _ in archive_pictures(item.archive[:COLUMNS])],
        )
        for item in learned[:OVERVIEW]
    ]
    _write_picture(sheet(rows, SIDE // 2), out / "archives.png")


def _write_picture(picture: Image.Image, path: Path) -> None:
    with atomic(path) as temporary:
        picture.save(temporary, format="PNG")


class Files(NamedTuple):
    """What is written of one photograph."""

    mask: Path
    overlay: Path
    coco: Path


def _files(photo: Photo, out: Path) -> Files:
    return Files(
        out / f"masks/{photo.stem}.png",
        out / f"overlays/{photo.stem}.jpg",
        out / f"coco/{photo.stem}.json",
    )
