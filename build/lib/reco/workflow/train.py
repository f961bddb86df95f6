"""Train: ReCo+, a segmenter that learns from ReCo's own masks (paper section 3.4).

The paper's student is DeepLabv3+ of segmentation_models_pytorch; the schedule, losses and
augmentation are the paper's, the sizes come from the config. The one of the recipe `seedbank` is
`reco.workflow.probe`. No pixel label is read.
"""

import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import segmentation_models_pytorch as smp
import torch
from safetensors.numpy import save
from torch import nn

from reco.config import Train
from reco.data.geometry import BILINEAR, NEAREST
from reco.data.split import Row, Split
from reco.data.tables import read_table, write_table
from reco.device import resolve_device
from reco.errors import RecoError
from reco.experiment import Experiment
from reco.files import atomic, check_digest, read_json, read_tensors, write_digest, write_json
from reco.method.metrics import ConfusionMatrix
from reco.method.train import make_optimiser, take_steps
from reco.models import keeping_loader
from reco.models.checkpoints import read_checkpoint
from reco.progress import LOG, track
from reco.work import publish, working_folder
from reco.workflow.checkpoint import CHECKPOINT, read_checkpoint_into, write_checkpoint
from reco.workflow.crops import draw_batches
from reco.workflow.deeplab import (
    build,
    load_deeplab,
    normalisation,
    predict_picture,
    starting_weights,
)
from reco.workflow.masks import mask_writer
from reco.workflow.probe import pack_probe, train_probe, unpack_probe
from reco.workflow.segment import unfinished
from reco.workflow.views import read_pictures, see


def train(
    model: smp.DeepLabV3Plus,
    images: Sequence[tuple[Path, Path]],
    settings: Train,
    *,
    seed: int,
    device: str,
    workers: int = 1,
) -> Iterator[tuple[int, float, float]]:
    """Train in place; yields (step from 1, loss, learning rate of the head).

    Args:
        images: paths of images and pseudo-masks (label ids).
        workers: processes that read and augment.

    Raises:
        RecoError: the loss is not finite.
    """
    optimiser = make_optimiser(model, settings, seed=seed, device=device)
    batches = draw_batches(images, settings, seed=seed, workers=workers)
    yield from take_steps(model, optimiser, batches, settings, device)


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
        guess = maps.argmax(0)
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
        state = {name: value.cpu().numpy() for name, value in network.state_dict().items()}
        encoder, count = config.train.encoder, len(pairs)
    with atomic(weights) as temporary:
        temporary.write_bytes(
            save({key: np.asarray(value, order="C") for key, value in state.items()})
        )
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
    start = starting_weights(settings)
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
    network = build(settings.encoder, starting_weights(settings), len(experiment.learned))
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
    todo = unfinished(rows, experiment.plus, work)
    LOG.info("segment with ReCo+: %d of %d images to segment", len(todo), len(rows))
    with mask_writer(work, experiment.learned_labels, experiment.config.crf, workers) as writer:
        found = _find_plus(experiment, todo, weights, model, features) if todo else []
        for name, picture, maps in track(found, "segment with ReCo+", total=len(todo)):
            for method in experiment.plus:
                if method.crf:
                    writer.write_refined(method, name, picture, maps)
                else:
                    writer.write(method, name, maps)
    publish(work, masks)


def _find_plus(
    experiment: Experiment, rows: Sequence[Row], weights: Path, model: Path, features: Path | None
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Name of the mask, picture and probabilities (labels, H, W) of images of val."""
    if read_json(model)["student"] == "probe":
        check_digest(weights)
        probe = unpack_probe(read_tensors(weights))
        seen = see(experiment, "val", rows, list(probe.spaces), features, wanted=["encoder"])
        for name, picture, views in seen:
            encoded = {side: view[0] for side, view in views.items()}
            yield name, picture, probe.predict(encoded, (picture.shape[0], picture.shape[1]))
    else:
        device = resolve_device(experiment.config.device)
        predict = load_deeplab(experiment, read_checkpoint(weights), device)
        for name, picture in read_pictures(experiment.split("val"), rows):
            yield name, picture, predict(picture)
