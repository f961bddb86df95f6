"""Segment: the concept of every pixel, from reference embeddings and dense saliency (section 3.3),
or from a bank of seeds (docs/recipe.md)."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from reco.method.bank import Space
from reco.method.maps import normalise, resize, sigmoid
from reco.method.variants import Method

NEIGHBOURS = 3  # prototypes that a position is compared with
WEIGHT = 1.5  # of their cosine beside the text's
COSINES = 1 << 24  # that are held at a time: 64 MiB


def saliency(
    encoder_features: np.ndarray,
    references: np.ndarray,
    dense_features: np.ndarray | None,
    texts: np.ndarray | None,
    size: tuple[int, int],
    *,
    temperature: float = 10.0,
) -> np.ndarray:
    """Saliency of every concept: sigmoid(cos(F, r)) times sigmoid(temperature cos(G, t)).

    Each factor is squashed first and resized after (bilinear, corners not aligned), as in the
    released code. The second factor alone, which is DenseCLIP, is `similarity` of it.

    Args:
        encoder_features: (b, c, h, w).
        references: (concepts, c) reference embeddings.
        dense_features: (b, d, h', w'), or None to leave the second factor out.
        texts: (concepts, d) unit text embeddings; not needed without dense features.
        size: (height, width) of the result.

    Returns:
        (b, concepts, height, width) float32. For many images and concepts `predict` needs less
        memory.
    """
    maps = similarity(encoder_features, references, size)
    if dense_features is not None:
        assert texts is not None
        for own, dense in zip(maps, dense_features, strict=True):  # one at a time, for the memory
            own *= similarity(dense[None], texts, size, temperature)[0]
    return maps


def similarity(
    features: np.ndarray, vectors: np.ndarray, size: tuple[int, int], temperature: float = 1.0
) -> np.ndarray:
    """sigmoid(temperature * cosine) of (b, c, h, w) and (n, c), resized to (b, n, *size)."""
    return resize(sigmoid(temperature * cosine(features, vectors)), size)


def cosine(features: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Cosine of every position and vector: (b, c, h, w) and (n, c) -> (b, n, h, w) float32."""
    return project(normalise(np.asarray(features, np.float32), axis=1), normalise(vectors))


def project(maps: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """A matrix (n, c) times every position: (b, c, h, w) -> (b, n, h, w)."""
    b, _, h, w = maps.shape
    return (matrix @ maps.reshape(b, -1, h * w)).reshape(b, len(matrix), h, w)


@dataclass(frozen=True)
class Scale:
    """What inference knows of the concepts at one scale of a bank; see `reco.method.bank`.

    Attributes:
        space: the whitened space.
        prototypes: (concepts, n, c) unit vectors, n for every concept.
    """

    space: Space
    prototypes: np.ndarray


@dataclass(frozen=True)
class Knowledge:
    """What inference knows of the concepts.

    Attributes:
        references: name of a reference variant (`lgc-ce-k20`) -> (concepts, c).
        texts: (concepts, d) unit text embeddings of the dense language-image model.
        temperature: scale of the cosine in dense saliency.
        scales: of the bank, by the shorter side in pixels; empty where there is none.
    """

    references: dict[str, np.ndarray]
    texts: np.ndarray
    temperature: float
    scales: dict[int, Scale] = field(default_factory=dict)


def nearest(features: np.ndarray, prototypes: np.ndarray) -> np.ndarray:
    """Mean of the NEIGHBOURS largest cosines with each concept's prototypes: (b, concepts, h, w).

    Args:
        features: (b, c, h, w) whitened unit vectors.
        prototypes: (concepts, n, c) unit vectors; of fewer than NEIGHBOURS all count.
    """
    (concepts, n, c), (b, _, h, w) = prototypes.shape, features.shape
    found = np.empty((b, concepts, h * w), np.float32)
    step, best = max(1, COSINES // (n * h * w)), min(NEIGHBOURS, n)
    for picture, own in zip(features.reshape(b, c, h * w), found, strict=True):
        for start in range(0, concepts, step):
            some = prototypes[start : start + step]
            cosines = (some.reshape(-1, c) @ picture).reshape(len(some), n, h * w)
            own[start : start + step] = np.partition(cosines, n - best, 1)[:, n - best :].mean(1)
    return found.reshape(b, concepts, h, w)


def bank_scores(
    encoder_features: np.ndarray, dense_features: np.ndarray, scale: Scale, texts: np.ndarray
) -> np.ndarray:
    """Score of every concept at one scale: WEIGHT * nearest(z, prototypes) + cos(G, t).

    Args:
        encoder_features: (b, c, h, w).
        dense_features: (b, d, h', w'), of the same picture.
        texts: (concepts, d).

    Returns:
        (b, concepts, h, w), between -2.5 and 2.5.
    """
    found = WEIGHT * nearest(scale.space.whiten(encoder_features), scale.prototypes)
    return found + _beside(cosine(dense_features, texts), found.shape[2:])


def _beside(maps: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Maps in a size, which they may have already."""
    return maps if maps.shape[2:] == tuple(size) else resize(maps, size)


Views = Mapping[int, tuple[np.ndarray, np.ndarray]]
"""By the shorter side in pixels, encoder and dense features of one picture, a batch of one each."""


def predict_bank(
    views: Views, knowledge: Knowledge, methods: Sequence[Method], size: tuple[int, int]
) -> Iterator[tuple[Method, np.ndarray]]:
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
) -> np.ndarray:
    """`bank_scores` (concepts, *size) of one picture: the mean over scales, or of the first."""
    scales = list(knowledge.scales.items())[: None if all_scales else 1]
    total = None
    for side, scale in scales:
        maps = resize(bank_scores(*views[side], scale, knowledge.texts), size)[0]
        total = maps if total is None else np.add(total, maps, out=total)
    assert total is not None
    return total / len(scales)


def _by_mean(
    views: Views, knowledge: Knowledge, size: tuple[int, int], *, product: bool
) -> np.ndarray:
    """The steps with one reference a concept, at the first scale."""
    side, scale = next(iter(knowledge.scales.items()))
    encoder, dense = views[side]
    whitened, references = scale.space.whiten(encoder), scale.prototypes.mean(1)
    if product:
        first = similarity(whitened, references, size)
        return first[0] * similarity(dense, knowledge.texts, size, knowledge.temperature)[0]
    scores = WEIGHT * cosine(whitened, references)
    return resize(scores + _beside(cosine(dense, knowledge.texts), scores.shape[2:]), size)[0]


def predict(
    encoder_features: np.ndarray,
    dense_features: np.ndarray,
    knowledge: Knowledge,
    methods: Sequence[Method],
    size: tuple[int, int],
) -> Iterator[tuple[int, Method, np.ndarray]]:
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
    images = zip(encoder_features, dense_features, strict=True)
    for i, (encoder, dense) in enumerate(images):
        second = similarity(dense[None], knowledge.texts, size, knowledge.temperature)[0]
        for name, group in by_reference.items():
            if not name:
                yield from ((i, method, second) for method in group)
                continue
            maps = similarity(encoder[None], knowledge.references[name], size)[0]
            yield from ((i, method, maps) for method in group if method.kind == "reference")
            both = [method for method in group if method.kind != "reference"]
            if both:
                maps = maps * second  # not in place: the caller may have kept the first factor
                yield from ((i, method, maps) for method in both)


def least_salient(maps: np.ndarray, share: float) -> np.ndarray:
    """(H, W) bool: the `share` of pixels at which no concept of (concepts, H, W) is salient.

    Of pixels that are alike none is told from the others: where the picture is flat, it is none.
    """
    best = maps.max(0)
    rank = min(round(share * best.size), best.size - 1)
    return best < np.partition(best, rank, axis=None)[rank]
