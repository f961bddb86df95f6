"""Trained: the network of a specialist in PyTorch, and its weights in the specialist's folder."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import nn
from torchvision.transforms import v2

from reco.data.tables import write_table
from reco.errors import RecoError
from reco.files import atomic, sha256, write_json
from reco.photos.specialists.specialist import (
    CONCEPT,
    FILES,
    Description,
    Specialist,
    check_out,
)
from reco.workflow.deeplab import build, predict_picture


@dataclass(frozen=True)
class Trained:
    """A network that was trained to find one concept.

    Attributes:
        description: see `Description`.
        network: (b, 3, H, W) normalised pixels -> (b, 2, H/4, W/4), background and concept.
        device: where the network is.
    """

    description: Description
    network: nn.Module
    device: str

    @property
    def specialist(self) -> Specialist:
        """A segmenter with this network."""
        return Specialist(self.description, self._find)

    def _find(self, picture: np.ndarray) -> np.ndarray:
        normalise = v2.Normalize(self.description.mean, self.description.std)
        return predict_picture(self.network, picture, normalise, self.device)[CONCEPT]


def save_trained(trained: Trained, curve: Sequence[tuple[int, float, float]], folder: Path) -> None:
    """Write model.safetensors, model.json and curve.csv, and take away what is of an earlier one.

    Raises:
        RecoError: the folder holds other files, or the disk is full.
    """
    check_out(folder)
    for name in FILES:
        (folder / name).unlink(missing_ok=True)
    weights = folder / "model.safetensors"
    state = {key: value.contiguous() for key, value in trained.network.state_dict().items()}
    with atomic(weights) as temporary:
        temporary.write_bytes(save(state))
    described = trained.description.model_copy(update={"weights": sha256(weights)})
    write_json(folder / "model.json", described.model_dump(mode="json"))
    rows = [(step, f"{loss:.6f}", f"{rate:.3e}") for step, loss, rate in curve]
    write_table(folder / "curve.csv", ["step", "loss", "lr"], rows)


def load_trained(described: Description, folder: Path, device: str) -> Trained:
    """Read the weights of `save_trained`.

    Raises:
        RecoError: missing or damaged.
    """
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
    return Trained(described, network.to(device).eval(), device)
