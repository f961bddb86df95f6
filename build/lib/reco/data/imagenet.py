"""ImageNet-1K's names: what each class is called in the study of retrieval.

A folder of images per class, called by its WordNet id, needs no other labels.
"""

import csv
import io
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from reco.errors import RecoError
from reco.files import read_yaml, shipped

LAYOUT = "<split>/<WordNet id>/*.JPEG"


class Class(NamedTuple):
    """A class of ImageNet-1K: its WordNet id, its names there, and its definition."""

    wnid: str
    names: list[str]
    definition: str


@cache
def read_classes() -> tuple[Class, ...]:
    """The 1,000 classes in their order, from the table `imagenet.csv` beside this module."""
    text = (resources.files("reco.data") / "imagenet.csv").read_text("utf-8")
    rows = csv.DictReader(io.StringIO(text))
    return tuple(Class(row["wnid"], row["names"].split(", "), row["definition"]) for row in rows)


def vocabulary() -> list[str]:
    """Names of common things, short and of many kinds: the first of each class."""
    return list(dict.fromkeys(entry.names[0] for entry in read_classes()))


@cache
def imagenet_names() -> dict[str, str]:
    """WordNet id -> name of the 1,000 classes of ImageNet-1K, in the order of the classes.

    The name is the first WordNet word, but for those that config/labels/imagenet.yaml renames.
    """
    renamed = label_file()["renamed"]
    return {entry.wnid: renamed.get(entry.wnid, entry.names[0]) for entry in read_classes()}


def class_names(image: str) -> tuple[str, ...]:
    """The names of an ImageNet image's class: one, or none where two classes share the name.

    Args:
        image: path whose last folder is a WordNet id, such as n01440764/n01440764_18.JPEG.

    Raises:
        RecoError: the folder is no class of ImageNet-1K.
    """
    wnid = Path(image).parent.name
    if wnid not in imagenet_names():
        raise RecoError(
            f"{image}: {wnid!r} is no class of ImageNet-1K: sort the images into {LAYOUT}, those "
            "of val by their labels"
        )
    name = imagenet_names()[wnid]
    return () if name in label_file()["dropped"] else (name,)


@cache
def label_file() -> dict[str, Any]:
    """config/labels/imagenet.yaml: which classes are `renamed`, which names are `dropped`."""
    return read_yaml(shipped("config/labels/imagenet.yaml"))
