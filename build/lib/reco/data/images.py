"""Pictures: what people bring, decoded in one way everywhere.

Which kinds of files are read, which way is up, how other depths become 8 bits, and what is refused
with one line. Nothing else in this project opens an image that it did not write itself.
"""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, features

from reco.errors import RecoError

KINDS = {
    **{".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".webp": "WEBP", ".bmp": "BMP"},
    **{".gif": "GIF", ".tif": "TIFF", ".tiff": "TIFF"},
    **({".avif": "AVIF"} if features.check("avif") else {}),
}
"""Ending, in lower case -> format, as Pillow calls it, of all that counts as a picture."""

# Not all that Pillow knows: of EPS, whatever the file is called, it would start Ghostscript.
FORMATS = tuple(dict.fromkeys(KINDS.values()))
STRIP = 100  # longer side, in shorter ones, from which on a picture is a strip
ORIENTATION = 0x0112  # EXIF's tag
TURNS = dict(zip(range(2, 9), (0, 3, 1, 5, 4, 6, 2), strict=True))
"""EXIF's orientation -> Pillow's `Transpose` that makes a picture upright; of 1 there is none."""


@contextmanager
def opened(
    path: str | Path, formats: Collection[str] = FORMATS, what: str = "image"
) -> Iterator[Image.Image]:
    """Open an image for what is done with it in the block.

    Args:
        formats: those that it may have, whatever its ending, as Pillow calls them.
        what: it should be, for messages.

    Raises:
        RecoError: no file, a pipe or device, of another format, damaged in any way that a decoder
            finds in the block, or so large that it may be an attack (179 million pixels).
    """
    try:
        if not Path(path).is_file():  # opening a pipe would wait for ever
            raise RecoError(f"{path}: {'not a file' if Path(path).exists() else 'no such file'}")
        with Image.open(path, formats=tuple(formats)) as image:
            yield image
    except RecoError:
        raise
    except Image.UnidentifiedImageError:  # its message has the path again
        kinds = ", ".join(formats)
        raise RecoError(f"{path}: not a readable {what}: damaged, or not {kinds}") from None
    except Exception as error:  # damage brings up nearly anything: struct.error, TypeError ...
        reason = str(error) or type(error).__name__
        raise RecoError(f"{path}: not a readable {what}: {reason}") from None


def read_image(path: str | Path) -> Image.Image:
    """Decode an image to upright RGB.

    Raises:
        RecoError: see `opened`; or of a depth that is refused, see `to_rgb`.
    """
    with opened(path) as image:
        image.load()
        return to_rgb(image)


def read_size(path: str | Path) -> tuple[int, int]:
    """Width and height of an image as `read_image` turns it, from its header.

    Raises:
        RecoError: see `opened`.
    """
    with opened(path) as image:
        # Of TIFF, Pillow tells the size that is upright.
        turned = image.format != "TIFF" and _orientation(image) >= 5
        return (image.height, image.width) if turned else image.size


def read_values(path: str | Path) -> tuple[str, np.ndarray]:
    """Mode (as Pillow calls it) and values of a PNG that holds labels, as they are stored.

    Raises:
        RecoError: see `opened`; of labels, other formats are refused, for JPEG changes values.
    """
    with opened(path, ["PNG"], "mask") as image:
        return image.mode, np.asarray(image)


def middle(image: Image.Image) -> Image.Image:
    """A picture, or of a long strip the middle: enough for a centre crop, after any resizing.

    Resized as a whole, a rule of 6000 x 1 pixels would need gigabytes.
    """
    shorter = min(image.size)
    if max(image.size) <= STRIP * shorter:
        return image
    left, top = ((side - min(side, STRIP * shorter)) // 2 for side in image.size)
    return image.crop((left, top, image.width - left, image.height - top))


def to_rgb(image: Image.Image) -> Image.Image:
    """An image upright and in 8-bit RGB; transparency becomes white.

    16-bit values count up to 65535 and floating ones up to 1, however bright the picture is.

    Raises:
        ValueError: values beyond that.
    """
    turn = TURNS.get(_orientation(image))
    if turn is None and image.mode == "RGB" and "transparency" not in image.info:
        return image  # a large one takes half a gigabyte
    upright = image if turn is None else image.transpose(Image.Transpose(turn))
    if upright.mode.startswith("I") or upright.mode == "F":
        upright = _to_8_bit(np.asarray(upright), 1 if upright.mode == "F" else 65535)
    if upright.mode in ("P", "LA", "RGBA", "PA") or "transparency" in upright.info:
        upright = upright.convert("RGBA")
        flat = Image.new("RGBA", upright.size, "white")
        upright = Image.alpha_composite(flat, upright)
    upright = upright.convert("RGB")
    upright.info = {}  # these notes would turn it a second time
    return upright


def _to_8_bit(values: np.ndarray, top: int) -> Image.Image:
    """Grey values of 0 to `top` in 8 bits."""
    if not (values.min(initial=0) >= 0 and values.max(initial=0) <= top):  # nan, too
        raise ValueError(
            f"values from {values.min():g} to {values.max():g}, but of this depth they are read "
            f"as 0 to {top}: convert it to 8 bits"
        )
    return Image.fromarray((values * np.float32(255 / top)).astype(np.uint8))


def _orientation(image: Image.Image) -> int:
    """EXIF's number, 1 to 8; 1 where there is none, or none that can be read."""
    # Not ImageOps.exif_transpose: it writes the other tags anew, and fails where one is damaged.
    try:
        value = image.getexif().get(ORIENTATION, 1)
    except Exception:  # of damaged notes, whatever the parser runs into
        return 1
    return value if isinstance(value, int) and value in TURNS else 1
