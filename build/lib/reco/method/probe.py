"""Probe: ReCo+ of the recipe `seedbank`, a linear map from whitened features to concepts.

The student of the paper (section 3.4) is a DeepLabv3+ that sees the train split for 20,000 steps.
This one keeps the encoder as it is and learns one layer on its features, which are computed once;
so it can learn from the index as well, whose masks cost nothing. docs/recipe.md has what it gives.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, dropout

from reco.method.bank import Space
from reco.method.maps import resize, softmax
from reco.method.segment import Knowledge, Views, bank_scores, project

ALIKE, AGREEMENT, SOFTNESS, PASSES = 0.1, 10.0, 0.2, 5  # see `agree`
ROUNDS = 2  # in the second it learns what it said itself
ROUND_STEPS, POSITIONS = 600, 2048  # steps of a round; positions of a step
RATE, DECAY = 1e-2, 1e-4  # of AdamW
DROPOUT = 0.75
SHARPNESS = 10.0  # length of a feature before the map


def agree(scores: np.ndarray, features: np.ndarray) -> np.ndarray:
    """Mean field over the positions of one image, in which alike positions agree.

    u = scores / SOFTNESS, q = softmax(u); PASSES times q = softmax(u + AGREEMENT A q), where row p
    of A is the softmax over positions of <z_p, z_q> / ALIKE.

    Args:
        scores: (n, h, w) of n concepts.
        features: (c, h, w) unit vectors.

    Returns:
        (n, h, w) u + AGREEMENT A q.
    """
    z = features.reshape(len(features), -1)
    u = scores.reshape(len(scores), -1) / np.float32(SOFTNESS)
    alike = softmax(z.T @ z / np.float32(ALIKE), axis=1)
    agreed = u
    for _ in range(PASSES + 1):
        agreed = u + np.float32(AGREEMENT) * (softmax(agreed) @ alike.T)
    return agreed.reshape(scores.shape)


def surest(scores: np.ndarray, share: float) -> np.ndarray:
    """(h, w) int64: the best of (n, h, w) scores where it is among the `share` highest, else -1."""
    best = scores.max(0)
    count = max(1, round(share * best.size))
    least = np.partition(best, best.size - count, axis=None)[best.size - count]
    return np.where(best >= least, scores.argmax(0), -1)


def pseudo_labels(
    views: Views, knowledge: Knowledge, share: float
) -> tuple[np.ndarray, np.ndarray]:
    """What one image teaches: features of positions at all scales, and their concepts.

    Labels are found on the finest map, from the scores of `seedbank` after `agree`; coarser maps
    take that of the nearest position.

    Args:
        views: see `reco.method.segment.Views`.
        share: of the positions, the surest ones, that teach.

    Returns:
        (k, c) float16 whitened unit vectors and (k,) int64.
    """
    whitened = {
        side: scale.space.whiten(views[side][0])[0] for side, scale in knowledge.scales.items()
    }
    finest = max(whitened.values(), key=lambda features: features[0].size)
    scores = [
        resize(bank_scores(*views[side], scale, knowledge.texts), finest.shape[1:])[0]
        for side, scale in knowledge.scales.items()
    ]
    labels = surest(agree(np.mean(scores, axis=0), finest), share)
    features, concepts = [], []
    for own in whitened.values():
        near = labels[np.ix_(*map(_nearest, labels.shape, own.shape[1:]))]
        features.append(own[:, near >= 0].T.astype(np.float16))
        concepts.append(near[near >= 0])
    return np.concatenate(features), np.concatenate(concepts)


def _nearest(old: int, new: int) -> np.ndarray:
    """(new,) of `old` positions in a row, the one nearest to each of `new`."""
    return ((np.arange(new) + 0.5) * old / new).astype(int)


@dataclass(frozen=True)
class Probe:
    """A trained probe.

    Attributes:
        spaces: the whitened space of every scale, by the shorter side in pixels.
        weight, bias: (labels, c) and (labels,) of whitened unit vectors.
    """

    spaces: dict[int, Space]
    weight: np.ndarray
    bias: np.ndarray

    def predict(self, views: Mapping[int, np.ndarray], size: tuple[int, int]) -> np.ndarray:
        """Probabilities (labels, *size) of a picture's encoder features (1, c, h, w)."""
        total = self.bias[:, None, None]
        for side, space in self.spaces.items():
            maps = project(space.whiten(views[side]), self.weight)
            total = total + resize(maps, size)[0] / len(self.spaces)
        return softmax(total)


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
    for step in range(ROUND_STEPS):
        rate = RATE * (1 - step / ROUND_STEPS) ** 0.9
        for group in optimiser.param_groups:
            group["lr"] = rate
        rows = torch.randint(len(labels), (POSITIONS,)).to(labels.device)
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
