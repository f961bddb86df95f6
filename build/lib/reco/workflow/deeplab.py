"""DeepLab: the network of the paper's ReCo+, and what it finds in a picture."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import segmentation_models_pytorch as smp
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, pad
from torchvision.transforms import v2

from reco.config import Train
from reco.errors import RecoError
from reco.experiment import Experiment
from reco.models import is_checkpoint
from reco.models.checkpoints import read_checkpoint
from reco.models.preprocessing import IMAGENET_MEAN, IMAGENET_STD

PACKAGED = "tu-tf_efficientnet_lite2"
PACKAGED_WEIGHTS = "data/models/packaged/tf_efficientnet_lite2.safetensors"


def normalisation(encoder: str) -> v2.Normalize:
    """The pixel statistics that an encoder's weights were trained with."""
    if encoder == "packaged":
        return v2.Normalize((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    return v2.Normalize(IMAGENET_MEAN, IMAGENET_STD)


def starting_weights(settings: Train) -> str | None:
    """What a network starts with, as `build` takes it: the packaged weights, or the config's."""
    return PACKAGED_WEIGHTS if settings.encoder == "packaged" else settings.encoder_weights


def build(encoder: str, weights: str | Path | None, classes: int) -> smp.DeepLabV3Plus:
    """DeepLabv3+ with output stride 16; its maps have a quarter of the image's size.

    Args:
        encoder: `packaged`, or an encoder's name in segmentation_models_pytorch.
        weights: safetensors of a timm model to start from (packaged, or a local file), a name
            that segmentation_models_pytorch knows ("imagenet"), or None for random weights.

    Raises:
        RecoError: unknown encoder, a file of weights that is not there, or weights that do not fit.
    """
    local = Path(weights) if weights and is_checkpoint(str(weights)) else None
    if local and not local.is_file():  # the library would look for it on a hub
        way = f"run: reco weights --weights {local}" if encoder == "packaged" else "mend the config"
        raise RecoError(f"train.encoder_weights: {local}: no such file: {way}")
    name = PACKAGED if encoder == "packaged" else encoder
    try:
        model = smp.DeepLabV3Plus(
            name,
            encoder_weights=None if local else weights,
            classes=classes,
            upsampling=1,
            decoder_aspp_dropout=0.1,  # as in DeepLabv3+'s own code; the library's 0.5 is slow
        )
    except (KeyError, ValueError, RuntimeError, OSError) as error:
        raise RecoError(
            f"train.encoder {encoder!r} with encoder_weights {weights!r}: {error}; "
            "see the encoders of segmentation_models_pytorch, or give a local checkpoint"
        ) from None
    if local:
        load_backbone(model, local)
    for module in model.encoder.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.01
    return model.to(memory_format=torch.channels_last)


def load_backbone(model: smp.DeepLabV3Plus, checkpoint: Path) -> None:
    """Copy a classifier's weights into the encoder; the classifier's head is left out.

    Raises:
        RecoError: the checkpoint lacks keys of the encoder, or shapes differ.
    """
    state = read_checkpoint(checkpoint)
    backbone = getattr(model.encoder, "model", model.encoder)
    wanted = backbone.state_dict()
    missing = [
        key for key, value in wanted.items() if key not in state or state[key].shape != value.shape
    ]
    if missing:
        raise RecoError(
            f"{checkpoint}: is no checkpoint of this encoder: {len(missing)} of {len(wanted)} "
            f"tensors missing or of another shape, such as {', '.join(missing[:3])}"
        )
    backbone.load_state_dict({key: state[key] for key in wanted})


def predict(model: nn.Module, pixels: Tensor) -> Tensor:
    """Probabilities (b, classes, h, w) of normalised images (b, 3, h, w).

    Sides that are no multiple of 16 are padded for the network and cut off again.
    """
    height, width = pixels.shape[-2:]
    padded = pad(pixels, (0, -width % 16, 0, -height % 16), mode="replicate")
    maps = interpolate(model(padded), padded.shape[-2:], mode="bilinear", align_corners=False)
    return maps[..., :height, :width].softmax(1)


def predict_picture(
    network: nn.Module, picture: np.ndarray, normalise: v2.Normalize, device: str
) -> np.ndarray:
    """Probabilities (classes, H, W) of an (H, W, 3) uint8 picture."""
    pixels = v2.functional.to_dtype(
        torch.from_numpy(picture).permute(2, 0, 1), torch.float32, scale=True
    )
    with torch.inference_mode():
        return predict(network, normalise(pixels)[None].to(device))[0].cpu().numpy()


def load_deeplab(
    experiment: Experiment, state: Mapping[str, Tensor], device: str
) -> Callable[[np.ndarray], np.ndarray]:
    """A function of an (H, W, 3) uint8 RGB picture: probabilities (labels, H, W)."""
    assert experiment.config.train
    encoder = experiment.config.train.encoder
    network = build(encoder, None, len(experiment.learned))
    network.load_state_dict(dict(state))
    network.to(device).eval()
    return partial(predict_picture, network, normalise=normalisation(encoder), device=device)
