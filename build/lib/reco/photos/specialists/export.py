"""Export: a specialist's network as ONNX."""

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from reco.errors import RecoError
from reco.files import atomic, read_json, sha256, write_json
from reco.photos.specialists.specialist import CONCEPT
from reco.photos.specialists.trained import Trained
from reco.workflow.deeplab import predict

TOLERANCE = 1e-4  # between what ONNX Runtime and PyTorch say of a pixel


class Portable(nn.Module):
    """(H, W, 3) uint8 RGB at the size of `Description` -> (H, W) probability of the concept."""

    def __init__(self, trained: Trained) -> None:
        super().__init__()
        self.network, described = trained.network, trained.description
        self.mean, self.std = torch.tensor(described.mean), torch.tensor(described.std)

    def forward(self, picture: Tensor) -> Tensor:
        """Normalise, pad, predict, cut."""
        pixels = ((picture.float() / 255 - self.mean) / self.std).permute(2, 0, 1)
        return predict(self.network, pixels[None])[0, CONCEPT]


def export_onnx(trained: Trained, folder: Path, pictures: Sequence[np.ndarray]) -> float:
    """Write model.onnx, of any height and width, and its digest into model.json.

    Args:
        folder: of the specialist; see `save_trained`.
        pictures: (h, w, 3) uint8 of several sizes, on which ONNX Runtime has to agree with
            PyTorch.

    Returns:
        the largest difference of a probability.

    Raises:
        ImportError: onnx or onnxruntime is not installed.
        RecoError: the two differ; nothing is written.
    """
    import onnx  # noqa: F401, the exporter's error would be a longer one
    from onnxruntime import InferenceSession

    path, described = folder / "model.onnx", folder / "model.json"
    portable = Portable(trained).cpu().eval()
    with atomic(path) as temporary, warnings.catch_warnings():
        # Of the exporter that traces: the other one takes minutes for this network.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            portable,
            (torch.from_numpy(pictures[0]),),
            temporary,
            input_names=["picture"],
            output_names=["probability"],
            dynamic_axes={"picture": {0: "height", 1: "width"}},
            dynamo=False,
        )
        session = InferenceSession(temporary, providers=["CPUExecutionProvider"])
        worst = 0.0
        for picture in pictures:
            (found,) = session.run(None, {"picture": picture})
            with torch.inference_mode():
                wanted = portable(torch.from_numpy(picture)).numpy()
            worst = max(worst, float(np.abs(found - wanted).max()))
        portable.network.to(trained.device)
        if not worst <= TOLERANCE:
            raise RecoError(
                f"{path}: ONNX Runtime and PyTorch differ by {worst:.2g}: not written; install "
                "other versions of onnx and onnxruntime"
            )
    write_json(described, read_json(described) | {"graph": sha256(path)})
    return worst
