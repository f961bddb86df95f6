"""Segmentation: what was found in one photograph, and how it is shown and written."""

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from pycocotools import mask as coco

from reco.data.colours import concept_colour
from reco.method.metrics import IGNORE

ALPHA = 0.55  # of the colours over the photograph
LONGEST = 1280  # pixels of the longer side of an overlay


@dataclass(frozen=True)
class Segmentation:
    """What was found in one photograph.

    Attributes:
        picture: (H, W, 3) uint8 RGB, upright.
        names: the concepts, as they were given.
        labels: (H, W) int32, position in `names` of every pixel; -1 = none of them.
        maps: (n, h, w) float32, saliency of every concept in [0, 1], at the size at which the
            networks saw the photograph.
        remarks: what is to be said of some concepts: name -> sentence, as that nothing in the
            index looks like it. Such a concept has a map, but no pixel.
    """

    picture: np.ndarray
    names: tuple[str, ...]
    labels: np.ndarray
    maps: np.ndarray
    remarks: dict[str, str]

    @property
    def shares(self) -> dict[str, float]:
        """The share of the photograph's pixels that each concept has."""
        shares = self._counts / self.labels.size
        return dict(zip(self.names, shares.tolist(), strict=True))

    @cached_property
    def _counts(self) -> np.ndarray:
        """(n,) number of pixels of each concept; row by row, for a photograph may be large."""
        counts = np.zeros(len(self.names) + 1, np.int64)
        for row in self.labels:
            counts += np.bincount(row + 1, minlength=len(counts))
        return counts[1:]

    @property
    def _present(self) -> list[int]:
        """Places in `names` of the concepts that have a pixel."""
        return np.flatnonzero(self._counts).tolist()

    def mask(self, name: str) -> np.ndarray:
        """(H, W) bool: the pixels of one concept.

        Raises:
            KeyError: it was not asked for.
        """
        if name not in self.names:
            raise KeyError(f"{name!r} is none of {', '.join(self.names)}")
        return self.labels == self.names.index(name)

    def overlay(self, longest: int | None = LONGEST) -> Image.Image:
        """The photograph with the concepts in colour, and a legend below.

        Args:
            longest: pixels of the longer side; None = the photograph's.
        """
        height, width = self.labels.shape
        scale = min(1.0, (longest or max(height, width)) / max(height, width))
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        step = max(1, int(1 / scale) // 2)  # of a large one, a copy of some pixels is enough
        some = Image.fromarray(np.ascontiguousarray(self.picture[::step, ::step]))
        picture = np.asarray(some.resize(size, Image.Resampling.BOX))
        rows, columns = (
            np.minimum(((np.arange(new) + 0.5) * (old / new)).astype(int), old - 1)
            for new, old in zip(size[::-1], self.labels.shape, strict=True)
        )
        painted = paint(picture, self.labels[rows[:, None], columns])
        return _with_legend(painted, [(self.names[label], label) for label in self._present])

    def map_picture(self, name: str) -> Image.Image:
        """The saliency of one concept over the pale photograph: the brighter, the surer."""
        heat = self.maps[self.names.index(name)]
        low, high = float(heat.min()), float(heat.max())
        share = (heat - low) / max(high - low, 1e-6)
        size = heat.shape[::-1]
        grey = Image.fromarray(self.picture).convert("L").resize(size, Image.Resampling.BOX)
        base = np.asarray(grey, np.float32)[..., None] * np.float32(0.5)
        colour = np.array(concept_colour(self.names.index(name)), np.float32)
        mixed = base * (1 - share[..., None]) + colour * share[..., None]
        return Image.fromarray(mixed.round().astype(np.uint8))

    def to_coco(self, file: str) -> dict[str, Any]:
        """The masks as COCO has them: run lengths as text, one annotation per concept found.

        None of them is a crowd, though all things of a concept share a mask: loaders leave out
        what COCO calls one.

        Args:
            file: name of the photograph, for `images`.
        """
        height, width = self.labels.shape
        annotations: list[dict[str, Any]] = []
        for label in self._present:
            run = coco.encode(np.asfortranarray(self.labels == label, dtype=np.uint8))
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": 1,
                    "category_id": label + 1,
                    "segmentation": {"size": [height, width], "counts": run["counts"].decode()},
                    "area": int(coco.area(run)),
                    "bbox": coco.toBbox(run).tolist(),
                    "iscrowd": 0,
                }
            )
        categories = [{"id": i, "name": name} for i, name in enumerate(self.names, 1)]
        images = [{"id": 1, "file_name": file, "height": height, "width": width}]
        return {"images": images, "categories": categories, "annotations": annotations}

    def _repr_html_(self) -> str:
        """The overlay and what is to be said, for notebooks."""
        buffer = BytesIO()
        self.overlay(800).save(buffer, format="PNG")
        image = base64.b64encode(buffer.getvalue()).decode()
        said = "".join(f"<p>{html.escape(text)}</p>" for text in self.remarks.values())
        return f'<img src="data:image/png;base64,{image}" alt="segmentation">{said}'


def paint(picture: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Concepts in colour over (h, w, 3) uint8; -1 of (h, w) labels is left as it is."""
    count = int(labels.max(initial=IGNORE)) + 1
    colours = np.array([*map(concept_colour, range(count)), (0, 0, 0)], np.float32)
    mixed = picture * np.float32(1 - ALPHA) + colours[labels] * np.float32(ALPHA)
    return np.where(labels[..., None] == IGNORE, picture, mixed.round().astype(np.uint8))


def shorten(name: str, most: int) -> str:
    """A name in at most `most` characters."""
    return name if len(name) <= most else name[: most - 1] + "…"


def _with_legend(picture: np.ndarray, entries: Sequence[tuple[str, int]]) -> Image.Image:
    """A line or more below the picture: a patch of colour and a name for each entry."""
    height, width = picture.shape[:2]
    text = max(12, min(height, width) // 28)
    font = ImageFont.load_default(text)
    line, gap = round(text * 1.7), text // 2
    left, lines, placed = gap, 0, []
    for name, label in entries or [("none of the words", IGNORE)]:
        shown = shorten(name, 40)
        wide = round(font.getlength(shown)) + 3 * gap + text
        if left > gap and left + wide > width:
            left, lines = gap, lines + 1
        placed.append((left, lines, shown, label))
        left += wide
    sheet = Image.new("RGB", (width, height + (lines + 1) * line + gap), "white")
    sheet.paste(Image.fromarray(picture))
    draw = ImageDraw.Draw(sheet)
    for x, row, shown, label in placed:
        top = height + gap // 2 + row * line
        if label != IGNORE:
            draw.rectangle((x, top, x + text, top + text), fill=concept_colour(label))
            x += text + gap
        draw.text((x, top - text // 8), shown, fill="black", font=font)
    return sheet
