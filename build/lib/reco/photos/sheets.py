"""Sheets: small pictures beside each other, to look at; drawn without matplotlib, in no time."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from reco.data.geometry import square
from reco.data.images import read_image
from reco.photos.learned import Archived

SQUARE = 256  # pixels of a side of an archive image
RING = 0.07  # radius of a seed's mark, in sides
SUPPORT, STRENGTH = (240, 249, 33), 0.6  # colour of full support, and how opaque it is
TEXT = 22  # pixels


def archive_pictures(archive: Sequence[Archived]) -> list[tuple[Image.Image, str]]:
    """Every image of an archive as `archive_picture` draws it, captioned with its similarity."""
    if not archive:
        return []
    low, high = np.percentile(np.stack([image.support for image in archive]), [2, 98])
    return [
        (archive_picture(image, float(low), float(high)), f"{image.similarity:.2f}")
        for image in archive
    ]


def archive_picture(image: Archived, low: float, high: float) -> Image.Image:
    """The centre square of an image, its support between `low` and `high` as heat, its seed ringed.

    Raises:
        RecoError: the file is gone, or no image.
    """
    size = (SQUARE, SQUARE)
    seen = Image.fromarray(square(read_image(image.path), SQUARE))
    pale = Image.blend(seen, seen.convert("L").convert("RGB"), 0.5)
    share = ((image.support - low) / max(high - low, 1e-9)).clip(0, 1)
    opaque = Image.fromarray((share * (255 * STRENGTH)).astype(np.uint8))
    heat = Image.new("RGB", size, SUPPORT)
    drawn = Image.composite(heat, pale, opaque.resize(size, Image.Resampling.BILINEAR))
    row, column = (share * SQUARE for share in image.seed)
    draw = ImageDraw.Draw(drawn)
    for radius, width, colour in ((RING + 0.015, 12, "black"), (RING, 5, "white")):
        draw.circle((column, row), radius * SQUARE, outline=colour, width=width)
    return drawn


def sheet(rows: Sequence[tuple[str, Sequence[Image.Image]]], side: int) -> Image.Image:
    """Rows of pictures, each fitted into a square of `side` pixels, with a line of text above.

    Args:
        rows: text, or "" for none, and pictures.
    """
    fitted = [
        (text, [ImageOps.contain(tile.convert("RGB"), (side, side)) for tile in tiles])
        for text, tiles in rows
    ]
    heights = [
        (round(TEXT * 1.8) if text else 0, max(tile.height for tile in tiles) + TEXT // 4)
        for text, tiles in fitted
    ]
    columns = max(len(tiles) for _, tiles in fitted)
    drawn = Image.new("RGB", (columns * side, sum(map(sum, heights))), "white")
    draw, font, top = ImageDraw.Draw(drawn), ImageFont.load_default(TEXT), 0
    for (text, tiles), (above, height) in zip(fitted, heights, strict=True):
        if text:
            draw.text((TEXT // 4, top + TEXT // 4), text, fill="black", font=font)
        for column, tile in enumerate(tiles):
            drawn.paste(tile, (column * side + (side - tile.width) // 2, top + above))
        top += above + height
    return drawn
