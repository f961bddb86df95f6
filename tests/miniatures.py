"""Miniature look-alikes of the published datasets: true layouts, tiny drawn pictures.

Every builder fills `root` and returns it. Pictures are seeded; a value of a mask always has the
same colour, so that a network or a person can tell classes apart.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

SIZES = ((97, 65), (64, 128), (128, 64), (75, 51))  # width, height
CITIES = {"train": ("aachen", "ulm"), "val": ("frankfurt", "lindau", "munster")}
SEQUENCES = {
    "train": "0000 0001 0003 0004 0005 0009 0011 0012 0015 0017 0019 0020".split(),
    "val": "0002 0006 0007 0008 0010 0013 0014 0016 0018".split(),
}
WNIDS = ("n01440764", "n02012849", "n02113186", "n03126707", "n07747607")


def draw(
    rng: np.random.Generator, size: tuple[int, int], values: Sequence[int]
) -> tuple[Image.Image, Image.Image]:
    """A noisy picture of a ground, a disc and some rectangles, and its mask.

    Args:
        size: width, height.
        values: of the mask; the first is the ground, the last is a bar at the left edge.
    """
    mask = Image.new("L", size, values[0])
    pen, (width, height) = ImageDraw.Draw(mask), size
    for place, value in enumerate(values[1:-1]):
        x, y = int(rng.integers(0, width)), int(rng.integers(0, height))
        box = [x - width // 4, y - height // 4, x + width // 4, y + height // 4]
        (pen.rectangle if place % 2 else pen.ellipse)(box, fill=value)
    pen.rectangle([0, 0, 2, height], fill=values[-1])
    ids = np.asarray(mask).astype(int)
    colour = np.stack([ids * 53 % 256, ids * 97 % 256, ids * 193 % 256], -1)
    noisy = colour + rng.integers(-12, 13, colour.shape)
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8)), mask


def save(image: Image.Image, path: Path) -> None:
    """Write a picture and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def write(path: Path, lines: Sequence[str]) -> None:
    """Write a list file, a line each."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))


def make_cityscapes(root: Path) -> Path:
    """Two pictures of every city, with the other files of gtFine beside labelIds."""
    rng = np.random.default_rng(1)
    for split, cities in CITIES.items():
        for place, city in enumerate(cities):
            for frame in range(2):
                name = f"{split}/{city}/{city}_{place:06d}_{frame + 19:06d}"
                classes = rng.choice(np.arange(7, 34), 4, replace=False).tolist()
                image, mask = draw(rng, SIZES[(place + frame) % 3], [7, *classes, frame + 3])
                save(image, root / f"leftImg8bit/{name}_leftImg8bit.png")
                save(mask, root / f"gtFine/{name}_gtFine_labelIds.png")
                save(image, root / f"gtFine/{name}_gtFine_color.png")
                (root / f"gtFine/{name}_gtFine_polygons.json").write_text("{}")
    return root


def make_coco_stuff(root: Path, *, stego: bool = False) -> Path:
    """Four pictures a split; three are in the curated list, which is not sorted.

    Args:
        stego: name the folders as in STEGO's copy.
    """
    rng = np.random.default_rng(2)
    images, masks = ("images", "annotations") if stego else (".", "stuffthingmaps")
    for start, split in ((9, "train2017"), (139, "val2017")):
        names = [f"{start + 146 * i:012d}" for i in range(4)]
        for place, name in enumerate(names):
            values = rng.choice(np.delete(np.arange(182), [11, 25, 28]), 5, replace=False).tolist()
            image, mask = draw(rng, SIZES[place], [*values, 255])
            save(image, root / images / split / f"{name}.jpg")
            save(mask, root / masks / split / f"{name}.png")
        listed = [names[2], names[0], names[3]]
        write(root / "curated" / split / "Coco164kFull_Stuff_Coarse.txt", listed)
        write(root / "curated" / split / "Coco164kFull_Stuff_Coarse_7.txt", names)
    return root


def make_coco_stuff10k(root: Path) -> Path:
    """Six pictures, four for training; the masks are MATLAB files, here empty ones."""
    rng = np.random.default_rng(3)
    names = [f"COCO_train2014_{77 + 311 * i:012d}" for i in range(6)]
    for place, name in enumerate(names):
        values = rng.choice(182, 5, replace=False).tolist()
        save(draw(rng, SIZES[place % 4], values)[0], root / f"images/{name}.jpg")
        (root / "annotations").mkdir(exist_ok=True)
        (root / f"annotations/{name}.mat").touch()
    for split, part in (("train", names[3::-1]), ("test", names[4:]), ("all", names)):
        write(root / f"imageLists/{split}.txt", part)
    return root


def make_kitti_step(root: Path, *, sorted_by_split: bool = False) -> Path:
    """A frame of each of the 21 sequences, two of the first of each split.

    Args:
        sorted_by_split: images/<split>/<sequence> instead of training/image_02/<sequence>.
    """
    rng = np.random.default_rng(4)
    for split, sequences in SEQUENCES.items():
        images = root / ("images/" + split if sorted_by_split else "training/image_02")
        for place, sequence in enumerate(sequences):
            for frame in range(2 if place == 0 else 1):
                values = rng.choice(19, 4, replace=False).tolist()
                image, mask = draw(rng, (124 + place % 2, 37), [*values, 255])
                instances = rng.integers(0, 256, (37, 124 + place % 2, 2), dtype=np.uint8)
                panoptic = np.dstack([np.asarray(mask), instances])
                save(image, images / sequence / f"{frame:06d}.png")
                folder = root / "panoptic_maps" / split / sequence
                save(Image.fromarray(panoptic), folder / f"{frame:06d}.png")
    return root


def make_pascal_context(root: Path) -> Path:
    """Three pictures a split and one that no list names, as in VOC2010."""
    rng = np.random.default_rng(5)
    names = [f"{year}_{number:06d}" for year in (2008, 2010) for number in (8, 26, 64, 190)]
    for place, name in enumerate(names):
        values = rng.choice(np.arange(1, 60), 4, replace=False).tolist()
        image, mask = draw(rng, SIZES[place % 4], [0, *values, 59])
        save(image, root / f"JPEGImages/{name}.jpg")
        save(mask, root / f"SegmentationClassContext/{name}.png")
    for split, part in (("train", names[:3]), ("val", names[6:2:-1])):
        write(root / f"ImageSets/SegmentationContext/{split}.txt", part)
    return root


def make_firenet(root: Path) -> Path:
    """Four pictures of the one concept."""
    rng = np.random.default_rng(6)
    for place in range(4):
        image, mask = draw(rng, SIZES[place], [0, 1, 0])
        save(image, root / f"images/extinguisher {place}.jpg")
        save(mask, root / f"masks/extinguisher {place}.png")
    return root


def make_imagenet(root: Path, classes: Sequence[str] = WNIDS) -> Path:
    """Ten pictures a class in train and in val, which is sorted into classes.

    So many that the paper's archives of 50 are possible.

    Args:
        classes: WordNet ids.
    """
    rng = np.random.default_rng(7)
    for place, wnid in enumerate(classes):
        for number in range(20):
            split, name = ("train", wnid) if number < 10 else ("val", "ILSVRC2012_val")
            image, _ = draw(rng, SIZES[number % 4], [0, place + 1, place + 1, 0])
            save(image, root / split / wnid / f"{name}_{place * 20 + number:08d}.JPEG")
    return root
