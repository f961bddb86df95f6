"""Scores: how a specialist does on labelled photographs, and what it looks like."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from reco.data.benchmarks import check_sizes
from reco.data.folder import find_images
from reco.data.images import read_values
from reco.errors import RecoError
from reco.method.metrics import IGNORE, ConfusionMatrix
from reco.photos.result import Segmentation, paint
from reco.photos.specialists.lessons import Lesson
from reco.photos.specialists.specialist import CONCEPT, Specialist
from reco.progress import track

SHOWN = 6  # photographs in overview.png


def overview(specialist: Specialist, shown: Sequence[Lesson], others: Sequence[Lesson]) -> Figure:
    """Photographs that were learned from, what ReCo taught, and what the specialist finds in them.

    Args:
        shown, others: of `make_lessons`; some of the first, and one of the second.
    """
    chosen = np.linspace(0, len(shown) - 1, min(SHOWN - 1, len(shown))).round().astype(int)
    lessons = [*(shown[i] for i in chosen), *others[:1]]
    figure = Figure(figsize=(6.5, 2.2 * len(lessons)), layout="constrained")
    axes = figure.subplots(len(lessons), 3, squeeze=False)
    for row, lesson in zip(axes, lessons, strict=True):
        found = specialist.segment(lesson.picture).labels
        taught = np.choose(lesson.labels + 1, [1, IGNORE, 0])  # what is open: the second colour
        pictures = (lesson.picture, paint(lesson.picture, taught), paint(lesson.picture, found))
        for axis, picture in zip(row, pictures, strict=True):
            axis.imshow(picture)
            axis.set_axis_off()
    word = specialist.description.word
    titles = ("photograph", f"taught: {word}; open", f"found: {word}")
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title if len(title) < 40 else title[:39] + "…", fontsize=9)
    return figure


def pair_photographs(photos: Path, masks: Path) -> list[tuple[Path, Path]]:
    """Photographs and their masks: PNG files of the same name, at the same place.

    Photographs without a mask are left out.

    Raises:
        RecoError: no folder, no mask, a mask without a photograph, or sizes that differ.
    """
    images = _by_stem(photos, find_images(photos))
    pairs = []
    for name in find_images(masks, {".png"}):
        stem = name.rsplit(".", 1)[0]
        if stem not in images:
            raise RecoError(f"{masks / name}: no photograph {stem}.* in {photos}: take it out")
        check_sizes(images[stem], masks / name)
        pairs.append((images[stem], masks / name))
    if not pairs:
        raise RecoError(f"{masks}: holds no masks: PNG files named as the photographs")
    return pairs


def _by_stem(root: Path, names: Iterable[str]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for name in names:
        stem = name.rsplit(".", 1)[0]
        if found.setdefault(stem, root / name) != root / name:
            raise RecoError(f"{root / name} and {found[stem]} would share a mask: rename one")
    return found


def evaluate(
    segment: Callable[[Path], Segmentation], pairs: Sequence[tuple[Path, Path]]
) -> dict[str, float]:
    """IoU, precision and recall of the concept's pixels, all photographs together.

    Args:
        segment: photograph -> what was found; its first name is the concept.
        pairs: photographs and masks, where any value but 0 is the concept.

    Raises:
        RecoError: a file cannot be read.
    """
    matrix = ConfusionMatrix(2)
    for photo, mask in track(pairs, "evaluate"):
        matrix.update(_read_binary(mask), segment(photo).labels == 0)
    (_, false), (missed, hit) = matrix.counts
    return {
        "iou": round(float(matrix.iou[CONCEPT]), 6),
        "precision": round(float(hit / max(1, hit + false)), 6),
        "recall": round(float(hit / max(1, hit + missed)), 6),
    }


def _read_binary(path: Path) -> np.ndarray:
    _, values = read_values(path)
    if values.ndim != 2:
        raise RecoError(f"{path}: has colours: a mask has one channel, 0 = not the concept")
    return values != 0
