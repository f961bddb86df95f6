"""Train: ReCo+, a segmenter that learns from ReCo's own masks (paper section 3.4).

The paper's student is DeepLabv3+ of segmentation_models_pytorch; the schedule, losses and
augmentation are the paper's, the sizes come from the config. The one of the recipe `seedbank` is
`reco.workflow.probe`. No pixel label is read.
"""

import json
import math
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import segmentation_models_pytorch as smp
import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate, pad
from torch.utils.data import DataLoader, Dataset, Subset
from torchvision.transforms import v2
from torchvision.tv_tensors import Image as ImageTensor
from torchvision.tv_tensors import Mask

from reco.config import Train
from reco.data.folder import IGNORE, read_mask, read_table, write_table
from reco.data.geometry import BILINEAR, NEAREST, Geometry
from reco.data.images import read_image
from reco.data.split import Row, Split
from reco.device import resolve_device
from reco.errors import RecoError
from reco.experiment import Experiment
from reco.files import atomic, read_json, write_digest, write_json
from reco.method.metrics import ConfusionMatrix
from reco.models import is_checkpoint, keeping_loader
from reco.models.preprocessing import read_checkpoint
from reco.progress import LOG, track
from reco.work import is_whole, publish, working_folder
from reco.workflow.masks import mask_writer
from reco.workflow.probe import pack_probe, train_probe, unpack_probe
from reco.workflow.views import read_pictures, see

AS_THEY_ARE = Geometry(None)
CHECKPOINT = 60  # seconds of training that a job that is killed loses at most, and a step
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


class PseudoMasks(Dataset):
    """Augmented crops of images with their pseudo-masks, as the paper draws them.

    Item i is a pair (3, size, size) float32 and (size, size) int64 that depends on the seed and i
    alone: neither the number of worker processes nor their order changes what is drawn.

    Args:
        images: paths of images and of their pseudo-masks.
        settings: size of the crops, number of steps and of images a step, encoder.
        seed: of order and augmentation; images recur in a new order each time round.
        geometry: of the images, before augmentation; that of the masks.
        lessons: the id that is learned for each label id; None = the same.
    """

    def __init__(
        self,
        images: Sequence[tuple[Path, Path]],
        settings: Train,
        seed: int,
        geometry: Geometry = AS_THEY_ARE,
        lessons: np.ndarray | None = None,
    ) -> None:
        length, size = settings.iterations * settings.batch, settings.size
        jitter = settings.jitter
        rng = np.random.default_rng(seed)
        rounds = math.ceil(length / len(images))
        order = np.concatenate([rng.permutation(len(images)) for _ in range(rounds)])
        self.tasks = [images[i] for i in order[:length]]
        self.seeds = rng.integers(2**31, size=length).tolist()
        self.size, self.scale, self.geometry = size, settings.scale, geometry
        self.lessons = lessons
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
        image, mask = read_pair(path, labels, self.geometry, self.lessons)
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
    image: Path,
    mask: Path,
    geometry: Geometry = AS_THEY_ARE,
    lessons: np.ndarray | None = None,
) -> tuple[ImageTensor, Mask]:
    """Read an image, at the size of its pseudo-mask, with that mask (int32, IGNORE = -1).

    Args:
        lessons: see `PseudoMasks`.
    """
    labels = read_mask(mask, classes=65535)
    if lessons is not None:
        labels = np.where(labels == IGNORE, IGNORE, lessons[labels]).astype(np.int32)
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
    lessons: np.ndarray | None = None,
) -> Iterator[tuple[int, float, float]]:
    """Train in place; yields (step from 1, loss, learning rate of the head).

    Args:
        images: paths of images and pseudo-masks (label ids).
        workers: processes that read and augment.
        geometry, lessons: see `PseudoMasks`.

    Raises:
        RecoError: the loss is not finite.
    """
    optimiser = make_optimiser(model, settings, seed=seed, device=device)
    batches = draw_batches(
        images, settings, seed=seed, workers=workers, geometry=geometry, lessons=lessons
    )
    yield from take_steps(model, optimiser, batches, settings, device)


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


def draw_batches(
    images: Sequence[tuple[Path, Path]],
    settings: Train,
    *,
    seed: int,
    workers: int = 1,
    geometry: Geometry = AS_THEY_ARE,
    done: int = 0,
    lessons: np.ndarray | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches of all steps after the first `done`; see `PseudoMasks`.

    Making the iterator draws from PyTorch's generator; reading from it does not.
    """
    crops = PseudoMasks(images, settings, seed, geometry, lessons)
    rest = Subset(crops, range(done * settings.batch, len(crops)))
    return iter(DataLoader(rest, settings.batch, num_workers=workers))


def take_steps(
    model: smp.DeepLabV3Plus,
    optimiser: torch.optim.Adam,
    batches: Iterable[tuple[Tensor, Tensor]],
    settings: Train,
    device: str,
    done: int = 0,
) -> Iterator[tuple[int, float, float]]:
    """Take the steps after the first `done`; see `train`."""
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


# ---- checkpoints ------------------------------------------------------------------------------


def write_checkpoint(
    path: Path, model: nn.Module, optimiser: torch.optim.Adam, rows: Sequence[Sequence[object]]
) -> None:
    """Write all that a training needs to go on: weights, moments, generators, rows of the curve.

    One safetensors file, so that it is whole or as it was; the rows are JSON in its header.
    """
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    for place, values in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{place}.{name}": value for name, value in values.items()}
    tensors["generator.cpu"] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors["generator.cuda"] = torch.cuda.get_rng_state()
    kept = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    with atomic(path) as temporary:
        temporary.write_bytes(save(kept, {"rows": json.dumps(rows)}))


def read_checkpoint_into(
    path: Path, model: nn.Module, optimiser: torch.optim.Adam
) -> list[list[object]]:
    """Bring a model, its optimiser and PyTorch's generators to where a checkpoint was written.

    Returns:
        the rows of the curve, one for each step that was taken; none where there is no checkpoint
        or it is damaged, and nothing was changed.
    """
    try:
        with safe_open(path, "pt") as file:
            rows = json.loads((file.metadata() or {})["rows"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except FileNotFoundError:
        return []
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        LOG.warning("%s: damaged (%s): training starts anew", path, error)
        return []
    parts: dict[str, dict[str, Tensor]] = {"model": {}, "optimiser": {}, "generator": {}}
    for name, value in tensors.items():
        part, _, rest = name.partition(".")
        parts[part][rest] = value
    model.load_state_dict(parts["model"])
    parameters = [value for group in optimiser.param_groups for value in group["params"]]
    for name, value in parts["optimiser"].items():
        place, _, what = name.partition(".")
        parameter = parameters[int(place)]
        if value.dim():  # a moment lies in memory as its parameter does, as if never written
            value = torch.empty_like(parameter, requires_grad=False).copy_(value)
        optimiser.state[parameter][what] = value
    torch.set_rng_state(parts["generator"]["cpu"])
    if torch.cuda.is_available() and "cuda" in parts["generator"]:
        torch.cuda.set_rng_state(parts["generator"]["cuda"])
    return rows


def at_equal_size(maps: Tensor, masks: Tensor, *, full: bool) -> tuple[Tensor, Tensor]:
    """Bring (b, h, w) masks to the size of (b, c, h/4, w/4) maps, by the nearest pixel.

    Args:
        full: enlarge the maps instead, bilinearly as `predict` does. That is the paper's loss; it
            costs most of a step's time on a CPU.
    """
    if full:
        return interpolate(maps, masks.shape[-2:], mode="bilinear", align_corners=False), masks
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
    network: nn.Module,
    split: Split,
    rows: Sequence[Row],
    labels: int,
    encoder: str,
    device: str,
    learned: np.ndarray | None = None,
) -> float:
    """Mean IoU of a network on a split, without CRF; leaves the network as it was.

    Args:
        rows: the list of the split.
        labels: label ids that are scored.
        encoder: whose pixel statistics the network expects.
        learned: the label id of every output of the network; None = the same.
    """
    modes = {module: module.training for module in network.modules()}
    network.eval()
    matrix, normalise = ConfusionMatrix(labels), normalisation(encoder)
    for row in rows:
        maps = predict_picture(network, np.array(split.picture(row)), normalise, device)
        guess = maps.argmax(0).cpu().numpy()
        guess = guess if learned is None else learned[guess]
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
    features: Path | None = None,
    workers: int = 1,
) -> None:
    """Train ReCo+ on the pseudo-masks of the train split and save it.

    DeepLab goes on where a training of the same settings, masks and code was killed; a probe takes
    seconds, once the features are in the store.

    Args:
        images: CSV of `reco catalog-split` (image, prediction).
        masks: folder of the pseudo-masks of `Experiment.best`; a probe needs none.
        weights: safetensors to write.
        model: JSON to write: student, encoder, labels, size, seed.
        curve: CSV to write: step, loss, lr, val_mean_iou (empty but every
            `train.validate_every` steps of DeepLab).
        val: CSV of `reco catalog-split` for these looks at val.
        features: CSV of `reco embed-split` for the train split, which a probe learns from; None =
            no features were kept.
        workers: processes that read and augment for DeepLab; they change no number.
    """
    config = experiment.config
    if config.train is None or config.student is None:
        raise RecoError("train: null in the config: there is nothing to train")
    rows: Sequence[Sequence[object]]
    work = None
    if config.student == "probe":
        probe, steps, count = train_probe(experiment, images, features, keeping_loader())
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
        files = [
            images,
            *(mask for _, mask in pairs),
            *_start(config.train),
            *([val] if val else []),
        ]
        work = working_folder(weights.parent, experiment.train_state(files))
        network, rows = train_deeplab(
            experiment, pairs, val, work / "checkpoint.safetensors", workers
        )
        state, encoder, count = network.state_dict(), config.train.encoder, len(pairs)
    with atomic(weights) as temporary:
        temporary.write_bytes(save({key: value.contiguous() for key, value in state.items()}))
    write_digest(weights)
    write_json(
        model,
        {
            "student": config.student,
            "encoder": encoder,
            "labels": experiment.learned,
            "seed": config.seed,
            "train": config.train.model_dump(mode="json"),
            "pseudo_masks": experiment.best.slug,
            "images": count,
        },
    )
    write_table(curve, ["step", "loss", "lr", "val_mean_iou"], rows)
    if work:
        shutil.rmtree(work)


def _start(settings: Train) -> list[Path]:
    """The file of weights that the network starts with, where it is one."""
    start = PACKAGED_WEIGHTS if settings.encoder == "packaged" else settings.encoder_weights
    return [Path(start)] if start and Path(start).is_file() else []


def train_deeplab(
    experiment: Experiment,
    pairs: Sequence[tuple[Path, Path]],
    val: Path | None,
    checkpoint: Path,
    workers: int = 1,
) -> tuple[smp.DeepLabV3Plus, list[Sequence[object]]]:
    """Train the paper's student; see `train_plus`.

    Args:
        pairs: paths of images and of their pseudo-masks.
        checkpoint: written on the way; where it is there, training goes on from it.

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
    network = build(settings.encoder, start, len(experiment.learned))
    device = resolve_device(config.device)
    optimiser = make_optimiser(network, settings, seed=config.seed, device=device)
    rows: list[Sequence[object]] = list(read_checkpoint_into(checkpoint, network, optimiser))
    done, generator = len(rows), torch.get_rng_state()
    batches = draw_batches(
        pairs,
        settings,
        seed=config.seed,
        workers=workers,
        geometry=geometry,
        done=done,
        lessons=experiment.lessons,
    )
    if done:
        LOG.info("train ReCo+: goes on after step %d", done)
        torch.set_rng_state(generator)  # as it was before the batches were made
    every, checked = settings.validate_every, experiment.split("val")
    steps = take_steps(network, optimiser, batches, settings, device, done)
    written = time.monotonic()
    for step, loss, rate in track(
        steps, "train ReCo+", total=settings.iterations - done, unit="step"
    ):
        score = ""
        if val and every and step % every == 0:
            look = (checked, read_table(val), len(experiment.scored), settings.encoder, device)
            score = f"{validate(network, *look, experiment.learned_labels):.6f}"
            LOG.info("step %d: mIoU %s on val, for the record", step, score)
        rows.append((step, f"{loss:.6f}", f"{rate:.3e}", score))
        if time.monotonic() - written >= CHECKPOINT:
            write_checkpoint(checkpoint, network, optimiser, rows)
            written = time.monotonic()
    return network, rows


def segment_plus(
    experiment: Experiment,
    images: Path,
    weights: Path,
    model: Path,
    masks: Path,
    workers: int,
    features: Path | None = None,
) -> None:
    """Segment the val split with ReCo+, without and with the CRF.

    Masks that an earlier call made before it was killed stay.

    Args:
        features: CSV of `reco embed-split`, which a probe reads; None = no features were kept.
    """
    rows = read_table(images)
    state = experiment.segment_state(experiment.plus, [images, weights, model])
    work = working_folder(masks, state)
    todo = [
        row
        for row in rows
        if not is_whole(work / method.slug / row["prediction"] for method in experiment.plus)
    ]
    LOG.info("segment with ReCo+: %d of %d images to segment", len(todo), len(rows))
    with mask_writer(work, experiment.learned_labels, experiment.config.crf, workers) as writer:
        found = _find_plus(experiment, todo, weights, model, features) if todo else []
        for name, picture, logs in track(found, "segment with ReCo+", total=len(todo)):
            maps = logs.softmax(0)
            for method in experiment.plus:
                if method.crf:
                    writer.write_refined(method, name, picture, maps)
                else:
                    writer.write(method, name, maps)
    publish(work, masks)


def _find_plus(
    experiment: Experiment, rows: Sequence[Row], weights: Path, model: Path, features: Path | None
) -> Iterator[tuple[str, np.ndarray, Tensor]]:
    """Name of the mask, picture and log-probabilities (labels, H, W) of images of val."""
    device, state = resolve_device(experiment.config.device), read_checkpoint(weights)
    if read_json(model)["student"] == "probe":
        probe = unpack_probe(state, device)
        seen = see(experiment, "val", rows, list(probe.scales), features, wanted=["encoder"])
        for name, picture, views in seen:
            encoded = {side: view[0] for side, view in views.items()}
            with torch.inference_mode():
                maps = probe.predict(encoded, (picture.shape[0], picture.shape[1]))
            yield name, picture, maps
    else:
        predict = load_deeplab(experiment, state, device)
        for name, picture in read_pictures(experiment.split("val"), rows):
            yield name, picture, predict(picture)


def load_deeplab(
    experiment: Experiment, state: Mapping[str, Tensor], device: str
) -> Callable[[np.ndarray], Tensor]:
    """A function of an (H, W, 3) uint8 RGB picture: log-probabilities (labels, H, W)."""
    assert experiment.config.train
    encoder = experiment.config.train.encoder
    network = build(encoder, None, len(experiment.learned))
    network.load_state_dict(dict(state))
    network.to(device).eval()
    return partial(predict_picture, network, normalise=normalisation(encoder), device=device)
