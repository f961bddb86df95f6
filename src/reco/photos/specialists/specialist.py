"""Specialist: a small segmenter of one concept, and the folder that it is carried in."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import nn
from torch.nn.functional import interpolate
from torchvision.transforms import v2

from reco.config import CRF, Section, Train
from reco.data.tables import write_table
from reco.device import resolve_device
from reco.errors import RecoError
from reco.files import atomic, read_json, sha256, write_json
from reco.method.metrics import IGNORE
from reco.method.refine import mean_field, shrink
from reco.photos.picture import Picture, as_picture, fit
from reco.photos.result import Segmentation
from reco.workflow.deeplab import build, predict_picture

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
        weights: SHA-256 of model.safetensors.
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
    code: str
    versions: dict[str, str]


@dataclass(frozen=True)
class Specialist:
    """A segmenter of one concept.

    Attributes:
        description: see `Description`.
        network: (b, 3, H, W) normalised pixels -> (b, 2, H/4, W/4), background and concept.
        device: where the network is.
    """

    description: Description
    network: nn.Module
    device: str

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
        scores = maps = (
            predict_picture(self.network, small, self.normalise, self.device).exp().cpu()
        )
        if crf:
            settings = self.description.crf
            shares = shrink(maps, settings.size).contiguous().numpy()
            scores = torch.from_numpy(mean_field(small, shares, settings))
        size = picture.size[::-1]
        found = interpolate(scores[None, CONCEPT:], size, mode="bilinear", align_corners=False)
        least = self.description.threshold if threshold is None else threshold
        return Segmentation(
            np.asarray(picture),
            (self.description.word,),
            np.where(found[0, 0].numpy() >= least, 0, IGNORE).astype(np.int32),
            maps[CONCEPT:].numpy(),
            {},
        )

    @cached_property
    def normalise(self) -> v2.Normalize:
        """Of pixels in [0, 1]."""
        return v2.Normalize(self.description.mean, self.description.std)


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


def save_specialist(
    specialist: Specialist, curve: Sequence[tuple[int, float, float]], folder: Path
) -> None:
    """Write model.safetensors, model.json and curve.csv, and take away what is of an earlier one.

    Raises:
        RecoError: the folder holds other files, or the disk is full.
    """
    check_out(folder)
    for name in FILES:
        (folder / name).unlink(missing_ok=True)
    weights = folder / "model.safetensors"
    state = {key: value.contiguous() for key, value in specialist.network.state_dict().items()}
    with atomic(weights) as temporary:
        temporary.write_bytes(save(state))
    described = specialist.description.model_copy(update={"weights": sha256(weights)})
    write_json(folder / "model.json", described.model_dump(mode="json"))
    rows = [(step, f"{loss:.6f}", f"{rate:.3e}") for step, loss, rate in curve]
    write_table(folder / "curve.csv", ["step", "loss", "lr"], rows)


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
    """Read a specialist from its folder; model.json and model.safetensors are enough.

    Args:
        device: see `reco.device.resolve_device`.

    Raises:
        RecoError: no such folder, a file is missing or damaged, or of another version.
    """
    folder, device = Path(folder), resolve_device(device)
    described = read_description(folder)
    weights = folder / "model.safetensors"
    damaged = f"{weights}: damaged: copy it again, or train it again with 'reco specialist'"
    network = build(described.encoder, None, 2)
    try:
        if sha256(weights) != described.weights:
            raise RecoError(damaged)
        network.load_state_dict(load(weights.read_bytes()))
    except OSError as error:
        raise RecoError(f"{weights}: {error.strerror}: copy the whole folder") from None
    except (SafetensorError, RuntimeError):  # of another network
        raise RecoError(damaged) from None
    return Specialist(described, network.to(device).eval(), device)
