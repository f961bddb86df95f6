"""The folder of labelled scenes: which photographs go into each, and their files.

Every scene is drawn from its own random generator, seeded with (seed, split, number), so that a
scene does not depend on how many others are made nor on how many processes make them.

Layout written by `compose`::

    index/00000.jpg ...                      unlabelled scenes
    index_labels.csv                         path, concepts that are visible (to judge retrieval)
    benchmark/classes.txt                    a concept a line, line number from 0 = label id
    benchmark/images/{train,val}/00000.jpg   labelled scenes
    benchmark/masks/{train,val}/00000.png    8-bit, label id or 255 = background, unsure edge
    composed.json                            seed, counts, versions, digests of the lists
"""

import csv
import itertools
import multiprocessing
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np
from PIL import Image

from reco.data.collage import Studio
from reco.data.tables import write_table
from reco.errors import RecoError
from reco.files import read_json, sha256, write_json, write_text
from reco.progress import track

UNLABELLED = 255  # of a mask: background, or an unsure edge
SPLITS = ("index", "train", "val")  # the position of a split is part of its scenes' seeds
USES = {
    "index": ("index",),
    "train": ("train",),
    "val": ("val",),
    "benchmark": ("train", "val"),
    "both": SPLITS,
}

OBJECTS = (0.25, 0.5, 0.25)  # probabilities of 1, 2, 3 objects in a scene
LABELLED = 0.005  # part of a scene that a concept must cover to count as visible
QUALITY = 92  # of the JPEG files


@dataclass(frozen=True)
class Photograph:
    """A row of cutouts.csv or backgrounds.csv.

    Attributes:
        file: the photograph, `<photographs>/<package>/<path>`.
        uses: the splits (`SPLITS`) that it may appear in.
        concept: what a cut-out shows; "" for a background.
    """

    file: Path
    uses: tuple[str, ...]
    concept: str = ""


def read_photographs(table: str | Path, photographs: str | Path) -> list[Photograph]:
    """Read cutouts.csv (concept, package, path, split) or backgrounds.csv (no concept).

    Args:
        photographs: folder that holds `<package>/<path>` for every row.

    Raises:
        RecoError: a column or a file is missing, a split is unknown, or a row comes twice.
    """
    with open(table, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    found: dict[Path, Photograph] = {}
    for line, row in enumerate(rows, 2):
        try:
            path = Path(photographs, row["package"], row["path"])
            uses, concept = USES[row["split"]], row.get("concept", "")
        except (KeyError, TypeError) as error:
            raise RecoError(
                f"{table}, line {line}: needs package, path and split ({', '.join(USES)}): {error}"
            ) from None
        if path in found:
            raise RecoError(f"{table}, line {line}: {row['path']} is listed twice")
        if not path.is_file():
            raise RecoError(f"{path}: missing: unpack {row['package']} again")
        found[path] = Photograph(path, uses, concept)
    return list(found.values())


# ---- what goes where --------------------------------------------------------------------------


@dataclass(frozen=True)
class Scene:
    """What one scene is made of, before anything is drawn.

    Attributes:
        split: one of `SPLITS`.
        number: position within the split; names the file.
        background: a photograph of the whole scene.
        cutouts: the objects, from back to front; their concepts differ.
    """

    split: str
    number: int
    background: Photograph
    cutouts: tuple[Photograph, ...]


def plan(
    cutouts: Sequence[Photograph],
    backgrounds: Sequence[Photograph],
    split: str,
    *,
    seed: int,
) -> Iterator[Scene]:
    """Endless scenes of a split in which all concepts (and backgrounds) come equally often.

    Concepts are dealt from shuffled decks, each deck used up before the next; the photographs of
    a concept take turns. The first n scenes are the same however many are taken.

    Raises:
        RecoError: a concept has no cut-out, or there is no background, for this split.
    """
    concepts = list(dict.fromkeys(cutout.concept for cutout in cutouts))
    photographs = {
        concept: [c for c in cutouts if c.concept == concept and split in c.uses]
        for concept in concepts
    }
    usable = [background for background in backgrounds if split in background.uses]
    lacking = [concept for concept, found in photographs.items() if not found]
    if lacking or not usable or not concepts:
        what = f"no cut-out of {', '.join(lacking)}" if lacking else "no cut-outs or backgrounds"
        raise RecoError(f"{what} for the split '{split}': add rows to the lists")
    rng = np.random.default_rng([seed, SPLITS.index(split)])
    scenery = _decks(usable, rng)
    turns = {concept: itertools.cycle(found) for concept, found in photographs.items()}
    deck: list[str] = []
    for number in itertools.count():
        wanted = min(1 + int(rng.choice(len(OBJECTS), p=OBJECTS)), len(concepts))
        if len(deck) < wanted:
            # Concepts left over go first; a scene that spans two decks must not repeat one.
            fresh = [concepts[i] for i in rng.permutation(len(concepts))]
            deck += [c for c in fresh if c not in deck] + [c for c in fresh if c in deck]
        chosen, deck = deck[:wanted], deck[wanted:]
        yield Scene(split, number, next(scenery), tuple(next(turns[c]) for c in chosen))


def _decks(items: Sequence[Photograph], rng: np.random.Generator) -> Iterator[Photograph]:
    while True:
        yield from (items[i] for i in rng.permutation(len(items)))


# ---- the whole dataset -----------------------------------------------------------------------


@dataclass
class Press:
    """Draws scenes of the layout and writes them; one per process.

    Attributes:
        studio: draws.
        labels: label id of every concept.
        out: folder that the layout is written to.
        seed: of the whole dataset.
    """

    studio: Studio
    labels: dict[str, int]
    out: Path
    seed: int

    def write(self, scene: Scene) -> list[str]:
        """Write one scene; return the concepts that are visible in it, back to front."""
        rng = np.random.default_rng([self.seed, SPLITS.index(scene.split), scene.number])
        cutouts = [cutout.file for cutout in scene.cutouts]
        pixels, seen = self.studio.draw(scene.background.file, cutouts, rng)
        concepts = [cutout.concept for cutout in scene.cutouts]
        image, name = Image.fromarray(pixels), f"{scene.number:05d}"
        if scene.split == "index":
            image.save(self.out / "index" / f"{name}.jpg", quality=QUALITY)
        else:
            mask = np.full(pixels.shape[:2], UNLABELLED, dtype=np.uint8)
            for concept, where in zip(concepts, seen, strict=True):
                mask[where] = self.labels[concept]
            folder = self.out / "benchmark"
            image.save(folder / "images" / scene.split / f"{name}.jpg", quality=QUALITY)
            Image.fromarray(mask).save(folder / "masks" / scene.split / f"{name}.png")
        return [c for c, where in zip(concepts, seen, strict=True) if where.mean() >= LABELLED]


_press: Press | None = None  # of this worker process: set once by the pool's initializer


def _set_up(press: Press) -> None:
    global _press
    _press = press


def _write(scene: Scene) -> list[str]:
    assert _press is not None
    return _press.write(scene)


def compose(
    cutouts: str | Path,
    backgrounds: str | Path,
    photographs: str | Path,
    out: str | Path,
    *,
    seed: int,
    size: int,
    index: int,
    train: int,
    val: int,
    workers: int = 1,
) -> None:
    """Write the scenes of all splits to `out` (layout: see the module); same seed, same bytes.

    Args:
        cutouts, backgrounds: the CSV lists of photographs.
        photographs: folder that holds `<package>/<path>` for every row of the lists.
        out: a folder that does not exist, is empty, or holds composed scenes, which are replaced.
        size: width and height of a scene in pixels.
        index, train, val: number of scenes of each split.
        workers: processes that draw.

    Raises:
        RecoError: a list or a photograph is wrong, or `out` holds something else.
    """
    counts = dict(zip(SPLITS, (index, train, val), strict=True))
    objects = read_photographs(cutouts, photographs)
    scenery = read_photographs(backgrounds, photographs)
    concepts = list(dict.fromkeys(cutout.concept for cutout in objects))
    if len(concepts) > UNLABELLED:
        raise RecoError(f"{cutouts}: {len(concepts)} concepts: an 8-bit mask holds {UNLABELLED}")
    scenes = [
        scene
        for split, count in counts.items()
        for scene in itertools.islice(plan(objects, scenery, split, seed=seed), count)
    ]
    with _fresh_folder(Path(out)) as folder:
        (folder / "index").mkdir()
        for kind, split in itertools.product(("images", "masks"), ("train", "val")):
            (folder / "benchmark" / kind / split).mkdir(parents=True)
        labels = {concept: i for i, concept in enumerate(concepts)}
        press = Press(Studio(size), labels, folder, seed)
        visible = list(
            track(
                _write_all(press, scenes, workers),
                "compose scenes",
                total=len(scenes),
                unit="scene",
            )
        )
        write_text(folder / "benchmark" / "classes.txt", "".join(f"{c}\n" for c in concepts))
        write_table(
            folder / "index_labels.csv",
            ["path", "concepts"],
            (
                (f"{scene.number:05d}.jpg", ";".join(found))
                for scene, found in zip(scenes, visible, strict=True)
                if scene.split == "index"
            ),
        )
        write_json(
            folder / "composed.json",
            {
                "seed": seed,
                "size": size,
                "scenes": counts,
                "concepts": len(concepts),
                "visible": _tally(scenes, visible, concepts),
                "lists": {Path(path).name: sha256(path) for path in (cutouts, backgrounds)},
                "versions": {name: metadata.version(name) for name in ("numpy", "pillow")},
            },
        )


def _write_all(press: Press, scenes: Sequence[Scene], workers: int) -> Iterable[list[str]]:
    """What is visible in each scene, in order, as the scenes get written."""
    if workers <= 1:
        yield from (press.write(scene) for scene in scenes)
        return
    pool = ProcessPoolExecutor(
        workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_set_up,
        initargs=(press,),
    )
    try:
        yield from pool.map(_write, scenes, chunksize=16)
    finally:
        pool.shutdown(cancel_futures=True)


def _tally(
    scenes: Sequence[Scene], visible: Sequence[list[str]], concepts: Sequence[str]
) -> dict[str, dict[str, int]]:
    """Number of scenes of each split in which a concept is visible."""
    tallies: dict[str, Counter[str]] = {split: Counter() for split in SPLITS}
    for scene, found in zip(scenes, visible, strict=True):
        tallies[scene.split].update(found)
    return {split: {c: tally[c] for c in concepts} for split, tally in tallies.items()}


@contextmanager
def _fresh_folder(out: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `out` that becomes `out` if the block succeeds."""
    if out.exists() and any(out.iterdir()):
        try:
            read_json(out / "composed.json")
        except RecoError:
            raise RecoError(f"{out}: holds something else: name a new or empty folder") from None
    out.parent.mkdir(parents=True, exist_ok=True)
    # mkdtemp makes private folders: the one that is renamed lies within and has ordinary rights.
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as temporary:
        folder = Path(temporary, "scenes")
        folder.mkdir()
        yield folder
        if out.exists():
            out.rename(Path(temporary, "old"))
        folder.rename(out)
