"""Catalog: list and check the images of an experiment, before any network looks at them.

Digests of the images of an index are kept by path, size and time of the last change, so that of a
million images only those are read that are new.
"""

import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from reco.data.benchmarks import check_sizes
from reco.data.folder import file_state, printable, survey
from reco.data.imagenet import class_names
from reco.data.images import read_size
from reco.data.split import Split
from reco.data.tables import read_table, write_table
from reco.errors import RecoError
from reco.files import SETTLED, sha256, write_text
from reco.method.metrics import IGNORE
from reco.progress import LOG, track

PER_THREAD = 64  # images that a thread takes at a time


class Seen(NamedTuple):
    """An image as it was when it was read: its size, time of its last change (ns), and its key."""

    size: int
    changed: int
    key: str


def catalog_index(
    root: Path, table: Path, largest_archive: int, *, known: Path | None = None, workers: int = 1
) -> None:
    """List the images of an index: path below `root`, and key (digest of the bytes).

    The key, not the path, names an image in the store: a renamed image is not computed again.
    Files that cannot be opened at all are listed with an empty key and skipped later.

    Args:
        known: keys of earlier lists, to read and to write; an image of the same path, size and time
            is not read again. None = all are read.
        workers: threads that read.

    Raises:
        RecoError: no images, or fewer than the largest archive.
    """
    found = survey(root)
    paths, remark = found.images, found.remark()
    if remark:
        LOG.info("%s: %d images; left out: %s", root, len(paths), remark)
    for name in found.odd:
        LOG.warning("%s: left out: rename it, for no table can hold its name", printable(name))
    if len(paths) < max(largest_archive, 1):
        raise RecoError(
            f"{root}: holds {len(paths)} images, fewer than the archive size {largest_archive}: "
            "add images, mend the 'root' of the index, or lower archive_size and archive_sizes"
        )
    before = read_seen(known, root) if known else {}
    started = time.time_ns()
    seen = dict(
        zip(
            paths,
            track(see_images(root, paths, before, workers), "list index", total=len(paths)),
            strict=True,
        )
    )
    write_table(table, ["path", "key"], [(path, image.key) for path, image in seen.items()])
    if known:
        keep = {
            path: image
            for path, image in seen.items()
            if image.key and image.changed < started - SETTLED
        }
        if keep != before:
            write_seen(known, root, keep)


def see_images(
    root: Path, paths: Sequence[str], before: Mapping[str, Seen], workers: int
) -> Iterator[Seen]:
    """Size, time and key of images, in order; those that are as they were `before` are not read."""

    def see(part: Sequence[str]) -> list[Seen]:
        return [_see(root / path, before.get(path)) for path in part]

    parts = [paths[start : start + PER_THREAD] for start in range(0, len(paths), PER_THREAD)]
    with ThreadPoolExecutor(workers) as pool:
        for found in pool.map(see, parts):
            yield from found


def _see(path: Path, before: Seen | None) -> Seen:
    state = file_state(path)  # first: what changes while it is read has another time then
    return before if before and (before.size, before.changed) == state else Seen(*state, _key(path))


def read_seen(known: Path, root: Path) -> dict[str, Seen]:
    """What `write_seen` kept of the images below `root`; nothing where there is none.

    A file that is damaged, or of another folder, is left out with a warning.
    """
    if not known.exists():
        return {}
    try:
        noted, body = known.read_text(encoding="utf-8").split("\n", 1)
        if noted != hashlib.sha256(body.encode()).hexdigest():
            raise ValueError("its digest is another one")
        folder, images = json.loads(body)
        if folder != _real_name(root):
            raise ValueError(f"it is of {folder}")
        return {path: Seen(*image) for path, image in images.items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        LOG.warning("%s: no use (%s): all images are read again", known, error)
        return {}


def write_seen(known: Path, root: Path, images: Mapping[str, Seen]) -> None:
    """Keep what is known of the images below `root`: a line with a digest, and one of JSON."""
    body = json.dumps([_real_name(root), images]) + "\n"
    write_text(known, f"{hashlib.sha256(body.encode()).hexdigest()}\n{body}")


def _real_name(root: Path) -> str:
    return printable(str(root.resolve()))


def label_index(index: Path, table: Path) -> None:
    """Write what the images of ImageNet show, which their folders name: path, concepts.

    Args:
        index: CSV of `catalog_index`.
    """
    rows = ((row["path"], ";".join(class_names(row["path"]))) for row in read_table(index))
    write_table(table, ["path", "concepts"], rows)


def read_index_labels(labels: Path) -> dict[str, set[str]]:
    """What images of the index show, by path: names, in the form that disregards case.

    Args:
        labels: CSV with columns path and concepts (';' between several).
    """
    return {
        row["path"]: {name.strip().casefold() for name in row["concepts"].split(";")}
        for row in read_table(labels)
    }


def catalog_split(split: Split, table: Path, *, need_masks: bool) -> None:
    """List a split: image, mask (may be empty), prediction (name of the predicted mask), digests.

    Every mask is read once, so that a bad label is found now and not after an hour of work.

    Raises:
        RecoError: images and masks that do not pair or differ in size, a wrong label, or an image
            that cannot be read or is an endless strip.
    """
    root, reader = split.root, split.reader
    rows, labels = [], set[int]()
    for image, mask in track(reader.pairs(root, split.name, need_masks), f"list {split.name}"):
        if mask:
            labels.update(np.unique(reader.read_mask(root / mask)).tolist())
            check_sizes(root / image, root / mask)
        _check_shape(split, root / image)
        mask_key = _key(root / mask) if mask else ""
        rows.append((image, mask, reader.prediction_name(image), _key(root / image), mask_key))
    if labels == {0, IGNORE} and len(reader.classes) > 1:
        LOG.warning(
            "%s: its masks hold no label but 0 (%s) and the value that is ignored: in masks of 0 "
            "and 255, write 1 for 255 and run again",
            root / "masks" / split.name,
            reader.classes[0],
        )
    write_table(table, ["image", "mask", "prediction", "key", "mask_key"], rows)


def _check_shape(split: Split, image: Path) -> None:
    try:
        split.geometry.scaled(read_size(image))
    except RecoError as error:
        raise RecoError(f"{image}: {error}") from None


def _key(path: Path) -> str:
    try:
        if path.exists() and not path.is_file():  # reading a pipe would wait for ever
            raise OSError("not a file")
        return sha256(path)
    except OSError as error:
        LOG.warning("%s: cannot be read, skipped: %s", path, error)
        return ""
