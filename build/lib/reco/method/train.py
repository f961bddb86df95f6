"""Train: the steps of DeepLab's training (paper section 3.4)."""

import math
from collections.abc import Iterable, Iterator

import segmentation_models_pytorch as smp
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, interpolate

from reco.config import Train
from reco.errors import RecoError
from reco.method.metrics import IGNORE


def learning_rate(step: int, steps: int, start: float) -> float:
    """Polynomial decay with power 0.9 and a floor of 1e-6."""
    return max(start * (1 - step / steps) ** 0.9, 1e-6)


def make_optimiser(
    model: smp.DeepLabV3Plus, settings: Train, *, seed: int, device: str
) -> torch.optim.Adam:
    """Seed everything, make a model ready to be trained on a device, and give its optimiser."""
    torch.manual_seed(seed)
    model.to(device).train()
    groups = [{"params": [*model.decoder.parameters(), *model.segmentation_head.parameters()]}]
    if settings.backbone_lr:
        groups.append({"params": list(model.encoder.parameters())})
    else:
        model.encoder.eval().requires_grad_(False)
    return torch.optim.Adam(groups, lr=settings.lr, betas=(0.9, 0.999), weight_decay=2e-4)


def take_steps(
    model: smp.DeepLabV3Plus,
    optimiser: torch.optim.Adam,
    batches: Iterable[tuple[Tensor, Tensor]],
    settings: Train,
    device: str,
    done: int = 0,
) -> Iterator[tuple[int, float, float]]:
    """Take the steps after the first `done`; yields (step from 1, loss, learning rate of the head).

    Args:
        model: as `make_optimiser` left it.
        batches: (b, 3, s, s) float32 pixels and (b, s, s) int64 labels of each of these steps.

    Raises:
        RecoError: the loss is not finite.
    """
    for step, (pixels, masks) in enumerate(batches, done):
        rate = learning_rate(step, settings.iterations, settings.lr)
        for group, share in zip(optimiser.param_groups, (1, settings.backbone_lr), strict=False):
            group["lr"] = rate * share
        maps = model(pixels.to(device, memory_format=torch.channels_last))
        pair = at_equal_size(maps, masks.to(device), full=settings.full_size_loss)
        loss = cross_entropy(*pair, ignore_index=IGNORE)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise RecoError(f"training: the loss is {value} at step {step + 1}: lower train.lr")
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        yield step + 1, value, rate


def at_equal_size(maps: Tensor, masks: Tensor, *, full: bool) -> tuple[Tensor, Tensor]:
    """Bring (b, h, w) masks to the size of (b, c, h/4, w/4) maps, by the nearest pixel.

    Args:
        full: enlarge the maps instead, bilinearly as for a prediction. That is the paper's loss; it
            costs most of a step's time on a CPU.
    """
    if full:
        return interpolate(maps, masks.shape[-2:], mode="bilinear", align_corners=False), masks
    small = interpolate(masks[:, None].float(), size=maps.shape[-2:], mode="nearest-exact")
    return maps, small[:, 0].long()
