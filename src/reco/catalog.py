"""Catalog: list and check the images of an experiment, before any network looks at them."""

from pathlib import Path

from reco.datasets import check_sizes, class_names
from reco.errors import RecoError
from reco.files import sha256
from reco.folder import find_images, read_table, write_table
from reco.progress import LOG, track
from reco.split import Split


def catalog_index(root: Path, table: Path, largest_archive: int) -> None:
    """List the images of an index: path below `root`, key (digest of the bytes), size in bytes.

    The key, not the path, names an image in the store: a renamed image is not computed again.
    Files that cannot be opened at all are listed with an empty key and skipped later.

    Raises:
        RecoError: no images, or fewer than the largest archive.
    """
    paths = find_images(root)
    if len(paths) < max(largest_archive, 1):
        raise RecoError(
            f"{root}: holds {len(paths)} images, fewer than the archive size {largest_archive}: "
            "add images, mend the 'root' of the index, or lower archive_size and archive_sizes"
        )
    write_table(
        table, ["path", "key"], [(path, _key(root / path)) for path in track(paths, "list index")]
    )


def label_index(index: Path, table: Path) -> None:
    """Write what the images of ImageNet show, which their folders name: path, concepts.

    Args:
        index: CSV of `catalog_index`.
    """
    rows = ((row["path"], ";".join(class_names(row["path"]))) for row in read_table(index))
    write_table(table, ["path", "concepts"], rows)


def catalog_split(split: Split, table: Path, *, need_masks: bool) -> None:
    """List a split: image, mask (may be empty), prediction (name of the predicted mask), digests.

    Every mask is read once, so that a bad label is found now and not after an hour of work.

    Raises:
        RecoError: images and masks that do not pair or differ in size, or a wrong label.
    """
    root, reader = split.root, split.reader
    rows = []
    for image, mask in track(reader.pairs(root, split.name, need_masks), f"list {split.name}"):
        if mask:
            reader.read_mask(root / mask)
            check_sizes(root / image, root / mask)
        mask_key = _key(root / mask) if mask else ""
        rows.append((image, mask, reader.prediction_name(image), _key(root / image), mask_key))
    write_table(table, ["image", "mask", "prediction", "key", "mask_key"], rows)


def _key(path: Path) -> str:
    try:
        return sha256(path)
    except OSError as error:
        LOG.warning("%s: cannot be read, skipped: %s", path, error)
        return ""
