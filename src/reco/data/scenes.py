"""Compose labelled scenes: photographic cut-outs pasted on photographic backgrounds.

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
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from reco.data.images import FORMATS
from reco.errors import RecoError
from reco.files import read_json, sha256, write_json, write_text
from reco.progress import track

IGNORE = 255
SPLITS = ("index", "train", "val")  # the position of a split is part of its scenes' seeds
USES = {
    "index": ("index",),
    "train": ("train",),
    "val": ("val",),
    "benchmark": ("train", "val"),
    "both": SPLITS,
}

OBJECTS = (0.25, 0.5, 0.25)  # probabilities of 1, 2, 3 objects in a scene
LONG_SIDE = (0.35, 0.65)  # longer side of an object as a part of the side of the scene
TILT = 15.0  # degrees, either way
ENLARGE = 1.6  # a cut-out is magnified no further than this
IN_FRAME = 0.8  # part of an object that lies within the scene
IN_SIGHT = 0.6  # part of an object that no later object and no border hides
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
    places = _decks(usable, rng)
    turns = {concept: itertools.cycle(found) for concept, found in photographs.items()}
    deck: list[str] = []
    for number in itertools.count():
        wanted = min(1 + int(rng.choice(len(OBJECTS), p=OBJECTS)), len(concepts))
        if len(deck) < wanted:
            # Concepts left over go first; a scene that spans two decks must not repeat one.
            fresh = [concepts[i] for i in rng.permutation(len(concepts))]
            deck += [c for c in fresh if c not in deck] + [c for c in fresh if c in deck]
        chosen, deck = deck[:wanted], deck[wanted:]
        yield Scene(split, number, next(places), tuple(next(turns[c]) for c in chosen))


def _decks(items: Sequence[Photograph], rng: np.random.Generator) -> Iterator[Photograph]:
    while True:
        yield from (items[i] for i in rng.permutation(len(items)))


# ---- drawing ----------------------------------------------------------------------------------


@dataclass
class Studio:
    """Draws scenes and keeps the decoded photographs; one per process.

    Attributes:
        size: width and height of a scene in pixels.
        labels: label id of every concept.
        out: folder that the layout is written to.
    """

    size: int
    labels: dict[str, int]
    out: Path
    _decoded: dict[Path, Image.Image] = field(default_factory=dict, repr=False)

    def draw(self, scene: Scene, seed: int) -> list[str]:
        """Write one scene; return the concepts that are visible in it, back to front."""
        rng = np.random.default_rng([seed, SPLITS.index(scene.split), scene.number])
        canvas = self._background(scene.background, rng)
        sprites = [self._sprite(cutout, len(scene.cutouts), rng) for cutout in scene.cutouts]
        layers = arrange(sprites, self.size, rng)
        # Per pixel: the weight of every object in what is seen; they and the background's sum to 1.
        weights = np.zeros((len(sprites), self.size, self.size), dtype=np.float32)
        for i, (sprite, layer) in enumerate(zip(sprites, layers, strict=True)):
            if layer is None:
                continue
            scene_part, sprite_part = layer.windows(*sprite.shape[:2])
            colour, alpha = np.split(sprite[sprite_part], [3], axis=-1)
            weights[:, *scene_part] *= 1 - alpha[..., 0]
            weights[i][scene_part] = alpha[..., 0]
            canvas *= 1 - _shadow(weights[i], rng)[..., None]
            canvas[scene_part] *= 1 - alpha
            canvas[scene_part] += colour
        seen = weights >= 0.5
        concepts = [
            cutout.concept
            for cutout, pixels in zip(scene.cutouts, seen, strict=True)
            if pixels.mean() >= LABELLED
        ]
        image = Image.fromarray((canvas * 255 + 0.5).clip(0, 255).astype(np.uint8))
        name = f"{scene.number:05d}"
        if scene.split == "index":
            image.save(self.out / "index" / f"{name}.jpg", quality=QUALITY)
            return concepts
        mask = np.full((self.size, self.size), IGNORE, dtype=np.uint8)
        for cutout, pixels in zip(scene.cutouts, seen, strict=True):
            mask[pixels] = self.labels[cutout.concept]
        folder = self.out / "benchmark"
        image.save(folder / "images" / scene.split / f"{name}.jpg", quality=QUALITY)
        Image.fromarray(mask).save(folder / "masks" / scene.split / f"{name}.png")
        return concepts

    def _background(self, photograph: Photograph, rng: np.random.Generator) -> np.ndarray:
        """Random crop, flip and light: (size, size, 3) float32 in 0..1."""
        image = self._decode(photograph.file, "RGB", 4 * self.size)
        width, height = image.size
        side = min(width, height) * rng.uniform(0.4, 1.0)
        left, top = rng.uniform(0, width - side), rng.uniform(0, height - side)
        box = (left, top, left + side, top + side)
        crop = image.resize((self.size, self.size), Image.Resampling.BILINEAR, box)
        if rng.random() < 0.5:
            crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return _relight(np.asarray(crop, dtype=np.float32) / 255, np.float32(1), rng)

    def _sprite(self, cutout: Photograph, objects: int, rng: np.random.Generator) -> np.ndarray:
        """Random scale, flip, tilt and light: (h, w, 4) float32, colour times alpha, alpha.

        Thin things are drawn longer and stout ones shorter, so that areas differ less; the more
        objects share a scene, the smaller they are.
        """
        image = self._decode(cutout.file, "RGBa", int(1.25 * self.size))
        fill = float(np.asarray(image)[..., 3].mean()) / 255
        fill *= image.width * image.height / max(image.size) ** 2
        part = rng.uniform(*LONG_SIDE) * float(np.clip((0.3 / fill) ** 0.3, 0.85, 1.35))
        part = min(part * (1.15, 1.0, 0.9)[objects - 1], 0.85)
        scale = min(part * self.size / max(image.size), ENLARGE)
        shape = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        image = image.resize(shape, Image.Resampling.BICUBIC, reducing_gap=2)
        if rng.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        angle = rng.uniform(-TILT, TILT)
        image = image.rotate(angle, Image.Resampling.BICUBIC, expand=True)
        pixels = _feather(np.asarray(image))
        alpha = pixels[..., 3:]
        colour = _relight(np.minimum(pixels[..., :3], alpha), alpha, rng)
        return np.concatenate([colour, alpha], axis=-1)

    def _decode(self, file: Path, mode: str, most: int) -> Image.Image:
        """A photograph with its longer side at most `most` pixels; cut-outs cropped to the object.

        Mode RGBa has colour multiplied by alpha: resizing it cannot bleed in the colour of
        transparent pixels.
        """
        if file not in self._decoded:
            self._decoded[file] = _read(file, mode, most)
        return self._decoded[file]


def _read(file: Path, mode: str, most: int) -> Image.Image:
    try:
        with Image.open(file, formats=FORMATS) as opened:
            opened.draft("RGB", (most, most * opened.height // opened.width))
            if mode == "RGBa":
                matte = opened.convert("RGBA")
                box = matte.getchannel("A").point(lambda alpha: 255 * (alpha > 12)).getbbox()
                if box is None or matte.getchannel("A").getextrema()[0] == 255:
                    raise RecoError(f"{file}: not a cut-out: it has no transparent background")
                image = matte.crop(box).convert("RGBa")
            else:
                image = opened.convert(mode)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise RecoError(f"{file}: not a readable photograph ({error}): unpack it again") from None
    scale = min(1.0, most / max(image.size))
    shape = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image if scale == 1 else image.resize(shape, Image.Resampling.LANCZOS, reducing_gap=3)


def _feather(pixels: np.ndarray) -> np.ndarray:
    """Soften the edge of a (h, w, 4) uint8 cut-out inwards; returns float32 in 0..1.

    Takes off the rim that keeps some of the old background's colour.
    """
    alpha = Image.fromarray(np.ascontiguousarray(pixels[..., 3]))
    soft = np.asarray(alpha.filter(ImageFilter.GaussianBlur(1.0)), dtype=np.float32) / 255
    keep = np.clip((soft - 0.25) / 0.5, 0, 1)[..., None]
    return pixels.astype(np.float32) * (keep / 255)


def _relight(
    colour: np.ndarray, alpha: np.ndarray | np.float32, rng: np.random.Generator
) -> np.ndarray:
    """Random brightness, contrast and colour cast.

    Args:
        colour: (h, w, 3) float32, colour times alpha.
        alpha: (h, w, 1), or a scalar 1.
    """
    contrast = np.float32(rng.uniform(0.85, 1.15))
    gain = (rng.uniform(0.85, 1.12) * rng.uniform(0.94, 1.06, size=3)).astype(np.float32)
    lit = colour * (contrast * gain)
    lit += alpha * (0.5 * (1 - contrast) * gain)
    return np.clip(lit, 0, alpha, out=lit)


def _shadow(alpha: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Soft shadow of an object with this (size, size) alpha, 0..1: how much it darkens."""
    size = alpha.shape[0]
    strength, shift = rng.uniform(0.0, 0.4), rng.uniform(0.01, 0.04) * size
    side = rng.uniform(-1, 1) * shift
    # A quarter of the resolution is enough for something this blurred, and sixteen times faster.
    small = Image.fromarray((alpha * 255).astype(np.uint8)).resize((size // 4, size // 4))
    soft = small.filter(ImageFilter.GaussianBlur(size / 160))
    moved = soft.transform(
        (size, size),
        Image.Transform.AFFINE,
        (0.25, 0, -side / 4, 0, 0.25, -shift / 4),
        Image.Resampling.BILINEAR,
    )
    return np.asarray(moved, dtype=np.float32) * (strength / 255)


@dataclass(frozen=True)
class Layer:
    """Where a sprite lies: the position of its top left corner in a scene of side `size`."""

    left: int
    top: int
    size: int

    def windows(self, height: int, width: int) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
        """The part of the scene that a (height, width) sprite covers, and that of the sprite."""
        x0, y0 = max(self.left, 0), max(self.top, 0)
        x1 = max(x0, min(self.left + width, self.size))
        y1 = max(y0, min(self.top + height, self.size))
        sprite = slice(y0 - self.top, y1 - self.top), slice(x0 - self.left, x1 - self.left)
        return (slice(y0, y1), slice(x0, x1)), sprite


def arrange(
    sprites: Sequence[np.ndarray], size: int, rng: np.random.Generator, *, tries: int = 40
) -> list[Layer | None]:
    """Positions of (h, w, 4) sprites, later ones in front, at which all stay in sight.

    Each sprite gets, of `tries` random positions, the first at which it lies within the scene
    (`IN_FRAME`) and leaves everything behind it in sight (`IN_SIGHT`). None: there was no such
    position, the object is left out.
    """
    front = np.full((size, size), -1, dtype=np.int8)  # the foremost object of every pixel
    solid = [sprite[..., 3] >= 0.5 for sprite in sprites]
    areas = [max(int(pixels.sum()), 1) for pixels in solid]
    layers: list[Layer | None] = []
    for i, pixels in enumerate(solid):
        layers.append(None)
        height, width = pixels.shape
        for _ in range(tries):
            # Up to a tenth of the sprite may stick out; one larger than the scene is centred.
            left = rng.uniform(-0.1 * width, size - 0.9 * width)
            top = rng.uniform(-0.1 * height, size - 0.9 * height)
            layer = Layer(round(left), round(top), size)
            scene, part = layer.windows(height, width)
            inside = pixels[part]
            if inside.sum() < IN_FRAME * areas[i]:
                continue
            trial = front.copy()
            trial[scene][inside] = i
            left_over = np.bincount(trial[trial >= 0], minlength=i + 1)
            behind = [j for j in range(i) if layers[j] is not None]
            if all(left_over[j] >= IN_SIGHT * areas[j] for j in behind):
                front, layers[i] = trial, layer
                break
    return layers


# ---- the whole data set -----------------------------------------------------------------------

_studio: Studio | None = None  # of this worker process: set once by the pool's initializer


def _open_studio(studio: Studio) -> None:
    global _studio
    _studio = studio


def _draw(task: tuple[Scene, int]) -> list[str]:
    assert _studio is not None
    return _studio.draw(*task)


def compose(
    cutouts: str | Path,
    backgrounds: str | Path,
    photographs: str | Path,
    out: str | Path,
    *,
    seed: int = 0,
    size: int = 320,
    index: int = 1200,
    train: int = 300,
    val: int = 120,
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
    places = read_photographs(backgrounds, photographs)
    concepts = list(dict.fromkeys(cutout.concept for cutout in objects))
    if len(concepts) > IGNORE:
        raise RecoError(f"{cutouts}: {len(concepts)} concepts: an 8-bit mask holds {IGNORE}")
    scenes = [
        scene
        for split, count in counts.items()
        for scene in itertools.islice(plan(objects, places, split, seed=seed), count)
    ]
    with _fresh_folder(Path(out)) as folder:
        (folder / "index").mkdir()
        for kind, split in itertools.product(("images", "masks"), ("train", "val")):
            (folder / "benchmark" / kind / split).mkdir(parents=True)
        studio = Studio(size, {concept: i for i, concept in enumerate(concepts)}, folder)
        visible = list(
            track(
                _draw_all(studio, scenes, seed, workers),
                "compose scenes",
                total=len(scenes),
                unit="scene",
            )
        )
        write_text(folder / "benchmark" / "classes.txt", "".join(f"{c}\n" for c in concepts))
        with open(folder / "index_labels.csv", "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["path", "concepts"])
            for scene, found in zip(scenes, visible, strict=True):
                if scene.split == "index":
                    writer.writerow([f"{scene.number:05d}.jpg", ";".join(found)])
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


def _draw_all(
    studio: Studio, scenes: Sequence[Scene], seed: int, workers: int
) -> Iterable[list[str]]:
    """What is visible in each scene, in order, as the scenes get drawn."""
    if workers <= 1:
        yield from (studio.draw(scene, seed) for scene in scenes)
        return
    pool = ProcessPoolExecutor(
        workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_open_studio,
        initargs=(studio,),
    )
    try:
        yield from pool.map(_draw, ((scene, seed) for scene in scenes), chunksize=16)
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
