"""The `folder` layout on disk: find its images, read and check its masks.

An index is any folder tree of images. A benchmark holds `classes.txt` (a concept per line, line
number from 0 = label id), `images/<split>/**` and `masks/<split>/**.png` of the same relative
stem, 8- or 16-bit, value = label id, 255 or 65535 = ignore.
"""

import os
import unicodedata
from collections import Counter
from collections.abc import Container, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from reco.data.images import KINDS, read_values
from reco.data.images import read_image as read_image  # where scripts of others look for it
from reco.errors import RecoError
from reco.files import atomic, fingerprint, read_text
from reco.method.metrics import IGNORE as IGNORE

RESULTS = "reco.json"  # a folder below another one that holds this has results of ours
SYSTEM = frozenset({"@eaDir", "__MACOSX"})  # thumbnails and forks that systems keep beside files


@dataclass
class Found:
    """What a folder holds.

    Attributes:
        images: POSIX paths of the images, relative to the folder, sorted.
        odd: those whose names no table can hold: not UTF-8, or with line breaks and the like.
        left_out: what else there is -> how many: endings of other files, and folders that are not
            looked into.
    """

    images: list[str] = field(default_factory=list)
    odd: list[str] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)

    def remark(self) -> str:
        """What was left out, as a line for people; "" where nothing was."""
        return ", ".join(f"{what} ({count})" for what, count in sorted(self.left_out.items()))


def survey(root: str | Path, kinds: Container[str] = KINDS) -> Found:
    """Look through a folder at any depth. Links are followed, but each real folder counts once,
    and none that the folder lies in.

    A folder is listed where it really is rather than by a link to it, so the order does not
    depend on the file system. Hidden files and folders, folders of results of ours and those that
    systems make are left out. By its ending alone something is an image: a broken link or a pipe
    is found when it is read.

    Args:
        kinds: endings of the files that count, in lower case.

    Raises:
        RecoError: `root` is no folder.
    """
    root = Path(root)
    if not root.is_dir():
        raise RecoError(f"{root}: no such folder: mend the 'root' of the index or benchmark")
    found = Found()
    # A link that leads up, above the folder, would bring in whatever lies there.
    seen = {_identity(parent) for parent in root.resolve().parents}
    starts = [""]
    while starts:
        links: list[str] = []
        for start in starts:
            for inside, entries in _walk(root, start, links, seen, found.left_out):
                for entry in entries:
                    _count(f"{inside}{entry.name}", kinds, found)
        starts = sorted(links)
    found.images.sort()
    found.odd.sort()
    return found


def _walk(
    root: Path, start: str, links: list[str], seen: set[tuple[int, int]], left_out: Counter[str]
) -> Iterator[tuple[str, list[os.DirEntry[str]]]]:
    """Real folders from `start` on that were not `seen`: path below the root, and their files.

    Links to folders are collected in `links`, for after.
    """
    waiting = [start]
    while waiting:
        inside = waiting.pop()
        try:
            identity = _identity(root / inside)
            if identity in seen:
                continue
            seen.add(identity)
            with os.scandir(root / inside) as opened:
                entries = [entry for entry in opened if not entry.name.startswith(".")]
        except OSError as error:
            left_out[f"folder {printable(inside)}: {error.strerror}"] += 1
            continue
        if inside and any(entry.name == RESULTS for entry in entries):
            left_out["folders of reco's own results"] += 1
            continue
        folders = [entry for entry in entries if _is_folder(entry) and entry.name not in SYSTEM]
        for folder in folders:
            (links if folder.is_symlink() else waiting).append(f"{inside}{folder.name}/")
        yield inside, [entry for entry in entries if not _is_folder(entry)]


def _identity(folder: Path) -> tuple[int, int]:
    state = folder.stat()
    return state.st_dev, state.st_ino


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _count(path: str, kinds: Container[str], found: Found) -> None:
    """Put a file where it belongs."""
    ending = os.path.splitext(path)[1].lower()
    if ending not in kinds:
        found.left_out[printable(ending) or "without an ending"] += 1
    elif printable(path) != path:
        found.odd.append(path)
    else:
        found.images.append(path)


def printable(name: str) -> str:
    """A file's name as text for tables and people.

    Bytes that are not UTF-8, and characters that are not shown (line breaks, say), are written as
    escapes; such a name does not lead back to the file.
    """
    if name.isprintable():  # the usual case, and a hundred times faster
        return name
    text = os.fsencode(name).decode("utf-8", "backslashreplace")
    return "".join(
        character.encode("unicode_escape").decode()
        if unicodedata.category(character) in ("Cc", "Zl", "Zp")
        else character
        for character in text
    )


def find_images(root: str | Path, kinds: Container[str] = KINDS) -> list[str]:
    """The images of `survey`, where nothing is said of the rest."""
    return survey(root, kinds).images


@dataclass(frozen=True)
class Scan:
    """State of the images below some folders: a digest, and how many there are."""

    digest: str
    count: int


def scan(*roots: str | Path, times: bool) -> Scan:
    """Digest of names, sizes and, with `times`, modification times of the images below `roots`.

    Changes when an image is added, replaced or taken away. Times find a replacement of equal size,
    but also change where files are copied.
    """
    state = []
    for root in roots:
        found = survey(root)
        for path in [*found.images, *found.odd]:
            size, changed = file_state(Path(root) / path)
            state.append((printable(path), size, changed if times else 0))
    return Scan(fingerprint(state), len(state))


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
    if not path.exists():
        raise RecoError(f"{path}: missing: write one concept per line, line 0 = label 0")
    names = [line.strip() for line in read_text(path).split("\n")]
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
        raise RecoError(f"{root / 'images' / split}: holds no images ({', '.join(sorted(KINDS))})")
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


def read_mask(path: str | Path, classes: int) -> np.ndarray:
    """Read a label mask: (height, width) int32, ids 0..classes-1, ignore = -1.

    Raises:
        RecoError: not a single-channel 8- or 16-bit PNG, or an id beyond the classes.
    """
    mode, values = read_values(path)
    if mode not in ("L", "P", "I;16", "I", "I;16B"):
        raise RecoError(f"{path}: mode {mode}: a mask is a single-channel 8- or 16-bit PNG")
    ignore = 255 if mode in ("L", "P") else 65535
    mask = values.astype(np.int32)
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
    values = labels.astype(dtype)
    values[labels < 0] = ignore
    with atomic(path) as temporary:
        Image.fromarray(values).save(temporary, format="PNG")


def _stem(path: str) -> str:
    return path.rsplit(".", 1)[0]
