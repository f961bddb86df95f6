"""EfficientNet-Lite2 in PyTorch: for accelerators, and where ONNX Runtime has no wheel."""

from pathlib import Path

import numpy as np
import timm
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from reco.models import Output
from reco.models.checkpoints import load_weights, place, read_checkpoint, to_arrays

ARCHITECTURE = "tf_efficientnet_lite2"


class Network:
    """The network; see `reco.models.packaged.Packaged.encode`.

    Args:
        path: safetensors by timm's names.
        temperature: of the classes at a position, for the output `global`.
    """

    name = "torch"

    def __init__(self, path: Path, device: str, temperature: float) -> None:
        network = timm.create_model(ARCHITECTURE, pretrained=False)
        assert isinstance(network, timm.models.EfficientNet)
        load_weights(network, read_checkpoint(path), str(path))
        self.network, self.temperature = place(network, device), temperature

    @torch.inference_mode()
    def run(self, images: np.ndarray, wanted: set[Output]) -> dict[Output, np.ndarray]:
        """See `reco.models.Backend.encode`."""
        net = self.network
        pixels = torch.from_numpy(images).to(net.conv_stem.weight.device)
        last = net.blocks(net.bn1(net.conv_stem(pixels.to(memory_format=torch.channels_last))))
        found: dict[Output, Tensor] = {}
        if "encoder" in wanted:
            found["encoder"] = neighbourhood_mean(last)
        if wanted & {"global", "dense"}:
            features = net.bn2(net.conv_head(last))
            if "global" in wanted:
                logits = F.conv2d(features, net.classifier.weight[:, :, None, None])
                logits = logits + net.classifier.bias[:, None, None]
                shares = (logits / self.temperature).softmax(dim=1).mean(dim=(2, 3))
                found["global"] = shares.sqrt()
            if "dense" in wanted:
                found["dense"] = neighbourhood_mean(features)
        return to_arrays(found)


def neighbourhood_mean(maps: Tensor) -> Tensor:
    """Mean of each position and its neighbours within a map: (b, c, h, w), 3 x 3."""
    return F.avg_pool2d(maps, 3, stride=1, padding=1, count_include_pad=False)
