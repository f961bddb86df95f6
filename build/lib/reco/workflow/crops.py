"""Crops: pictures and pseudo-masks, scaled, cut and coloured at random, in batches."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset
from torchvision.transforms import v2
from torchvision.tv_tensors import Image as ImageTensor
from torchvision.tv_tensors import Mask

from reco.config import Train
from reco.data.folder import read_mask
from reco.data.geometry import Geometry
from reco.data.images import read_image
from reco.method.metrics import IGNORE
from reco.workflow.deeplab import normalisation

AS_THEY_ARE = Geometry(None)


class PseudoMasks(Dataset):
    """Augmented crops of images with their pseudo-masks, as the paper draws them.

    Item i is a pair (3, size, size) float32 and (size, size) int64 that depends on the seed and i
    alone: neither the number of worker processes nor their order changes what is drawn.

    Args:
        images: paths of images and of their pseudo-masks.
        settings: size of the crops, number of steps and of images a step, encoder.
        seed: of order and augmentation; images recur in a new order each time round.
        geometry: of the images, before augmentation; that of the masks.
        lessons: the id that is learned for each label id; None = the same.
    """

    def __init__(
        self,
        images: Sequence[tuple[Path, Path]],
        settings: Train,
        seed: int,
        geometry: Geometry = AS_THEY_ARE,
        lessons: np.ndarray | None = None,
    ) -> None:
        length, size = settings.iterations * settings.batch, settings.size
        jitter = settings.jitter
        rng = np.random.default_rng(seed)
        rounds = math.ceil(length / len(images))
        order = np.concatenate([rng.permutation(len(images)) for _ in range(rounds)])
        self.tasks = [images[i] for i in order[:length]]
        self.seeds = rng.integers(2**31, size=length).tolist()
        self.size, self.scale, self.geometry = size, settings.scale, geometry
        self.lessons = lessons
        kernel = max(3, size // 10 // 2 * 2 + 1)  # a tenth of the side, and odd
        self.augment = v2.Compose(
            [
                v2.RandomHorizontalFlip(0.5),
                v2.RandomApply([v2.ColorJitter(jitter, jitter, jitter, jitter / 4)], 0.8),
                v2.RandomApply([v2.GaussianBlur(kernel, (0.1, 2.0))], 0.5),
                v2.ToDtype({ImageTensor: torch.float32, Mask: torch.int64}, scale=True),
                normalisation(settings.encoder),
            ]
        )

    def __len__(self) -> int:
        return len(self.tasks)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        path, labels = self.tasks[i]
        image, mask = read_pair(path, labels, self.geometry, self.lessons)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seeds[i])
            return self.augment(*crop_scaled(image, mask, self.size, self.scale))


def crop_scaled(
    image: ImageTensor, mask: Mask, size: int, scale: tuple[float, float]
) -> tuple[ImageTensor, Mask]:
    """Scale an image at random and cut out a square of `size` pixels; where it is too small, pad.

    At scale 1 the image's shorter side has `size` pixels, so a crop at scale s shows 1/s of that
    side: that part is cut out first and resized after, which costs less than scaling the image.
    Padding has the image's mean colour, and IGNORE in the mask.
    """
    height, width = image.shape[-2:]
    side = round(min(height, width) / float(torch.empty(1).uniform_(*scale)))
    across, down = max(0, side - width), max(0, side - height)
    if across or down:
        sides = [across // 2, down // 2, across - across // 2, down - down // 2]
        mean = image.float().mean((-2, -1)).tolist()
        image = v2.functional.pad(image, sides, fill=mean)
        mask = v2.functional.pad(mask, sides, fill=IGNORE)
    top = int(torch.randint(0, image.shape[-2] - side + 1, ()))
    left = int(torch.randint(0, image.shape[-1] - side + 1, ()))
    box = [top, left, side, side]
    return (
        v2.functional.resized_crop(image, *box, [size, size], antialias=True),
        v2.functional.resized_crop(mask, *box, [size, size]),
    )


def read_pair(
    image: Path,
    mask: Path,
    geometry: Geometry = AS_THEY_ARE,
    lessons: np.ndarray | None = None,
) -> tuple[ImageTensor, Mask]:
    """Read an image, at the size of its pseudo-mask, with that mask (int32, IGNORE = -1).

    Args:
        lessons: see `PseudoMasks`.
    """
    labels = read_mask(mask, classes=65535)
    if lessons is not None:
        labels = np.where(labels == IGNORE, IGNORE, lessons[labels]).astype(np.int32)
    picture = geometry.picture(read_image(image))
    height, width = labels.shape
    if picture.size != (width, height):
        picture = picture.resize((width, height), Image.Resampling.BICUBIC)
    return ImageTensor(v2.functional.pil_to_tensor(picture)), Mask(torch.from_numpy(labels))


def draw_batches(
    images: Sequence[tuple[Path, Path]],
    settings: Train,
    *,
    seed: int,
    workers: int = 1,
    geometry: Geometry = AS_THEY_ARE,
    done: int = 0,
    lessons: np.ndarray | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches of all steps after the first `done`; see `PseudoMasks`.

    Making the iterator draws from PyTorch's generator; reading from it does not.
    """
    crops = PseudoMasks(images, settings, seed, geometry, lessons)
    rest = Subset(crops, range(done * settings.batch, len(crops)))
    return iter(DataLoader(rest, settings.batch, num_workers=workers))
