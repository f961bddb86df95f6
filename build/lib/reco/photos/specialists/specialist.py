"""Specialist: a small segmenter of one concept, and the folder that it is carried in."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from reco.config import CRF, Section, Train
from reco.device import resolve_device
from reco.errors import RecoError
from reco.files import read_json, sha256
from reco.method.maps import resize
from reco.method.metrics import IGNORE
from reco.method.refine import mean_field, shrink
from reco.models.runtime import has_runtime, open_session
from reco.photos.picture import Picture, as_picture, fit
from reco.photos.result import Segmentation

FORMAT = 1
FILES = (
    *("model.json", "model.safetensors", "model.onnx"),
    *("curve.csv", "overview.png", "evaluation.json"),
)
THRESHOLD = 0.5
CONCEPT = 1  # the class; 0 is background


class Example(Section):
    """An image that was learned from: its path below the index, and its SHA-256."""

    path: str
    sha256: str


class Description(Section):
    """What model.json says.

    Attributes:
        format: version of this file.
        word: the concept.
        encoder: backbone; see `reco.workflow.deeplab.build`.
        mean, std: the statistics that pixels in [0, 1] are normalised with.
        size: pixels of the shorter side at which the network sees a photograph, None = as it is; a
            strip longer than 4:1 gets a longer side of 4 sizes.
        threshold: probability from which on a pixel is the concept.
        crf: the dense CRF after the network.
        train, seed: how it was trained.
        doubt: what speaks against the images that it was learned from; "" = nothing.
        index: folder that they are from.
        archive, unlike: those that show the concept, and those that are background alone.
        weights, graph: SHA-256 of model.safetensors and of model.onnx; "" = there is none.
        code, versions: what it was made with.
    """

    format: int = FORMAT
    word: str
    encoder: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    size: int | None
    threshold: float = THRESHOLD
    crf: CRF
    train: Train
    seed: int
    doubt: str
    index: str
    archive: list[Example]
    unlike: list[Example]
    weights: str
    graph: str = ""
    code: str
    versions: dict[str, str]


@dataclass(frozen=True)
class Specialist:
    """A segmenter of one concept.

    Attributes:
        description: see `Description`.
        find: (H, W, 3) uint8 RGB -> (H, W) float32 probability of the concept.
    """

    description: Description
    find: Callable[[np.ndarray], np.ndarray]

    def segment(
        self, image: Picture, *, crf: bool = True, threshold: float | None = None
    ) -> Segmentation:
        """Find the concept in a photograph.

        Args:
            image: as `reco.photos.segmenter.Segmenter.segment` takes it, of any size.
            crf: let a dense CRF follow the edges of the photograph.
            threshold: probability from which on a pixel is the concept; None = as described.

        Raises:
            RecoError: not an image.
        """
        picture = as_picture(image)
        small = np.array(fit(picture, self.description.size))
        scores = maps = self.find(small)
        if crf:
            settings = self.description.crf
            shares = shrink(np.stack([1 - maps, maps]), settings.size)
            scores = mean_field(small, shares, settings)[CONCEPT]
        least = self.description.threshold if threshold is None else threshold
        return Segmentation(
            np.asarray(picture),
            (self.description.word,),
            np.where(resize(scores, picture.size[::-1]) >= least, 0, IGNORE).astype(np.int32),
            maps[None],
            {},
        )


def check_out(folder: Path) -> None:
    """Raise RecoError unless a specialist may be written to a folder: an empty one, or its own."""
    if folder.exists() and not folder.is_dir():
        raise RecoError(f"{folder}: is a file: name a folder with --out")
    found = sorted(path.name for path in folder.glob("[!.]*"))
    other = [name for name in found if name not in FILES]
    if other or (found and "model.json" not in found):
        raise RecoError(
            f"{folder}: holds other files, such as {[*other, *found][0]}: name another folder with "
            "--out; only a specialist's own is overwritten"
        )
    if found:
        read_description(folder)


def read_description(folder: Path) -> Description:
    """Read model.json.

    Raises:
        RecoError: missing, damaged, or of another version.
    """
    path = folder / "model.json"
    remedy = "train it again with 'reco specialist'"
    if not path.is_file():
        raise RecoError(f"{path}: no such file: name a folder of 'reco specialist'")
    values = read_json(path)
    version = values.get("format") if isinstance(values, dict) else None
    if version != FORMAT:
        raise RecoError(
            f"{path}: is of format {version!r}, and this version of reco reads {FORMAT}: {remedy}"
        )
    try:
        return Description.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise RecoError(f"{path}: {key}: {first['msg']}: {remedy}") from None


def load_specialist(folder: str | Path, device: str = "auto") -> Specialist:
    """Read a specialist from its folder.

    On a CPU model.onnx is used, which needs no PyTorch, where it is there; model.json and
    model.safetensors are enough.

    Args:
        device: see `reco.device.resolve_device`.

    Raises:
        RecoError: no such folder, a file is missing or damaged, or of another version.
    """
    folder, device = Path(folder), resolve_device(device)
    described, graph = read_description(folder), folder / "model.onnx"
    if device == "cpu" and described.graph and graph.is_file() and has_runtime():
        if sha256(graph) != described.graph:
            raise RecoError(
                f"{graph}: damaged: copy it again, or delete it: model.safetensors has the same"
            )
        session = open_session(graph)
        return Specialist(described, lambda picture: session.run(None, {"picture": picture})[0])
    from reco.photos.specialists.trained import load_trained

    return load_trained(described, folder, device).specialist
