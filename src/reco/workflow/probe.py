"""Probe: ReCo+ of the recipe `seedbank`, a linear map from whitened features to concepts.

The student of the paper (section 3.4) is a DeepLabv3+ that sees the train split for 20,000 steps.
This one keeps the encoder as it is and learns one layer on its features, which are computed once;
so it can learn from the index as well, whose masks cost nothing. docs/recipe.md has what it gives.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, dropout, interpolate

from reco.data.folder import read_table
from reco.data.store import Place, read_places
from reco.device import resolve_device
from reco.errors import RecoError
from reco.experiment import Experiment
from reco.files import open_array
from reco.method.bank import Space
from reco.method.segment import Knowledge, Scale, Views, bank_scores, enlarge
from reco.models import Loader, load
from reco.progress import track
from reco.workflow.embed import embed_features
from reco.workflow.segment import pairs, read_knowledge, read_scale
from reco.workflow.views import see
from reco.workflow.whiten import draw

ALIKE, AGREEMENT, SOFTNESS, PASSES = 0.1, 10.0, 0.2, 5  # see `agree`
ROUNDS = 2  # in the second it learns what it said itself
STEPS, BATCH, RATE, DECAY = 600, 2048, 1e-2, 1e-4  # of a round: positions a step, AdamW
DROPOUT = 0.75
SHARPNESS = 10.0  # length of a feature before the map
READ = 16  # images that are read from the store at a time


# ---- what it learns from ----------------------------------------------------------------------


def agree(scores: Tensor, features: Tensor) -> Tensor:
    """Mean field over the positions of one image, in which alike positions agree.

    u = scores / SOFTNESS, q = softmax(u); PASSES times q = softmax(u + AGREEMENT A q), where row p
    of A is the softmax over positions of <z_p, z_q> / ALIKE.

    Args:
        scores: (n, h, w) of n concepts.
        features: (c, h, w) unit vectors.

    Returns:
        (n, h, w) u + AGREEMENT A q.
    """
    z, u = features.flatten(1).T, scores.flatten(1).T / SOFTNESS
    alike = (z @ z.T / ALIKE).softmax(1)
    agreed = u
    for _ in range(PASSES + 1):
        agreed = u + AGREEMENT * (alike @ agreed.softmax(1))
    return agreed.T.reshape(scores.shape)


def surest(scores: Tensor, share: float) -> Tensor:
    """(h, w) int64: the best of (n, h, w) scores where it is among the `share` highest, else -1."""
    best, labels = scores.max(0)
    count = max(1, round(share * best.numel()))
    least = best.flatten().topk(count).values[-1]
    return torch.where(best >= least, labels, -1)


def pseudo_labels(views: Views, knowledge: Knowledge, share: float) -> tuple[Tensor, Tensor]:
    """What one image teaches: features of positions at all scales, and their concepts.

    Labels are found on the finest map, from the scores of `seedbank` after `agree`; coarser maps
    take that of the nearest position.

    Args:
        views: see `reco.method.segment.Views`.
        share: of the positions, the surest ones, that teach.

    Returns:
        (k, c) float16 whitened unit vectors and (k,) int64.
    """
    whitened = {side: scale.whiten(views[side][0])[0] for side, scale in knowledge.scales.items()}
    finest = max(whitened.values(), key=lambda features: features[0].numel())
    scores = [
        enlarge(bank_scores(*views[side], scale, knowledge.texts), finest.shape[1:])[0]
        for side, scale in knowledge.scales.items()
    ]
    labels = surest(agree(torch.stack(scores).mean(0), finest), share)
    features, concepts = [], []
    for own in whitened.values():
        near = interpolate(labels[None, None].float(), size=own.shape[1:], mode="nearest-exact")
        at = near[0, 0] >= 0
        features.append(own[:, at].T.half())
        concepts.append(near[0, 0][at].long())
    return torch.cat(features), torch.cat(concepts)


def embed_lessons(experiment: Experiment, load: Loader = load) -> dict[int, list[dict]]:
    """Bring the features of the index images that the probe learns from into the store.

    Returns:
        by scale, for each image, where its encoder features are and, at the first scale, its dense
        ones: name of the output -> place.
    """
    config = experiment.config
    assert config.train
    total = len(open_array(experiment.embeddings))
    drawn = draw(experiment, total, config.train.index)
    items = {key: experiment.index_root / path for path, key in drawn}
    found = {}
    for scale in config.bank.scales:
        places = embed_features(experiment, items, load, scale) if items else {}
        found[scale] = [{kind: known[key] for kind, known in places.items()} for key in items]
    return found


def read_lessons(places: Mapping[int, Sequence[Mapping]], device: str) -> Iterator[Views]:
    """The views of each image of `embed_lessons`; dense features of the first scale serve all."""
    first = next(iter(places))
    for start in range(0, len(places[first]), READ):
        part = {scale: rows[start : start + READ] for scale, rows in places.items()}
        encoder = {scale: _read(rows, "encoder", device) for scale, rows in part.items()}
        dense = _read(part[first], "dense", device).split(1)
        for i, own in enumerate(dense):
            yield {scale: (features[i : i + 1], own) for scale, features in encoder.items()}


def _read(rows: Sequence[Mapping[str, Place]], kind: str, device: str) -> Tensor:
    return torch.from_numpy(read_places([row[kind] for row in rows])).to(device)


# ---- the map ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Probe:
    """A trained probe.

    Attributes:
        scales: the whitened space of every scale, by the shorter side in pixels.
        weight, bias: (labels, c) and (labels,) of whitened unit vectors.
    """

    scales: dict[int, Scale]
    weight: Tensor
    bias: Tensor

    def predict(self, views: Mapping[int, Tensor], size: tuple[int, int]) -> Tensor:
        """Log-probabilities (labels, *size) of a picture's encoder features (1, c, h, w)."""
        total = self.bias[:, None, None]
        for side, scale in self.scales.items():
            maps = torch.einsum("bchw,nc->bnhw", scale.whiten(views[side]), self.weight)
            total = total + enlarge(maps, size)[0] / len(self.scales)
        return total.log_softmax(0)


def fit(
    layer: nn.Linear, features: Tensor, labels: Tensor, seed: int
) -> Iterator[tuple[float, float]]:
    """Fit a linear map in place by cross entropy on positions drawn with replacement.

    Args:
        layer: of SHARPNESS * features; it starts at zero.
        features: (m, c) unit vectors.
        labels: (m,) int64.
        seed: of the draws and of dropout.

    Yields:
        loss and learning rate of every step.
    """
    torch.manual_seed(seed)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    optimiser = torch.optim.AdamW(layer.parameters(), weight_decay=DECAY)
    for step in range(STEPS):
        rate = RATE * (1 - step / STEPS) ** 0.9
        for group in optimiser.param_groups:
            group["lr"] = rate
        rows = torch.randint(len(labels), (BATCH,)).to(labels.device)
        maps = layer(dropout(SHARPNESS * features[rows].float(), DROPOUT))
        loss = cross_entropy(maps, labels[rows])
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        yield float(loss.detach()), rate


def say(layer: nn.Linear, features: Tensor) -> Tensor:
    """(m,) int64: what a map takes (m, c) features for."""
    with torch.no_grad():
        parts = [layer(SHARPNESS * part.float()).argmax(1) for part in features.split(1 << 14)]
    return torch.cat(parts)


# ---- training and prediction ------------------------------------------------------------------


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
    knowledge = read_knowledge(experiment, device, [experiment.best])
    places, rows, sides = (
        embed_lessons(experiment, load),
        read_table(images),
        list(knowledge.scales),
    )
    seen = pairs(see(experiment, "train", rows, sides, features, load=load))
    lessons = chain((views for _, _, views in seen), read_lessons(places, device))
    total = len(rows) + len(places[sides[0]])
    with torch.no_grad():
        taught = [
            pseudo_labels(views, knowledge, config.train.keep)
            for views in track(lessons, "pseudo-labels", total=total)
        ]
    positions, labels = (torch.cat(found) for found in zip(*taught, strict=True))
    curve: list[tuple[int, float, float]] = []
    layer = nn.Linear(positions.shape[1], len(experiment.targets), device=positions.device)
    for again in range(ROUNDS):
        steps = fit(layer, positions, labels, config.seed + again)
        for loss, rate in track(steps, "train ReCo+", total=STEPS, unit="step"):
            curve.append((len(curve) + 1, loss, rate))
        labels = say(layer, positions)
    if not math.isfinite(curve[-1][1]):
        raise RecoError(f"training: the loss is {curve[-1][1]}: check the encoder's features")
    return _of_labels(experiment, knowledge, layer), curve, total


def _of_labels(experiment: Experiment, knowledge: Knowledge, layer: nn.Linear) -> Probe:
    """A probe of label ids from a map to targets; a label that is no target is never found."""
    weight, bias = layer.weight.detach(), layer.bias.detach()
    place = torch.from_numpy(experiment.target_labels).to(weight.device)
    labels = len(experiment.labels)
    weights = weight.new_zeros((labels, weight.shape[1]))
    biases = bias.new_full((labels,), torch.finfo(bias.dtype).min / 4)
    weights[place], biases[place] = SHARPNESS * weight, bias
    return Probe(knowledge.scales, weights, biases)


def pack_probe(probe: Probe) -> dict[str, Tensor]:
    """Tensors of a file: weight, bias, and `<scale>.mean` and `<scale>.matrix`."""
    spaces = {
        f"{side}.{name}": getattr(scale, name)
        for side, scale in probe.scales.items()
        for name in ("mean", "matrix")
    }
    return {"weight": probe.weight, "bias": probe.bias, **spaces}


def unpack_probe(state: Mapping[str, Tensor], device: str) -> Probe:
    """The probe of `pack_probe`."""
    sides = sorted(int(name.split(".")[0]) for name in state if name.endswith(".mean"))
    empty = np.empty((0, 0, 0), np.float32)
    scales = {
        side: read_scale(
            Space(state[f"{side}.mean"].numpy(), state[f"{side}.matrix"].numpy(), empty),
            torch.from_numpy(empty).to(device),
        )
        for side in sides
    }
    return Probe(scales, state["weight"].to(device), state["bias"].to(device))
