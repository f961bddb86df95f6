"""Probe: what it learns from, read and written; see `reco.method.probe`."""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch import nn

from reco.data.store import Place, read_places
from reco.data.tables import read_table
from reco.device import ONE_THREAD, resolve_device
from reco.errors import RecoError
from reco.experiment import Experiment
from reco.files import open_array
from reco.method.bank import Space
from reco.method.probe import ROUND_STEPS, ROUNDS, SHARPNESS, Probe, fit, pseudo_labels, say
from reco.method.segment import Knowledge, Views
from reco.models import Loader, Output, load
from reco.progress import track
from reco.workflow.embed import embed_features
from reco.workflow.segment import as_views, read_knowledge
from reco.workflow.views import see
from reco.workflow.whiten import draw

AT_A_TIME = 16  # images that are read from the store at a time


def embed_lessons(
    experiment: Experiment, load: Loader = load
) -> dict[int, list[dict[Output, Place]]]:
    """Bring the features of the index images that the probe learns from into the store.

    Returns:
        by scale, for each image, where its encoder features are and, at the first scale, its dense
        ones: name of the output -> place.
    """
    config = experiment.config
    assert config.train
    total = len(open_array(experiment.embeddings))
    drawn = draw(experiment, total, config.train.index)
    items = {key: experiment.index_root / path for path, key in drawn.values()}
    found = {}
    for scale in config.bank.scales:
        places = embed_features(experiment, items, load, scale) if items else {}
        found[scale] = [{kind: known[key] for kind, known in places.items()} for key in items]
    return found


def read_lessons(places: Mapping[int, Sequence[Mapping[Output, Place]]]) -> Iterator[Views]:
    """The views of each image of `embed_lessons`; dense features of the first scale serve all."""
    first = next(iter(places))
    for start in range(0, len(places[first]), AT_A_TIME):
        part = {scale: rows[start : start + AT_A_TIME] for scale, rows in places.items()}
        encoder = {scale: _read(rows, "encoder") for scale, rows in part.items()}
        dense = _read(part[first], "dense")
        for i in range(len(dense)):
            here = slice(i, i + 1)
            yield {scale: (features[here], dense[here]) for scale, features in encoder.items()}


def _read(rows: Sequence[Mapping[Output, Place]], kind: Output) -> np.ndarray:
    return read_places([row[kind] for row in rows])


def train_probe(
    experiment: Experiment, images: Path, features: Path | None = None, load: Loader = load
) -> tuple[Probe, list[tuple[int, float, float]], int]:
    """Teach a probe with the scores of `seedbank` on the train split and on the index.

    Args:
        images: CSV of `reco catalog-split` for the train split.
        features: CSV of `reco embed-split` for it; None = no features were kept.

    Returns:
        the probe, its curve (step from 1, loss, learning rate), and the number of images.

    Raises:
        RecoError: the loss is not finite.
    """
    config = experiment.config
    assert config.train
    device = resolve_device(config.device)
    knowledge = read_knowledge(experiment, [experiment.best])
    places, rows, sides = (
        embed_lessons(experiment, load),
        read_table(images),
        list(knowledge.scales),
    )
    seen = as_views(see(experiment, "train", rows, sides, features, load=load))
    lessons = chain((views for _, _, views in seen), read_lessons(places))
    total = len(rows) + len(places[sides[0]])
    with threadpool_limits(**ONE_THREAD):
        taught = [
            pseudo_labels(views, knowledge, config.train.keep)
            for views in track(lessons, "pseudo-labels", total=total)
        ]
    positions, labels = (
        torch.from_numpy(np.concatenate(found)).to(device) for found in zip(*taught, strict=True)
    )
    curve: list[tuple[int, float, float]] = []
    layer = nn.Linear(positions.shape[1], len(experiment.targets), device=positions.device)
    for again in range(ROUNDS):
        steps = fit(layer, positions, labels, config.seed + again)
        for loss, rate in track(steps, "train ReCo+", total=ROUND_STEPS, unit="step"):
            curve.append((len(curve) + 1, loss, rate))
        labels = say(layer, positions)
    *_, (_, last, _) = curve
    if not math.isfinite(last):
        raise RecoError(f"training: the loss is {last}: check the encoder's features")
    return _of_labels(experiment, knowledge, layer), curve, total


def _of_labels(experiment: Experiment, knowledge: Knowledge, layer: nn.Linear) -> Probe:
    """A probe of label ids from a map to targets; a label that is no target is never found."""
    weight, bias = (values.detach().cpu().numpy() for values in (layer.weight, layer.bias))
    labels = len(experiment.labels)
    weights = np.zeros((labels, weight.shape[1]), np.float32)
    biases = np.full(labels, np.finfo(np.float32).min / 4, np.float32)
    weights[experiment.target_labels] = SHARPNESS * weight
    biases[experiment.target_labels] = bias
    return Probe({side: scale.space for side, scale in knowledge.scales.items()}, weights, biases)


def pack_probe(probe: Probe) -> dict[str, np.ndarray]:
    """Tensors of a file: weight, bias, and `<scale>.mean` and `<scale>.matrix`."""
    spaces = {
        f"{side}.{name}": getattr(space, name)
        for side, space in probe.spaces.items()
        for name in ("mean", "matrix")
    }
    return {"weight": probe.weight, "bias": probe.bias, **spaces}


def unpack_probe(state: Mapping[str, np.ndarray]) -> Probe:
    """The probe of `pack_probe`."""
    sides = sorted(int(name.split(".")[0]) for name in state if name.endswith(".mean"))
    others = np.empty((0, 0, 0), np.float32)
    spaces = {side: Space(state[f"{side}.mean"], state[f"{side}.matrix"], others) for side in sides}
    return Probe(spaces, state["weight"], state["bias"])
