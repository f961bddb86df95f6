"""One scene: photographic cut-outs pasted on a photographic background, as arrays."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from reco.data.images import FORMATS
from reco.errors import RecoError

LONG_SIDE = (0.35, 0.65)  # longer side of an object as a part of the side of the scene
TILT = 15.0  # degrees, either way
ENLARGE = 1.6  # a cut-out is magnified no further than this
IN_FRAME = 0.8  # part of an object that lies within the scene
IN_SIGHT = 0.6  # part of an object that no later object and no border hides


@dataclass
class Studio:
    """Draws scenes and keeps the decoded photographs; one per process.

    Attributes:
        size: width and height of a scene in pixels.
    """

    size: int
    _decoded: dict[Path, Image.Image] = field(default_factory=dict, repr=False)

    def draw(
        self, background: Path, cutouts: Sequence[Path], rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Paste `cutouts`, from back to front, on `background`.

        Returns:
            the scene, (size, size, 3) uint8, and where each object is seen, (objects, size, size)
            bool; a pixel shows one object or the background.

        Raises:
            RecoError: a file is no readable photograph, or no cut-out.
        """
        canvas = self._background(background, rng)
        sprites = [self._sprite(cutout, len(cutouts), rng) for cutout in cutouts]
        layers = arrange(sprites, self.size, rng)
        # Per pixel: the weight of every object in what is seen; they and the background's sum to 1.
        weights = np.zeros((len(sprites), self.size, self.size), dtype=np.float32)
        for i, (sprite, layer) in enumerate(zip(sprites, layers, strict=True)):
            if layer is None:
                continue
            scene_part, sprite_part = layer.windows(*sprite.shape[:2])
            colour, alpha = np.split(sprite[sprite_part], [3], axis=-1)
            weights[:, *scene_part] *= 1 - alpha[..., 0]
            weights[i][scene_part] = alpha[..., 0]
            canvas *= 1 - _shadow(weights[i], rng)[..., None]
            canvas[scene_part] *= 1 - alpha
            canvas[scene_part] += colour
        return (canvas * 255 + 0.5).clip(0, 255).astype(np.uint8), weights >= 0.5

    def _background(self, file: Path, rng: np.random.Generator) -> np.ndarray:
        """Random crop, flip and light: (size, size, 3) float32 in 0..1."""
        image = self._decode(file, "RGB", 4 * self.size)
        width, height = image.size
        side = min(width, height) * rng.uniform(0.4, 1.0)
        left, top = rng.uniform(0, width - side), rng.uniform(0, height - side)
        box = (left, top, left + side, top + side)
        crop = image.resize((self.size, self.size), Image.Resampling.BILINEAR, box)
        if rng.random() < 0.5:
            crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return _relight(np.asarray(crop, dtype=np.float32) / 255, np.float32(1), rng)

    def _sprite(self, file: Path, objects: int, rng: np.random.Generator) -> np.ndarray:
        """Random scale, flip, tilt and light: (h, w, 4) float32, colour times alpha, alpha.

        Thin things are drawn longer and stout ones shorter, so that areas differ less; the more
        objects share a scene, the smaller they are.
        """
        image = self._decode(file, "RGBa", int(1.25 * self.size))
        fill = float(np.asarray(image)[..., 3].mean()) / 255
        fill *= image.width * image.height / max(image.size) ** 2
        part = rng.uniform(*LONG_SIDE) * float(np.clip((0.3 / fill) ** 0.3, 0.85, 1.35))
        part = min(part * (1.15, 1.0, 0.9)[objects - 1], 0.85)
        scale = min(part * self.size / max(image.size), ENLARGE)
        shape = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        image = image.resize(shape, Image.Resampling.BICUBIC, reducing_gap=2)
        if rng.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        angle = rng.uniform(-TILT, TILT)
        image = image.rotate(angle, Image.Resampling.BICUBIC, expand=True)
        pixels = _feather(np.asarray(image))
        alpha = pixels[..., 3:]
        colour = _relight(np.minimum(pixels[..., :3], alpha), alpha, rng)
        return np.concatenate([colour, alpha], axis=-1)

    def _decode(self, file: Path, mode: str, most: int) -> Image.Image:
        """A photograph with its longer side at most `most` pixels; cut-outs cropped to the object.

        Mode RGBa has colour multiplied by alpha: resizing it cannot bleed in the colour of
        transparent pixels.
        """
        if file not in self._decoded:
            self._decoded[file] = _read(file, mode, most)
        return self._decoded[file]


def _read(file: Path, mode: str, most: int) -> Image.Image:
    try:
        with Image.open(file, formats=FORMATS) as opened:
            opened.draft("RGB", (most, most * opened.height // opened.width))
            if mode == "RGBa":
                matte = opened.convert("RGBA")
                box = matte.getchannel("A").point(lambda alpha: 255 * (alpha > 12)).getbbox()
                if box is None or matte.getchannel("A").getextrema()[0] == 255:
                    raise RecoError(f"{file}: not a cut-out: it has no transparent background")
                image = matte.crop(box).convert("RGBa")
            else:
                image = opened.convert(mode)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise RecoError(f"{file}: not a readable photograph ({error}): unpack it again") from None
    scale = min(1.0, most / max(image.size))
    shape = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image if scale == 1 else image.resize(shape, Image.Resampling.LANCZOS, reducing_gap=3)


def _feather(pixels: np.ndarray) -> np.ndarray:
    """Soften the edge of a (h, w, 4) uint8 cut-out inwards; returns float32 in 0..1.

    Takes off the rim that keeps some of the old background's colour.
    """
    alpha = Image.fromarray(np.ascontiguousarray(pixels[..., 3]))
    soft = np.asarray(alpha.filter(ImageFilter.GaussianBlur(1.0)), dtype=np.float32) / 255
    keep = np.clip((soft - 0.25) / 0.5, 0, 1)[..., None]
    return pixels.astype(np.float32) * (keep / 255)


def _relight(
    colour: np.ndarray, alpha: np.ndarray | np.float32, rng: np.random.Generator
) -> np.ndarray:
    """Random brightness, contrast and colour cast.

    Args:
        colour: (h, w, 3) float32, colour times alpha.
        alpha: (h, w, 1), or a scalar 1.
    """
    contrast = np.float32(rng.uniform(0.85, 1.15))
    gain = (rng.uniform(0.85, 1.12) * rng.uniform(0.94, 1.06, size=3)).astype(np.float32)
    lit = colour * (contrast * gain)
    lit += alpha * (0.5 * (1 - contrast) * gain)
    return np.clip(lit, 0, alpha, out=lit)


def _shadow(alpha: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Soft shadow of an object with this (size, size) alpha, 0..1: how much it darkens."""
    size = alpha.shape[0]
    strength, shift = rng.uniform(0.0, 0.4), rng.uniform(0.01, 0.04) * size
    side = rng.uniform(-1, 1) * shift
    # A quarter of the resolution is enough for something this blurred, and sixteen times faster.
    small = Image.fromarray((alpha * 255).astype(np.uint8)).resize((size // 4, size // 4))
    soft = small.filter(ImageFilter.GaussianBlur(size / 160))
    moved = soft.transform(
        (size, size),
        Image.Transform.AFFINE,
        (0.25, 0, -side / 4, 0, 0.25, -shift / 4),
        Image.Resampling.BILINEAR,
    )
    return np.asarray(moved, dtype=np.float32) * (strength / 255)


@dataclass(frozen=True)
class Layer:
    """Where a sprite lies: the position of its top left corner in a scene of side `size`."""

    left: int
    top: int
    size: int

    def windows(self, height: int, width: int) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
        """The part of the scene that a (height, width) sprite covers, and that of the sprite."""
        x0, y0 = max(self.left, 0), max(self.top, 0)
        x1 = max(x0, min(self.left + width, self.size))
        y1 = max(y0, min(self.top + height, self.size))
        sprite = slice(y0 - self.top, y1 - self.top), slice(x0 - self.left, x1 - self.left)
        return (slice(y0, y1), slice(x0, x1)), sprite


def arrange(
    sprites: Sequence[np.ndarray], size: int, rng: np.random.Generator, *, tries: int = 40
) -> list[Layer | None]:
    """Positions of (h, w, 4) sprites, later ones in front, at which all stay in sight.

    Each sprite gets, of `tries` random positions, the first at which it lies within the scene
    (`IN_FRAME`) and leaves everything behind it in sight (`IN_SIGHT`). None: there was no such
    position, the object is left out.
    """
    front = np.full((size, size), -1, dtype=np.int8)  # the foremost object of every pixel
    solid = [sprite[..., 3] >= 0.5 for sprite in sprites]
    areas = [max(int(pixels.sum()), 1) for pixels in solid]
    layers: list[Layer | None] = []
    for i, pixels in enumerate(solid):
        layers.append(None)
        height, width = pixels.shape
        for _ in range(tries):
            # Up to a tenth of the sprite may stick out; one larger than the scene is centred.
            left = rng.uniform(-0.1 * width, size - 0.9 * width)
            top = rng.uniform(-0.1 * height, size - 0.9 * height)
            layer = Layer(round(left), round(top), size)
            scene, part = layer.windows(height, width)
            inside = pixels[part]
            if inside.sum() < IN_FRAME * areas[i]:
                continue
            trial = front.copy()
            trial[scene][inside] = i
            left_over = np.bincount(trial[trial >= 0], minlength=i + 1)
            behind = [j for j in range(i) if layers[j] is not None]
            if all(left_over[j] >= IN_SIGHT * areas[j] for j in behind):
                front, layers[i] = trial, layer
                break
    return layers
