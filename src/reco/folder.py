"""The `folder` layout on disk: find its images, read and check them.

An index is any folder tree of images. A benchmark holds `classes.txt` (a concept per line, line
number from 0 = label id), `images/<split>/**` and `masks/<split>/**.png` of the same relative
stem, 8- or 16-bit, value = label id, 255 or 65535 = ignore.
"""

import csv
import os
from collections.abc import Container, Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from reco.errors import RecoError
from reco.files import atomic, fingerprint

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp"})
IGNORE = -1


def find_images(root: str | Path, suffixes: Container[str] = SUFFIXES) -> list[str]:
    """Relative POSIX paths of the image files below `root`, sorted; hidden ones are left out.

    Args:
        suffixes: endings of the files that count, in lower case.

    Raises:
        RecoError: `root` is no folder.
    """
    root = Path(root)
    if not root.is_dir():
        raise RecoError(f"{root}: no such folder: mend the 'root' of the index or benchmark")
    found = []
    for folder, folders, files in os.walk(root, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        inside = Path(folder).relative_to(root)
        found += [
            (inside / name).as_posix()
            for name in files
            if Path(name).suffix.lower() in suffixes and not name.startswith(".")
        ]
    return sorted(found)


def scan(*roots: str | Path, times: bool) -> str:
    """Digest of names, sizes and, with `times`, modification times of the images below `roots`.

    Changes when an image is added, replaced or taken away. Times find a replacement of equal size,
    but also change where files are copied.
    """
    state = []
    for root in roots:
        for path in find_images(root):
            size, changed = file_state(Path(root) / path)
            state.append((path, size, changed if times else 0))
    return fingerprint(state)


def file_state(path: Path) -> tuple[int, int]:
    """Size and time of the last change (ns); of a file that is gone, as a link to one, (-1, 0)."""
    try:
        stat = path.stat()
    except OSError:
        return -1, 0
    return stat.st_size, stat.st_mtime_ns


def read_classes(root: str | Path) -> list[str]:
    """The names in `<root>/classes.txt`, by label id.

    Raises:
        RecoError: the file is missing, empty, or names a class twice.
    """
    path = Path(root) / "classes.txt"
    try:
        names = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except FileNotFoundError:
        raise RecoError(f"{path}: missing: write one concept per line, line 0 = label 0") from None
    while names and not names[-1]:
        names.pop()
    if not names or not all(names):
        raise RecoError(f"{path}: empty, or has an empty line: the line number is the label id")
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise RecoError(f"{path}: listed twice: {', '.join(twice)}")
    return names


def pair_masks(root: str | Path, split: str, *, need_masks: bool) -> list[tuple[str, str]]:
    """Images of a split with their masks, as paths relative to `root`; mask "" where none is.

    Args:
        need_masks: whether the split must have masks at all. A split that has any must have one
            for every image.

    Raises:
        RecoError: no images, an image without a mask or a mask without an image.
    """
    root = Path(root)
    found = find_images(root / "images" / split)
    images = {_stem(path): path for path in found}
    for path in found:
        if images[_stem(path)] != path:
            raise RecoError(
                f"{root / 'images' / split}: {path} and {images[_stem(path)]} would share a mask: "
                "rename one"
            )
    if not images:
        raise RecoError(
            f"{root / 'images' / split}: holds no images ({', '.join(sorted(SUFFIXES))})"
        )
    folder = root / "masks" / split
    if not need_masks and not folder.is_dir():
        return [(f"images/{split}/{path}", "") for path in images.values()]
    masks = {_stem(path): path for path in find_images(folder) if path.lower().endswith(".png")}
    for stem in sorted(images.keys() - masks.keys())[:1]:
        raise RecoError(
            f"{root / 'images' / split / images[stem]}: has no mask: add "
            f"{folder / stem}.png or take the image out"
        )
    for stem in sorted(masks.keys() - images.keys())[:1]:
        raise RecoError(
            f"{folder / masks[stem]}: has no image: add {root / 'images' / split / stem}.jpg "
            "(or .png, .webp) or take the mask out"
        )
    return [(f"images/{split}/{images[stem]}", f"masks/{split}/{masks[stem]}") for stem in images]


def read_image(path: str | Path) -> Image.Image:
    """Decode an image to upright RGB.

    Raises:
        RecoError: not an image, truncated, or unreasonably large.
    """
    try:
        with Image.open(path) as image:
            image.load()
            return to_rgb(image)
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise RecoError(f"{path}: not a readable image: {error}") from None


def to_rgb(image: Image.Image) -> Image.Image:
    """An image upright and in 8-bit RGB: EXIF's turn is carried out, transparency becomes white."""
    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith("I") or upright.mode == "F":
        values = np.asarray(upright, dtype=np.float32)
        top = 65535 if values.max(initial=0) > 255 else 255
        upright = Image.fromarray((values * (255 / top)).clip(0, 255).astype(np.uint8))
    if upright.mode in ("P", "LA", "RGBA", "PA") or "transparency" in upright.info:
        upright = upright.convert("RGBA")
        flat = Image.new("RGBA", upright.size, "white")
        upright = Image.alpha_composite(flat, upright)
    return upright.convert("RGB")


def read_mask(path: str | Path, classes: int) -> np.ndarray:
    """Read a label mask: (height, width) int32, ids 0..classes-1, ignore = -1.

    Raises:
        RecoError: not a single-channel 8- or 16-bit PNG, or an id beyond the classes.
    """
    try:
        with Image.open(path) as image:
            if image.mode not in ("L", "P", "I;16", "I", "I;16B"):
                raise RecoError(
                    f"{path}: mode {image.mode}: a mask is a single-channel 8- or 16-bit PNG"
                )
            ignore = 255 if image.mode in ("L", "P") else 65535
            mask = np.asarray(image).astype(np.int32)
    except (OSError, ValueError, SyntaxError) as error:
        raise RecoError(f"{path}: not a readable mask: {error}") from None
    mask[mask == ignore] = IGNORE
    if mask.max(initial=0) >= classes:
        raise RecoError(
            f"{path}: label id {mask.max()} but classes.txt has {classes} lines "
            f"(ids 0..{classes - 1}, {ignore} = ignore): mend the mask or the list"
        )
    return mask


def write_labels(path: str | Path, labels: np.ndarray) -> None:
    """Write label ids as PNG: 8-bit if all are below 255, else 16-bit; ignore (-1) as 255/65535."""
    wide = labels.max(initial=0) >= 255
    dtype, ignore = (np.uint16, 65535) if wide else (np.uint8, 255)
    values = np.where(labels < 0, ignore, labels).astype(dtype)
    with atomic(path) as temporary:
        Image.fromarray(values).save(temporary, format="PNG")


def write_table(path: str | Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a CSV table, atomically."""
    with atomic(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def read_table(path: str | Path) -> list[dict[str, str]]:
    """Read a CSV table as one dict per row."""
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _stem(path: str) -> str:
    return path.rsplit(".", 1)[0]
