"""Portable: a specialist as ONNX, which needs no torch."""

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from reco.errors import RecoError
from reco.files import atomic
from reco.photos.specialists.specialist import CONCEPT, Specialist
from reco.workflow.deeplab import predict

TOLERANCE = 1e-4  # between what ONNX Runtime and torch say of a pixel


class Portable(nn.Module):
    """(H, W, 3) uint8 RGB at the size of `Description` -> (H, W) probability of the concept."""

    def __init__(self, specialist: Specialist) -> None:
        super().__init__()
        self.network, described = specialist.network, specialist.description
        self.mean, self.std = torch.tensor(described.mean), torch.tensor(described.std)

    def forward(self, picture: Tensor) -> Tensor:
        """Normalise, pad, predict, cut."""
        pixels = ((picture.float() / 255 - self.mean) / self.std).permute(2, 0, 1)
        return predict(self.network, pixels[None])[0, CONCEPT]


def export_onnx(specialist: Specialist, path: Path, pictures: Sequence[np.ndarray]) -> float:
    """Write a specialist as ONNX, of any height and width.

    Args:
        pictures: (h, w, 3) uint8 of several sizes, on which ONNX Runtime has to agree with torch.

    Returns:
        the largest difference of a probability.

    Raises:
        ImportError: onnx or onnxruntime is not installed.
        RecoError: the two differ; nothing is written.
    """
    import onnx  # noqa: F401, the exporter's error would be a longer one
    from onnxruntime import InferenceSession

    portable = Portable(specialist).cpu().eval()
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
        portable.network.to(specialist.device)
        if not worst <= TOLERANCE:
            raise RecoError(
                f"{path}: ONNX Runtime and torch differ by {worst:.2g}: not written; install other "
                "versions of onnx and onnxruntime"
            )
    return worst
