"""The paper's benchmarks as they are published: which files, which names, which ids.

A reader (`reader_of("cityscapes")`) knows the layout of one dataset and turns its masks into label
ids. Names, id maps and sources are data, in config/labels/. Nothing here downloads: each dataset
has its own terms, and the errors say where to get it.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from reco.data.folder import find_images, pair_masks, read_mask
from reco.data.imagenet import LAYOUT, imagenet_names, label_file
from reco.data.images import read_size, read_values
from reco.errors import RecoError
from reco.files import read_text, read_yaml, shipped
from reco.method.metrics import IGNORE

LABELS = "config/labels"
UNKNOWN = -2  # in `Reader.ids`: a value that no mask may hold


@dataclass(frozen=True)
class Reader:
    """Reads a dataset in its published layout; the subclasses know where its files are.

    Attributes:
        classes: the names that are scored, by label id.
        predicted: the names that are predicted; the same unless `merge` says otherwise.
        merge: (len(predicted),) int64, the label id of each predicted name; None where the two
            lists are one.
        ids: (256,) int32, the label id of each value of a mask file; IGNORE, or UNKNOWN.
        context: predicted name -> the context concept whose reference it takes over.
        page: where its owners publish it.
        options: what else its label file says, such as the sequences of a split.
    """

    classes: tuple[str, ...]
    predicted: tuple[str, ...]
    page: str
    merge: np.ndarray | None = field(default=None, compare=False)
    ids: np.ndarray = field(default_factory=lambda: id_table([]), compare=False)
    context: dict[str, str] = field(default_factory=dict, compare=False)
    options: dict[str, Any] = field(default_factory=dict, compare=False)

    kind: ClassVar[str]
    layout: ClassVar[str]  # for people who have to put the files there
    labels: ClassVar[str]  # name of the file in config/labels
    splits: ClassVar[tuple[str, ...]] = ("train", "val")
    modes: ClassVar[tuple[str, ...]] = ("L", "P")  # of its masks, as Pillow calls them
    named_by: ClassVar[int] = 1  # last parts of an image's path that name it within a split

    @classmethod
    def load(cls) -> "Reader":
        """Read names and ids from config/labels."""
        data = read_yaml(shipped(f"{LABELS}/{cls.labels}.yaml"))
        classes = tuple(data.pop("classes"))
        merge = data.pop("merge", None)
        return cls(
            classes=classes,
            predicted=tuple(data.pop("predicted", classes)),
            page=data.pop("page"),
            merge=None if merge is None else np.array(merge),
            ids=id_table(data.pop("ids"), data.pop("ignore", [])),
            context=data.pop("context", {}),
            options=data,
        )

    def pairs(self, root: str | Path, split: str, need_masks: bool) -> list[tuple[str, str]]:
        """Images of a split and their masks, sorted, as POSIX paths relative to `root`.

        Args:
            split: one of `splits`.
            need_masks: whether every image must have a mask; if not, it is "" where there is none.

        Raises:
            RecoError: no such split, a folder, list or image is missing, or an image lacks a mask.
        """
        if split not in self.splits:
            raise RecoError(
                f"split {split!r}: {self.kind} has {' and '.join(self.splits)}: mend the config"
            )
        found = []
        for image, mask in sorted(self._pairs(Path(root), split)):
            has_mask = Path(root, mask).is_file()
            if need_masks and not has_mask:
                raise RecoError(
                    f"{Path(root, image)}: has no mask: add {Path(root, mask)} ({self._where()})"
                )
            found.append((image, mask if has_mask else ""))
        return found

    def read_mask(self, path: str | Path) -> np.ndarray:
        """Read a mask: (h, w) int32 label ids, IGNORE (-1) for pixels that are not scored.

        Raises:
            RecoError: not a readable 8-bit image of the right mode, or a value that the dataset
                does not have.
        """
        mode, values = read_values(path)
        if mode not in self.modes:
            raise RecoError(
                f"{path}: mode {mode}, but the masks of {self.kind} are "
                f"{' or '.join(self.modes)}: use the published file ({self._where()})"
            )
        mask = self.ids[values if values.ndim == 2 else values[..., 0]]
        if mask.min(initial=IGNORE) == UNKNOWN:
            first = values[mask == UNKNOWN].reshape(-1)[0]
            raise RecoError(
                f"{path}: value {first} is no label of {self.kind}: use the published file "
                f"({self._where()})"
            )
        return mask

    def prediction_name(self, image: str) -> str:
        """Name of the predicted mask of an image: a relative PNG path, unique within a split."""
        parts = image.split("/")[-self.named_by :]
        return "/".join(parts).rsplit(".", 1)[0] + ".png"

    def _pairs(self, root: Path, split: str) -> Iterable[tuple[str, str]]:
        """Image and where its mask belongs, in any order; images exist, masks need not."""
        raise NotImplementedError

    def _where(self) -> str:
        return f"{self.kind}: {self.layout}; get it from {self.page}"

    def _folder(self, root: Path, *candidates: str) -> str:
        """The first of `candidates` that is a folder below `root`."""
        for folder in candidates:
            if (root / folder).is_dir():
                return folder
        raise RecoError(f"{root / candidates[0]}: no such folder: {self._where()}")

    def _images(self, root: Path, folder: str, ending: str) -> list[str]:
        """The images below `folder` with this ending, as paths below `root`; at least one."""
        found = [f"{folder}/{name}" for name in find_images(root / folder) if name.endswith(ending)]
        if not found:
            raise RecoError(f"{root / folder}: holds no {ending or 'image'} files: {self._where()}")
        return found

    def _listed(self, root: Path, file: str, image: Callable[[str], str]) -> list[tuple[str, str]]:
        """The entries of a list file, a name per line, each with its image, which must exist."""
        if not (root / file).exists():
            raise RecoError(f"{root / file}: no such list: {self._where()}")
        names = sorted({line.strip() for line in read_text(root / file).split("\n")} - {""})
        if not names:
            raise RecoError(
                f"{root / file}: lists no images: use the published list ({self._where()})"
            )
        for name in names:
            if not (root / image(name)).is_file():
                raise RecoError(
                    f"{root / image(name)}: no such image, but {root / file} lists {name}: add it "
                    f"({self._where()})"
                )
        return [(name, image(name)) for name in names]


class Cityscapes(Reader):
    """Cityscapes, 27 classes: label id = value of labelIds less 7, lower values are ignored."""

    kind = labels = "cityscapes"
    layout = (
        "leftImg8bit/<split>/<city>/*_leftImg8bit.png and "
        "gtFine/<split>/<city>/*_gtFine_labelIds.png"
    )
    named_by = 2

    def _pairs(self, root: Path, split: str) -> Iterable[tuple[str, str]]:
        folder = self._folder(root, f"leftImg8bit/{split}")
        for image in self._images(root, folder, "_leftImg8bit.png"):
            name = image.removeprefix("leftImg8bit/").removesuffix("_leftImg8bit.png")
            yield image, f"gtFine/{name}_gtFine_labelIds.png"


class CocoStuff(Reader):
    """COCO-Stuff, the curated images of val2017: 171 names are predicted, 27 scored.

    Masks hold COCO-Stuff's ids less 1, 0 to 181, and 255 for unlabelled. Folders may be named as in
    the published zip files, or as in STEGO's copy (images/, annotations/).
    """

    kind = labels = "coco_stuff"
    layout = (
        "<split>2017/*.jpg, stuffthingmaps/<split>2017/*.png and "
        "curated/<split>2017/Coco164kFull_Stuff_Coarse.txt"
    )

    def _pairs(self, root: Path, split: str) -> Iterable[tuple[str, str]]:
        year = f"{split}2017"
        images = self._folder(root, year, f"images/{year}")
        stego = (root / "annotations" / year).is_dir()
        masks = f"annotations/{year}" if stego else f"stuffthingmaps/{year}"
        names = f"curated/{year}/Coco164kFull_Stuff_Coarse.txt"
        for name, image in self._listed(root, names, lambda name: f"{images}/{name}.jpg"):
            yield image, f"{masks}/{name}.png"


class CocoStuff10k(CocoStuff):
    """COCO-Stuff10K, whose train images are what ReCo+ learns from: images only.

    Its masks are MATLAB files; nothing here reads them.
    """

    kind = "coco_stuff10k"
    layout = "imageLists/<split>.txt and images/*.jpg"
    splits = ("train", "test")

    def pairs(self, root: str | Path, split: str, need_masks: bool) -> list[tuple[str, str]]:
        """As in `Reader`, but there are never masks."""
        if need_masks:
            raise RecoError(f"{root}: masks of {self.kind} are not read: score on coco_stuff's val")
        return super().pairs(root, split, need_masks)

    def _pairs(self, root: Path, split: str) -> Iterable[tuple[str, str]]:
        folder = self._folder(root, "images")
        names = f"imageLists/{split}.txt"
        for _, image in self._listed(root, names, lambda name: f"{folder}/{name}.jpg"):
            yield image, ""

    def _where(self) -> str:
        return f"{self.kind}: {self.layout}; get it from {self.options['page_10k']}"


class KittiStep(Reader):
    """KITTI-STEP, 19 classes: label id = red channel of the panoptic map, 255 is ignored.

    Images lie as KITTI publishes them (training/image_02/<sequence>), or sorted into
    images/<split>/<sequence> as in DeepLab2, or <split>/<sequence> as in ReCo's release.
    """

    kind = labels = "kitti_step"
    layout = (
        "training/image_02/<sequence>/*.png and panoptic_maps/<split>/<sequence>/*.png, of every "
        "sequence that config/labels/kitti_step.yaml names"
    )
    modes = ("RGB",)
    named_by = 2

    def _pairs(self, root: Path, split: str) -> Iterable[tuple[str, str]]:
        for sequence in self.options["sequences"][split]:
            places = ("training/image_02", f"images/{split}", split)
            folder = self._folder(root, *(f"{place}/{sequence}" for place in places))
            for image in self._images(root, folder, ".png"):
                yield image, f"panoptic_maps/{split}/{sequence}/{Path(image).name}"


class PascalContext(Reader):
    """PASCAL-Context, 59 classes: label id = value less 1, 0 (background) is ignored.

    `root` is the folder VOC2010. The masks are the PNG files that mmsegmentation's converter makes
    of the published labels.
    """

    kind = labels = "pascal_context"
    layout = (
        "JPEGImages/*.jpg, SegmentationClassContext/*.png (made by mmsegmentation's "
        "pascal_context.py) and ImageSets/SegmentationContext/<split>.txt"
    )

    def _pairs(self, root: Path, split: str) -> Iterable[tuple[str, str]]:
        folder = self._folder(root, "JPEGImages")
        names = f"ImageSets/SegmentationContext/{split}.txt"
        for name, image in self._listed(root, names, lambda name: f"{folder}/{name}.jpg"):
            yield image, f"SegmentationClassContext/{name}.png"


class FireNet(Reader):
    """One rare concept against background, as the paper does with FireNet's fire extinguishers.

    Which files of FireNet the paper scored is not published. So this is a layout to bring them
    into: images/ and masks/ with the same names, masks 0 for background and 1 for the concept. No
    value is ignored; 255 is refused, lest a mask of 0 and 255 be scored on its background alone.

    Background is scored but not predicted: `merge` sends the one predicted name to label id 1, and
    where it is not predicted, by a threshold, belongs label id 0.
    """

    kind = "firenet"
    layout = "images/*.jpg (or .png) and masks/*.png, 0 = background, 1 = fire extinguisher"
    splits = ("val",)

    @classmethod
    def load(cls) -> "Reader":
        """The two names, which need no file."""
        classes = ("background", "fire extinguisher")
        return cls(
            classes=classes,
            predicted=classes[1:],
            page="its authors, and draw the masks",
            merge=np.array([1]),
            ids=id_table([0, 1]),
        )

    def _pairs(self, root: Path, split: str) -> Iterable[tuple[str, str]]:
        seen: dict[str, str] = {}
        for image in self._images(root, self._folder(root, "images"), ""):
            name = image.removeprefix("images/").rsplit(".", 1)[0]
            if seen.setdefault(Path(name).name, image) != image:
                raise RecoError(f"{root / image} and {seen[Path(name).name]}: one name: rename one")
            yield image, f"masks/{name}.png"


class ImageNet(Reader):
    """ImageNet-1K, the index and the retrieval study: a folder of images per WordNet id.

    The images of val must have been sorted into such folders, too. `classes` are the names of the
    study in the order of the classes, without those that two classes share.
    """

    kind = labels = "imagenet"
    layout = LAYOUT
    named_by = 2

    @classmethod
    def load(cls) -> "Reader":
        """Take the names from timm, less those that config/labels drops."""
        data = label_file()
        classes = tuple(n for n in imagenet_names().values() if n not in data["dropped"])
        return cls(classes=classes, predicted=classes, page=data["page"], options=data)

    def pairs(self, root: str | Path, split: str, need_masks: bool) -> list[tuple[str, str]]:
        """As in `Reader`, but there are never masks, and no file is looked at one by one."""
        if need_masks:
            raise RecoError(f"{root}: {self.kind} has no masks: it can be an index, not scored")
        if split not in self.splits:
            return super().pairs(root, split, need_masks)
        folder = self._folder(Path(root), split)
        return [(image, "") for image in self._images(Path(root), folder, "")]


class Folder(Reader):
    """Our own layout, see `reco.data.folder`; its names are given, for it has no label file."""

    kind = "folder"

    def pairs(self, root: str | Path, split: str, need_masks: bool) -> list[tuple[str, str]]:
        """As in `Reader`; a split that has any mask must have one for every image."""
        return pair_masks(root, split, need_masks=need_masks)

    def read_mask(self, path: str | Path) -> np.ndarray:
        """As in `Reader`; 8 or 16 bits."""
        return read_mask(path, len(self.classes))

    def prediction_name(self, image: str) -> str:
        """The image's path below images/<split>/, as .png."""
        return image.split("/", 2)[2].rsplit(".", 1)[0] + ".png"


READERS: dict[str, type[Reader]] = {
    reader.kind: reader
    for reader in (Cityscapes, CocoStuff, CocoStuff10k, KittiStep, PascalContext, FireNet, ImageNet)
}


@cache
def reader_of(kind: str) -> Reader:
    """The reader of a published dataset, by name.

    Raises:
        RecoError: no such name.
    """
    if kind not in READERS:
        raise RecoError(f"dataset {kind!r} is not known: use one of {', '.join(READERS)}")
    return READERS[kind].load()


def id_table(ids: Iterable[int], ignore: Iterable[int] = ()) -> np.ndarray:
    """Map of mask values to label ids: (256,) int32, UNKNOWN where a value has no meaning.

    Args:
        ids: label id of the values 0, 1, 2, ...; -1 = ignored.
        ignore: further values that are ignored.
    """
    table = np.full(256, UNKNOWN, np.int32)
    ids = list(ids)
    table[: len(ids)] = ids
    table[list(ignore)] = IGNORE
    table.flags.writeable = False  # one table serves all who ask for the dataset
    return table


def check_sizes(image_path: str | Path, mask_path: str | Path) -> None:
    """Compare the size of an image, held upright, with that of its mask; reads headers only.

    Raises:
        RecoError: they differ, or one is no image.
    """
    image, mask = read_size(image_path), read_size(mask_path)
    if image != mask:
        raise RecoError(
            f"{mask_path}: {mask[0]}x{mask[1]} pixels, but {image_path} has {image[0]}x{image[1]}: "
            "take both from the same release"
        )
