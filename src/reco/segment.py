"""Segment: the concept of every pixel, from reference embeddings and dense saliency (section 3.3).

Networks run in batches in this process; each image's CRFs run in worker processes meanwhile.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate
from torch.nn.functional import normalize as unit

from reco.crf import refine
from reco.experiment import Method
from reco.folder import write_labels


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
    released code.

    Args:
        encoder_features: (b, c, h, w).
        references: (concepts, c) reference embeddings.
        dense_features: (b, d, h', w'), or None to leave the second factor out.
        texts: (concepts, d) unit text embeddings; not needed without dense features.
        size: (height, width) of the result.

    Returns:
        (b, concepts, height, width), on the device of the features.
    """
    encoder_features, references = torch.as_tensor(encoder_features), torch.as_tensor(references)
    maps = similarity(encoder_features, references, size)
    if dense_features is not None:
        dense_features, texts = torch.as_tensor(dense_features), torch.as_tensor(texts)
        maps = maps * similarity(dense_features, texts, size, temperature)
    return maps


def similarity(
    features: Tensor, vectors: Tensor, size: tuple[int, int], temperature: float = 1.0
) -> Tensor:
    """sigmoid(temperature * cosine) of (b, c, h, w) and (n, c), resized to (b, n, *size)."""
    cosine = torch.einsum("bchw,nc->bnhw", unit(features, dim=1), unit(vectors, dim=1))
    squashed = torch.sigmoid(temperature * cosine)
    return interpolate(squashed, size=size, mode="bilinear", align_corners=False)


@dataclass(frozen=True)
class Knowledge:
    """What inference knows of the concepts.

    Attributes:
        references: name of a reference variant (`lgc-ce-k20`) -> (concepts, c).
        texts: (concepts, d) unit text embeddings of the dense language-image model.
        labels: (concepts,) int, label id that stands for each concept in a mask.
        temperature: scale of the cosine in dense saliency.
    """

    references: dict[str, Tensor]
    texts: Tensor
    labels: np.ndarray
    temperature: float


def predict(
    encoder_features: Tensor,
    dense_features: Tensor,
    knowledge: Knowledge,
    methods: Sequence[Method],
    size: tuple[int, int],
) -> Iterator[tuple[Method, Tensor]]:
    """Yield the saliency (b, concepts, *size) of every method, each factor computed once.

    Methods that differ in the CRF alone give the same maps.
    """
    dense = similarity(dense_features, knowledge.texts, size, knowledge.temperature)
    factors: dict[str, Tensor] = {}
    for method in methods:
        if method.method == "denseclip":
            yield method, dense
            continue
        name = reference_name(method)
        if name not in factors:
            factors[name] = similarity(encoder_features, knowledge.references[name], size)
        yield method, factors[name] if method.method == "reference" else factors[name] * dense


def reference_name(method: Method) -> str:
    """The reference variant that a method uses, such as `lgc-ce-k20`."""
    flags = [flag for flag in ("lgc", "ce") if getattr(method, flag)]
    return "-".join([*flags, f"k{method.archive_size}"])


class MaskWriter:
    """Writes label masks, those with a CRF through a pool of processes.

    Args:
        folder: masks go to `<folder>/<method>/<name>`.
        labels: (concepts,) label id of every concept.
        settings: arguments of `reco.crf.refine`.
        workers: processes for the CRF.
    """

    def __init__(
        self, folder: Path, labels: np.ndarray, settings: dict[str, Any], workers: int
    ) -> None:
        self.folder, self.labels, self.settings = folder, labels, settings
        # spawn: a fork of a process that runs a network's threads can hang.
        self._pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"))
        self._waiting: list[tuple[Path, Future[np.ndarray]]] = []
        self._most = 4 * workers

    def write(self, method: Method, name: str, maps: np.ndarray) -> None:
        """Write the argmax of (concepts, height, width) maps."""
        self._save(self.folder / method.slug / name, maps.argmax(0))

    def write_refined(
        self, method: Method, name: str, image: np.ndarray, probabilities: np.ndarray
    ) -> None:
        """Queue the CRF of one image: (H, W, 3) uint8 RGB and (concepts, H, W)."""
        half = probabilities.astype(np.float16)  # what travels to the worker
        task = self._pool.submit(refine, image, half, **self.settings)
        self._waiting.append((self.folder / method.slug / name, task))
        while len(self._waiting) > self._most:
            self._finish_one()

    def close(self) -> None:
        """Finish what is queued."""
        while self._waiting:
            self._finish_one()
        self._pool.shutdown()

    def cancel(self) -> None:
        """Drop what is queued."""
        self._pool.shutdown(cancel_futures=True)

    def _finish_one(self) -> None:
        path, task = self._waiting.pop(0)
        self._save(path, task.result())

    def _save(self, path: Path, concepts: np.ndarray) -> None:
        write_labels(path, self.labels[concepts])


@contextmanager
def mask_writer(
    folder: Path, labels: np.ndarray, settings: dict[str, Any], workers: int
) -> Iterator[MaskWriter]:
    """A `MaskWriter` that finishes its queue at the end, or drops it on an error."""
    writer = MaskWriter(folder, labels, settings, workers)
    try:
        yield writer
    except BaseException:
        writer.cancel()
        raise
    writer.close()


def segment(
    batches: Iterable[tuple[Sequence[tuple[str, np.ndarray]], Tensor]],
    encode: Callable[[Tensor], tuple[Tensor, Tensor]],
    knowledge: Knowledge,
    methods: Sequence[Method],
    writer: MaskWriter,
) -> Iterator[str]:
    """Segment images with every method; yields the name of each image that is done.

    Args:
        batches: ((mask name, (H, W, 3) uint8 image) of each image, (b, 3, H, W) network input).
        encode: network input -> (encoder features, dense features).
    """
    for items, pixels in batches:
        encoder, dense = encode(pixels)
        size = items[0][1].shape[:2]
        for i, (name, image) in enumerate(items):
            one = slice(i, i + 1)
            for method, maps in predict(encoder[one], dense[one], knowledge, methods, size):
                if method.crf:
                    probabilities = maps[0].softmax(0).cpu().numpy()
                    writer.write_refined(method, name, image, probabilities)
                else:
                    writer.write(method, name, maps[0].cpu().numpy())
            yield name
