"""Segment: the concept of every pixel, from reference embeddings and dense saliency (section 3.3),
or from a bank of seeds (docs/recipe.md)."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate
from torch.nn.functional import normalize as unit

from reco.method.variants import Method

NEIGHBOURS = 3  # prototypes that a position is compared with
WEIGHT = 1.5  # of their cosine beside the text's
COSINES = 1 << 24  # that are held at a time: 64 MiB


def saliency(
    encoder_features: Tensor,
    references: Tensor,
    dense_features: Tensor | None,
    texts: Tensor | None,
    size: tuple[int, int],
    *,
    temperature: float = 10.0,
) -> Tensor:
    """Saliency of every concept: sigmoid(cos(F, r)) times sigmoid(temperature cos(G, t)).

    Each factor is squashed first and resized after (bilinear, `align_corners=False`), as in the
    released code. The second factor alone, which is DenseCLIP, is `similarity` of it.

    Args:
        encoder_features: (b, c, h, w).
        references: (concepts, c) reference embeddings.
        dense_features: (b, d, h', w'), or None to leave the second factor out.
        texts: (concepts, d) unit text embeddings; not needed without dense features.
        size: (height, width) of the result.

    Returns:
        (b, concepts, height, width), on the device of the features. For many images and concepts
        `predict` needs less memory.
    """
    encoder_features, references = torch.as_tensor(encoder_features), torch.as_tensor(references)
    maps = similarity(encoder_features, references, size)
    if dense_features is not None:
        dense_features, texts = torch.as_tensor(dense_features), torch.as_tensor(texts)
        # Image by image: a second factor of a whole batch would double the memory.
        for i, features in zip(range(len(maps)), dense_features.split(1), strict=True):
            maps[i] *= similarity(features, texts, size, temperature)[0]
    return maps


def similarity(
    features: Tensor, vectors: Tensor, size: tuple[int, int], temperature: float = 1.0
) -> Tensor:
    """sigmoid(temperature * cosine) of (b, c, h, w) and (n, c), resized to (b, n, *size).

    In channels-last memory, where resizing, products and the argmax over concepts are several
    times as fast on a CPU.
    """
    cosine = torch.einsum("bchw,nc->bnhw", unit(features, dim=1), unit(vectors, dim=1))
    squashed = torch.sigmoid(temperature * cosine).contiguous(memory_format=torch.channels_last)
    return interpolate(squashed, size=size, mode="bilinear", align_corners=False)


@dataclass(frozen=True)
class Scale:
    """What inference knows of the concepts at one scale of a bank; see `reco.method.bank`.

    Attributes:
        mean, matrix: (c,) and (c, c), of the whitened space.
        prototypes: (concepts, n, c) unit vectors, n for every concept.
    """

    mean: Tensor
    matrix: Tensor
    prototypes: Tensor

    def whiten(self, features: Tensor) -> Tensor:
        """Unit vectors (b, c, h, w) of encoder features; see `reco.method.bank.Space`."""
        centred = features - self.mean[:, None, None]
        return unit(torch.einsum("bchw,dc->bdhw", centred, self.matrix), dim=1)


@dataclass(frozen=True)
class Knowledge:
    """What inference knows of the concepts.

    Attributes:
        references: name of a reference variant (`lgc-ce-k20`) -> (concepts, c).
        texts: (concepts, d) unit text embeddings of the dense language-image model.
        temperature: scale of the cosine in dense saliency.
        scales: of the bank, by the shorter side in pixels; empty where there is none.
    """

    references: dict[str, Tensor]
    texts: Tensor
    temperature: float
    scales: dict[int, Scale] = field(default_factory=dict)


def nearest(features: Tensor, prototypes: Tensor) -> Tensor:
    """Mean of the NEIGHBOURS largest cosines with each concept's prototypes: (b, concepts, h, w).

    Args:
        features: (b, c, h, w) whitened unit vectors.
        prototypes: (concepts, n, c) unit vectors; of fewer than NEIGHBOURS all count.
    """
    _, n, c = prototypes.shape
    positions = features.flatten(2).transpose(1, 2)
    step = max(1, COSINES // (n * positions.shape[0] * positions.shape[1]))
    found = []
    for own in prototypes.split(step):
        cosines = positions @ own.reshape(-1, c).T
        best = cosines.unflatten(2, own.shape[:2]).topk(min(NEIGHBOURS, n), dim=3).values
        found.append(best.mean(3).transpose(1, 2))
    return torch.cat(found, dim=1).unflatten(2, features.shape[2:])


def bank_scores(
    encoder_features: Tensor, dense_features: Tensor, scale: Scale, texts: Tensor
) -> Tensor:
    """Score of every concept at one scale: WEIGHT * nearest(z, prototypes) + cos(G, t).

    Args:
        encoder_features: (b, c, h, w).
        dense_features: (b, d, h', w'), of the same picture.
        texts: (concepts, d).

    Returns:
        (b, concepts, h, w), between -2.5 and 2.5.
    """
    found = WEIGHT * nearest(scale.whiten(encoder_features), scale.prototypes)
    return found + _cosine(dense_features, texts, found.shape[2:])


def _cosine(features: Tensor, vectors: Tensor, size: Sequence[int]) -> Tensor:
    """Cosine of (b, c, h, w) and (n, c), brought to (b, n, *size) where maps differ in size."""
    cosine = torch.einsum("bchw,nc->bnhw", unit(features, dim=1), unit(vectors, dim=1))
    return cosine if cosine.shape[2:] == tuple(size) else enlarge(cosine, size)


def enlarge(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear, in channels-last memory; see `similarity`."""
    maps = maps.contiguous(memory_format=torch.channels_last)
    return interpolate(maps, size=tuple(size), mode="bilinear", align_corners=False)


Views = Mapping[int, tuple[Tensor, Tensor]]
"""By the shorter side in pixels, encoder and dense features of one picture, a batch of one each."""


def predict_bank(
    views: Views, knowledge: Knowledge, methods: Sequence[Method], size: tuple[int, int]
) -> Iterator[tuple[Method, Tensor]]:
    """Yield (method, (concepts, *size)) of one picture for the steps from the paper to `seedbank`.

    All steps but the last look at the first scale alone. `whitened` is the paper's rule with the
    mean of the prototypes as the reference; `summed` adds instead of multiplying; `kept` compares
    with all prototypes.

    Args:
        views: of every scale of the bank.
        size: (height, width) of the result.
    """
    by_step: dict[str, list[Method]] = {}
    for method in methods:
        by_step.setdefault(method.recipe, []).append(method)
    for step, group in by_step.items():
        if step in ("whitened", "summed"):
            maps = _by_mean(views, knowledge, size, product=step == "whitened")
        else:
            maps = bank_maps(views, knowledge, size, all_scales=step == "seedbank")
        yield from ((method, maps) for method in group)


def bank_maps(
    views: Views, knowledge: Knowledge, size: tuple[int, int], *, all_scales: bool = True
) -> Tensor:
    """`bank_scores` (concepts, *size) of one picture: the mean over scales, or of the first."""
    scales = list(knowledge.scales.items())[: None if all_scales else 1]
    total = None
    for side, scale in scales:
        maps = enlarge(bank_scores(*views[side], scale, knowledge.texts), size)[0]
        total = maps if total is None else total.add_(maps)
    assert total is not None
    return total / len(scales)


def _by_mean(views: Views, knowledge: Knowledge, size: tuple[int, int], *, product: bool) -> Tensor:
    """The steps with one reference a concept, at the first scale."""
    side, scale = next(iter(knowledge.scales.items()))
    encoder, dense = views[side]
    whitened, references = scale.whiten(encoder), scale.prototypes.mean(1)
    if product:
        first = similarity(whitened, references, size)
        return first[0] * similarity(dense, knowledge.texts, size, knowledge.temperature)[0]
    cosine = _cosine(whitened, references, whitened.shape[2:])
    scores = WEIGHT * cosine + _cosine(dense, knowledge.texts, cosine.shape[2:])
    return enlarge(scores, size)[0]


def predict(
    encoder_features: Tensor,
    dense_features: Tensor,
    knowledge: Knowledge,
    methods: Sequence[Method],
    size: tuple[int, int],
) -> Iterator[tuple[int, Method, Tensor]]:
    """Yield (image in the batch, method, saliency (concepts, *size)), each factor computed once.

    One image at a time, and all methods of one kind of reference together, so that memory grows
    neither with the batch nor with the number of methods: 171 concepts at 320 x 320 make 67 MiB a
    map, and three are held. Methods that differ in the CRF alone give the same maps.

    Args:
        encoder_features: (b, c, h, w).
        dense_features: (b, d, h', w').
        size: (height, width) of the result.
    """
    by_reference: dict[str, list[Method]] = {}
    for method in methods:
        name = "" if method.kind == "denseclip" else method.reference_name
        by_reference.setdefault(name, []).append(method)
    images = zip(encoder_features.split(1), dense_features.split(1), strict=True)
    for i, (encoder, dense) in enumerate(images):
        second = similarity(dense, knowledge.texts, size, knowledge.temperature)[0]
        for name, group in by_reference.items():
            if not name:
                yield from ((i, method, second) for method in group)
                continue
            maps = similarity(encoder, knowledge.references[name], size)[0]
            yield from ((i, method, maps) for method in group if method.kind == "reference")
            both = [method for method in group if method.kind != "reference"]
            if both:
                maps = maps * second  # not in place: the caller may have kept the first factor
                yield from ((i, method, maps) for method in both)


def least_salient(maps: Tensor, share: float) -> np.ndarray:
    """(H, W) bool: the `share` of pixels at which no concept of (concepts, H, W) is salient."""
    best = maps.amax(0)
    rank = max(1, round(share * best.numel()))
    return (best <= best.flatten().kthvalue(rank).values).cpu().numpy()
