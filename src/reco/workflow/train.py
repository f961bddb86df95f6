"""Train: ReCo+, a segmenter that learns from ReCo's own masks (paper section 3.4).

The paper's student is DeepLabv3+ of segmentation_models_pytorch; the schedule, losses and
augmentation are the paper's, the sizes come from the config. The one of the recipe `seedbank` is
`reco.workflow.probe`. No pixel label is read.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import segmentation_models_pytorch as smp
import torch
from PIL import Image
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate, pad
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2
from torchvision.tv_tensors import Image as ImageTensor
from torchvision.tv_tensors import Mask

from reco.config import Train
from reco.data.folder import IGNORE, read_mask
from reco.data.geometry import BILINEAR, NEAREST, Geometry
from reco.data.images import read_image
from reco.data.split import Row, Split
from reco.data.tables import read_table, write_table
from reco.device import resolve_device
from reco.errors import RecoError
from reco.experiment import Experiment
from reco.files import atomic, read_json, write_digest, write_json
from reco.method.metrics import ConfusionMatrix
from reco.models import keeping_loader
from reco.models.preprocessing import read_checkpoint
from reco.progress import LOG, track
from reco.workflow.probe import load_probe, pack_probe, train_probe
from reco.workflow.segment import mask_writer, read_pictures

AS_THEY_ARE = Geometry(None)
PACKAGED = "tu-tf_efficientnet_lite2"
PACKAGED_WEIGHTS = "data/models/packaged/tf_efficientnet_lite2.safetensors"


def normalisation(encoder: str) -> v2.Normalize:
    """The pixel statistics that an encoder's weights were trained with."""
    if encoder == "packaged":
        return v2.Normalize((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    return v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def build(encoder: str, weights: str | Path | None, classes: int) -> smp.DeepLabV3Plus:
    """DeepLabv3+ with output stride 16; its maps have a quarter of the image's size.

    Args:
        encoder: `packaged`, or an encoder's name in segmentation_models_pytorch.
        weights: safetensors of a timm model to start from (packaged, or a local file), a name
            that segmentation_models_pytorch knows ("imagenet"), or None for random weights.

    Raises:
        RecoError: unknown encoder, or weights that do not fit it.
    """
    local = Path(weights) if weights and Path(weights).exists() else None
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


class PseudoMasks(Dataset):
    """Augmented crops of images with their pseudo-masks, as the paper draws them.

    Item i is a pair (3, size, size) float32 and (size, size) int64 that depends on the seed and i
    alone: neither the number of worker processes nor their order changes what is drawn.

    Args:
        images: paths of images and of their pseudo-masks.
        settings: size of the crops, number of steps and of images a step, encoder.
        seed: of order and augmentation; images recur in a new order each time round.
        geometry: of the images, before augmentation; that of the masks.
    """

    def __init__(
        self,
        images: Sequence[tuple[Path, Path]],
        settings: Train,
        seed: int,
        geometry: Geometry = AS_THEY_ARE,
    ) -> None:
        length, size = settings.iterations * settings.batch, settings.size
        jitter = settings.jitter
        rng = np.random.default_rng(seed)
        rounds = math.ceil(length / len(images))
        order = np.concatenate([rng.permutation(len(images)) for _ in range(rounds)])
        self.tasks = [images[i] for i in order[:length]]
        self.seeds = rng.integers(2**31, size=length).tolist()
        self.size, self.scale, self.geometry = size, settings.scale, geometry
        kernel = max(3, size // 10 // 2 * 2 + 1)  # a tenth of the side, and odd
        self.augment = v2.Compose(
            [
                v2.RandomHorizontalFlip(0.5),
                v2.RandomApply([v2.ColorJitter(jitter, jitter, jitter, jitter / 4)], 0.8),
                v2.RandomApply([v2.GaussianBlur(kernel, (0.1, 2.0))], 0.5),
                v2.ToDtype({ImageTensor: torch.float32, Mask: torch.int64}, scale=True),
                normalisation(settings.encoder),
            ]
        )

    def __len__(self) -> int:
        return len(self.tasks)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        path, labels = self.tasks[i]
        image, mask = read_pair(path, labels, self.geometry)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seeds[i])
            return self.augment(*crop_scaled(image, mask, self.size, self.scale))


def crop_scaled(
    image: ImageTensor, mask: Mask, size: int, scale: tuple[float, float]
) -> tuple[ImageTensor, Mask]:
    """Scale an image at random and cut out a square of `size` pixels; where it is too small, pad.

    At scale 1 the image's shorter side has `size` pixels, so a crop at scale s shows 1/s of that
    side: that part is cut out first and resized after, which costs less than scaling the image.
    Padding has the image's mean colour, and IGNORE in the mask.
    """
    height, width = image.shape[-2:]
    side = round(min(height, width) / float(torch.empty(1).uniform_(*scale)))
    across, down = max(0, side - width), max(0, side - height)
    if across or down:
        sides = [across // 2, down // 2, across - across // 2, down - down // 2]
        mean = image.float().mean((-2, -1)).tolist()
        image = v2.functional.pad(image, sides, fill=mean)
        mask = v2.functional.pad(mask, sides, fill=IGNORE)
    top = int(torch.randint(0, image.shape[-2] - side + 1, ()))
    left = int(torch.randint(0, image.shape[-1] - side + 1, ()))
    box = [top, left, side, side]
    return (
        v2.functional.resized_crop(image, *box, [size, size], antialias=True),
        v2.functional.resized_crop(mask, *box, [size, size]),
    )


def read_pair(
    image: Path, mask: Path, geometry: Geometry = AS_THEY_ARE
) -> tuple[ImageTensor, Mask]:
    """Read an image, at the size of its pseudo-mask, with that mask (int32, IGNORE = -1)."""
    labels = read_mask(mask, classes=65535)
    picture = geometry.picture(read_image(image))
    height, width = labels.shape
    if picture.size != (width, height):
        picture = picture.resize((width, height), Image.Resampling.BICUBIC)
    return ImageTensor(v2.functional.pil_to_tensor(picture)), Mask(torch.from_numpy(labels))


def learning_rate(step: int, steps: int, start: float) -> float:
    """Polynomial decay with power 0.9 and a floor of 1e-6."""
    return max(start * (1 - step / steps) ** 0.9, 1e-6)


def train(
    model: smp.DeepLabV3Plus,
    images: Sequence[tuple[Path, Path]],
    settings: Train,
    *,
    seed: int,
    device: str,
    workers: int = 1,
    geometry: Geometry = AS_THEY_ARE,
) -> Iterator[tuple[int, float, float]]:
    """Train in place; yields (step from 1, loss, learning rate of the head).

    Args:
        images: paths of images and pseudo-masks (label ids).
        workers: processes that read and augment.
        geometry: see `PseudoMasks`.

    Raises:
        RecoError: the loss is not finite.
    """
    torch.manual_seed(seed)
    model.to(device).train()
    groups = [{"params": [*model.decoder.parameters(), *model.segmentation_head.parameters()]}]
    if settings.backbone_lr:
        groups.append({"params": list(model.encoder.parameters())})
    else:
        model.encoder.eval().requires_grad_(False)
    optimiser = torch.optim.Adam(groups, lr=settings.lr, betas=(0.9, 0.999), weight_decay=2e-4)
    crops = PseudoMasks(images, settings, seed, geometry)
    loader = DataLoader(crops, settings.batch, num_workers=workers)
    for step, (pixels, masks) in enumerate(loader):
        rate = learning_rate(step, settings.iterations, settings.lr)
        for group, share in zip(optimiser.param_groups, (1, settings.backbone_lr), strict=False):
            group["lr"] = rate * share
        maps = model(pixels.to(device, memory_format=torch.channels_last))
        loss = cross_entropy(*at_equal_size(maps, masks.to(device)), ignore_index=IGNORE)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise RecoError(f"training: the loss is {value} at step {step + 1}: lower train.lr")
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        yield step + 1, value, rate


def at_equal_size(maps: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Bring (b, h, w) masks to the size of (b, c, h/4, w/4) maps, by the nearest pixel.

    Upsampling the maps instead, as the paper does, costs most of a step's time on a CPU.
    """
    small = interpolate(masks[:, None].float(), size=maps.shape[-2:], mode="nearest-exact")
    return maps, small[:, 0].long()


def predict(model: nn.Module, pixels: Tensor) -> Tensor:
    """Log-probabilities (b, classes, h, w) of normalised images (b, 3, h, w).

    Sides that are no multiple of 16 are padded for the network and cut off again.
    """
    height, width = pixels.shape[-2:]
    padded = pad(pixels, (0, -width % 16, 0, -height % 16), mode="replicate")
    maps = interpolate(model(padded), padded.shape[-2:], mode="bilinear", align_corners=False)
    return maps[..., :height, :width].log_softmax(1)


def predict_picture(
    network: nn.Module, picture: np.ndarray, normalise: v2.Normalize, device: str
) -> Tensor:
    """Log-probabilities (classes, H, W) of an (H, W, 3) uint8 picture."""
    pixels = v2.functional.to_dtype(
        torch.from_numpy(picture).permute(2, 0, 1), torch.float32, scale=True
    )
    with torch.inference_mode():
        return predict(network, normalise(pixels)[None].to(device))[0]


def validate(
    network: nn.Module, split: Split, rows: Sequence[Row], labels: int, encoder: str, device: str
) -> float:
    """Mean IoU of a network on a split, without CRF; leaves the network as it was.

    Args:
        rows: the list of the split.
        labels: label ids that are scored.
        encoder: whose pixel statistics the network expects.
    """
    modes = {module: module.training for module in network.modules()}
    network.eval()
    matrix, normalise = ConfusionMatrix(labels), normalisation(encoder)
    for row in rows:
        maps = predict_picture(network, np.array(split.picture(row)), normalise, device)
        guess = maps.argmax(0).cpu().numpy()
        merge = split.reader.merge
        matrix.update(split.truth(row), guess if merge is None else merge[guess])
    for module, training in modes.items():
        module.training = training
    return matrix.mean_iou


def train_plus(
    experiment: Experiment,
    images: Path,
    masks: Path | None,
    weights: Path,
    model: Path,
    curve: Path,
    val: Path | None = None,
) -> None:
    """Train ReCo+ on the pseudo-masks of the train split and save it.

    Args:
        images: CSV of `reco catalog-split` (image, prediction).
        masks: folder of the pseudo-masks of `Experiment.best`; a probe needs none.
        weights: safetensors to write.
        model: JSON to write: student, encoder, labels, size, seed.
        curve: CSV to write: step, loss, lr, val_mean_iou (empty but every
            `train.validate_every` steps of DeepLab).
        val: CSV of `reco catalog-split` for these looks at val.
    """
    config = experiment.config
    if config.train is None or config.student is None:
        raise RecoError("train: null in the config: there is nothing to train")
    rows: Sequence[tuple[object, ...]]
    if config.student == "probe":
        probe, steps, count = train_probe(experiment, images, keeping_loader())
        state, encoder = pack_probe(probe), config.models.encoder
        rows = [(step, f"{loss:.6f}", f"{rate:.3e}", "") for step, loss, rate in steps]
    else:
        if masks is None:
            raise RecoError("train: DeepLab learns from pseudo-masks: name them with --masks")
        pairs = [
            (
                experiment.split("train").root / row["image"],
                masks / experiment.best.slug / row["prediction"],
            )
            for row in read_table(images)
        ]
        network, rows = train_deeplab(experiment, pairs, val)
        state, encoder, count = network.state_dict(), config.train.encoder, len(pairs)
    with atomic(weights) as temporary:
        temporary.write_bytes(save({key: value.contiguous() for key, value in state.items()}))
    write_digest(weights)
    write_json(
        model,
        {
            "student": config.student,
            "encoder": encoder,
            "labels": experiment.labels,
            "seed": config.seed,
            "train": config.train.model_dump(mode="json"),
            "pseudo_masks": experiment.best.slug,
            "images": count,
        },
    )
    write_table(curve, ["step", "loss", "lr", "val_mean_iou"], rows)


def train_deeplab(
    experiment: Experiment, pairs: Sequence[tuple[Path, Path]], val: Path | None
) -> tuple[smp.DeepLabV3Plus, list[tuple[object, ...]]]:
    """Train the paper's student; see `train_plus`.

    Args:
        pairs: paths of images and of their pseudo-masks.

    Returns:
        the network and the rows of its curve.
    """
    config, split = experiment.config, experiment.split("train")
    settings = config.train
    assert settings
    # The released code trains on smooth pictures, though it labels jagged ones.
    smooth = BILINEAR if split.geometry.resample == NEAREST else split.geometry.resample
    geometry = replace(split.geometry, resample=smooth)
    torch.manual_seed(config.seed)
    packaged = settings.encoder == "packaged"
    start = PACKAGED_WEIGHTS if packaged else settings.encoder_weights
    network = build(settings.encoder, start, len(experiment.labels))
    device = resolve_device(config.device)
    steps = train(network, pairs, settings, seed=config.seed, device=device, geometry=geometry)
    every, checked = settings.validate_every, experiment.split("val")
    rows: list[tuple[object, ...]] = []
    for step, loss, rate in track(steps, "train ReCo+", total=settings.iterations, unit="step"):
        score = ""
        if val and every and step % every == 0:
            look = (checked, read_table(val), len(experiment.scored), settings.encoder, device)
            score = f"{validate(network, *look):.6f}"
            LOG.info("step %d: mIoU %s on val, for the record", step, score)
        rows.append((step, f"{loss:.6f}", f"{rate:.3e}", score))
    return network, rows


def segment_plus(
    experiment: Experiment, images: Path, weights: Path, model: Path, masks: Path, workers: int
) -> None:
    """Segment the val split with ReCo+, without and with the CRF."""
    description = read_json(model)
    device = resolve_device(experiment.config.device)
    load = load_probe if description["student"] == "probe" else load_deeplab
    predict = load(experiment, read_checkpoint(weights), device)
    total = len(read_table(images))
    everything = np.arange(len(description["labels"]))
    with mask_writer(masks, everything, experiment.config.crf, workers) as writer:
        pictures = read_pictures(experiment.split("val"), images)
        for name, picture in track(pictures, "segment with ReCo+", total=total):
            maps = predict(picture).softmax(0)
            for method in experiment.plus:
                if method.crf:
                    writer.write_refined(method, name, picture, maps)
                else:
                    writer.write(method, name, maps)


def load_deeplab(
    experiment: Experiment, state: Mapping[str, Tensor], device: str
) -> Callable[[np.ndarray], Tensor]:
    """A function of an (H, W, 3) uint8 RGB picture: log-probabilities (labels, H, W)."""
    assert experiment.config.train
    encoder = experiment.config.train.encoder
    network = build(encoder, None, len(experiment.labels))
    network.load_state_dict(dict(state))
    network.to(device).eval()
    return partial(predict_picture, network, normalise=normalisation(encoder), device=device)
