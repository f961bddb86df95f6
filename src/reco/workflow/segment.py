"""Segment: the concept of every pixel, from reference embeddings and dense saliency (section 3.3).

Maps are made in this process; each image's CRFs run in worker processes meanwhile.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate
from torch.nn.functional import normalize as unit

from reco.config import CRF
from reco.data.folder import IGNORE, read_table, write_labels
from reco.device import resolve_device
from reco.errors import RecoError
from reco.experiment import Experiment, Method
from reco.files import read_tensors
from reco.method.bank import Space
from reco.method.refine import refine, shrink, use_one_thread
from reco.progress import LOG, track
from reco.work import is_whole, publish, working_folder
from reco.workflow.bank import read_spaces
from reco.workflow.embed import slice_of
from reco.workflow.views import see

NEAREST = 3  # prototypes that a position is compared with
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
    """Mean of the NEAREST largest cosines with each concept's prototypes: (b, concepts, h, w).

    Args:
        features: (b, c, h, w) whitened unit vectors.
        prototypes: (concepts, n, c) unit vectors; of fewer than NEAREST all count.
    """
    _, n, c = prototypes.shape
    positions = features.flatten(2).transpose(1, 2)
    step = max(1, COSINES // (n * positions.shape[0] * positions.shape[1]))
    found = []
    for own in prototypes.split(step):
        cosines = positions @ own.reshape(-1, c).T
        best = cosines.unflatten(2, own.shape[:2]).topk(min(NEAREST, n), dim=3).values
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
        name = "" if method.method == "denseclip" else method.reference_name
        by_reference.setdefault(name, []).append(method)
    images = zip(encoder_features.split(1), dense_features.split(1), strict=True)
    for i, (encoder, dense) in enumerate(images):
        second = similarity(dense, knowledge.texts, size, knowledge.temperature)[0]
        for name, group in by_reference.items():
            if not name:
                yield from ((i, method, second) for method in group)
                continue
            maps = similarity(encoder, knowledge.references[name], size)[0]
            yield from ((i, method, maps) for method in group if method.method == "reference")
            both = [method for method in group if method.method != "reference"]
            if both:
                maps = maps * second  # not in place: the caller may have kept the first factor
                yield from ((i, method, maps) for method in both)


QUEUE_BYTES = 256 << 20  # of probabilities that wait for a CRF; one image per process at least


class MaskWriter:
    """Writes label masks, those with a CRF through a pool of processes.

    For 171 concepts at 320 x 320 each process needs 0.6 GiB beside its libraries.

    Args:
        folder: masks go to `<folder>/<method>/<name>`.
        labels: (concepts,) label id of every concept.
        settings: of the CRF.
        workers: processes for the CRF.
    """

    def __init__(self, folder: Path, labels: np.ndarray, settings: CRF, workers: int) -> None:
        self.folder, self.labels, self.settings = folder, labels, settings
        # spawn: a fork of a process that runs a network's threads can hang.
        self._pool = ProcessPoolExecutor(workers, get_context("spawn"), use_one_thread)
        self._waiting: list[tuple[Path, Future[np.ndarray], np.ndarray | None]] = []
        self._workers = workers

    def write(self, method: Method, name: str, maps: Tensor) -> None:
        """Write the argmax of (concepts, height, width) maps."""
        self._save(self.folder / method.slug / name, maps.argmax(0).cpu().numpy())

    def write_refined(
        self,
        method: Method,
        name: str,
        image: np.ndarray,
        probabilities: Tensor,
        ignored: np.ndarray | None = None,
    ) -> None:
        """Queue the CRF of one image: (H, W, 3) uint8 RGB and (concepts, H, W).

        Pixels of `ignored` (H, W) are written as the ignore value.
        """
        small = shrink(probabilities, self.settings.size).contiguous().cpu().numpy()
        task = self._pool.submit(refine, image, small, self.settings)
        self._waiting.append((self.folder / method.slug / name, task, ignored))
        most = max(self._workers, min(4 * self._workers, QUEUE_BYTES // small.nbytes))
        while len(self._waiting) > most:
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
        path, task, ignored = self._waiting.pop(0)
        self._save(path, task.result(), ignored)

    def _save(self, path: Path, concepts: np.ndarray, ignored: np.ndarray | None = None) -> None:
        labels = self.labels[concepts]
        write_labels(path, labels if ignored is None else np.where(ignored, IGNORE, labels))


@contextmanager
def mask_writer(
    folder: Path, labels: np.ndarray, settings: CRF, workers: int
) -> Iterator[MaskWriter]:
    """A `MaskWriter` that finishes its queue at the end, or drops it on an error.

    Meanwhile this process uses half as many threads as there are workers: the threads of one
    operation wait for each other, so a network with a thread per core crawls beside busy workers.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, workers // 2))
    writer = MaskWriter(folder, labels, settings, workers)
    try:
        yield writer
        writer.close()
    except BrokenProcessPool:
        raise RecoError(
            "a process that runs the CRF was killed, most likely for lack of memory: run again "
            "with fewer cores, or lower crf.size in the config"
        ) from None
    except BaseException:
        writer.cancel()
        raise
    finally:
        torch.set_num_threads(threads)


def segment(
    images: Iterable[tuple[str, np.ndarray, Views]],
    knowledge: Knowledge,
    methods: Sequence[Method],
    writer: MaskWriter,
    keep: float = 1.0,
) -> Iterator[str]:
    """Segment images with every method; yields the name of each mask that is done or queued.

    Args:
        images: name of the mask, (H, W, 3) uint8 RGB picture in the size of the result, and its
            views: at its own size for the paper's methods, at the scales of the bank for others.
        methods: by the paper's recipe, and steps of the other one.
        keep: share of each image's pixels, the most salient ones, that get a label in masks after
            a CRF; the others are ignored.
    """
    paper = [method for method in methods if method.recipe == "paper"]
    banked = [method for method in methods if method.recipe != "paper"]
    for name, picture, views in images:
        with torch.inference_mode():
            size = (picture.shape[0], picture.shape[1])
            for method, maps in _predict_picture(views, knowledge, paper, banked, size):
                if method.crf:
                    ignored = least_salient(maps, 1 - keep) if keep < 1 else None
                    writer.write_refined(method, name, picture, maps.softmax(0), ignored)
                else:
                    writer.write(method, name, maps)
        yield name


def _predict_picture(
    views: Views,
    knowledge: Knowledge,
    paper: Sequence[Method],
    banked: Sequence[Method],
    size: tuple[int, int],
) -> Iterator[tuple[Method, Tensor]]:
    if paper:
        for _, method, maps in predict(*views[min(size)], knowledge, paper, size):
            yield method, maps
    if banked:
        yield from predict_bank(views, knowledge, banked, size)


def least_salient(maps: Tensor, share: float) -> np.ndarray:
    """(H, W) bool: the `share` of pixels at which no concept of (concepts, H, W) is salient."""
    best = maps.amax(0)
    rank = max(1, round(share * best.numel()))
    return (best <= best.flatten().kthvalue(rank).values).cpu().numpy()


def segment_split(
    experiment: Experiment,
    role: str,
    images: Path,
    methods: Sequence[Method],
    masks: Path,
    workers: int,
    keep: float = 1.0,
    *,
    features: Path | None = None,
    part: str | None = None,
) -> None:
    """Segment the images of a split; masks that an earlier call made before it was killed stay.

    Args:
        role: train or val.
        images: CSV of `reco catalog-split` (image, prediction).
        methods: what to predict; masks go to `<masks>/<method>/<prediction>`, label ids as values.
        workers: processes for the CRF.
        keep: see `segment`.
        features: CSV of `reco embed-split`; None = no features were kept.
        part: `3-of-8`: the third of 8 slices, whose masks stay in the working folder (see
            `reco.work`); None = all of them, and the folder gets its name.
    """
    config, rows = experiment.config, read_table(images)
    texts = [experiment.text(concept.slug) for concept in experiment.targets]
    files = [str(images), *experiment.learned_by(methods), *texts]
    work = working_folder(masks, [keep, experiment.segment_state(methods, files)])
    own = slice_of(rows, part) if part else rows
    todo = [
        row
        for row in own
        if not is_whole(work / method.slug / row["prediction"] for method in methods)
    ]
    what = f"segment {role}"
    LOG.info("%s: %d of %d images to segment", what, len(todo), len(own))
    if todo:
        device = resolve_device(config.device)
        with mask_writer(work, experiment.target_labels, config.crf, workers) as writer:
            knowledge = read_knowledge(experiment, device, methods)
            seen = see(experiment, role, todo, experiment.sides(role), features)
            done = segment(pairs(seen), knowledge, methods, writer, keep)
            for _ in track(done, what, total=len(todo)):
                pass
    if not part:
        publish(work, masks)


def pairs(
    seen: Iterable[tuple[str, np.ndarray, Mapping[int, tuple[Tensor, ...]]]],
) -> Iterator[tuple[str, np.ndarray, Views]]:
    """What `reco.workflow.views.see` gives, as `segment` takes it: encoder and dense features."""
    for name, picture, views in seen:
        yield name, picture, {side: (view[0], view[1]) for side, view in views.items()}


def read_knowledge(experiment: Experiment, device: str, methods: Sequence[Method]) -> Knowledge:
    """What some methods know of all target concepts, on a device."""

    def stack(files: Sequence[Mapping[str, np.ndarray]], name: str) -> Tensor:
        return torch.from_numpy(np.stack([file[name] for file in files])).to(device)

    slugs = [concept.slug for concept in experiment.targets]
    references, scales = {}, {}
    if any(method.referenced for method in methods):
        files = [read_tensors(experiment.reference(slug)) for slug in slugs]
        names = [variant.reference_name for variant in experiment.reference_variants]
        references = {name: stack(files, f"{name}.reference") for name in names}
    if any(method.banked for method in methods):
        files = [read_tensors(experiment.bank(slug)) for slug in slugs]
        scales = {
            side: read_scale(space, stack(files, f"{side}.prototypes"))
            for side, space in read_spaces(
                experiment.whitening, experiment.config.bank.scales
            ).items()
        }
    texts = stack([read_tensors(experiment.text(slug)) for slug in slugs], "dense")
    return Knowledge(references, texts, experiment.config.temperature, scales)


def read_scale(space: Space, prototypes: Tensor) -> Scale:
    """A scale of a bank, beside the prototypes."""
    mean, matrix = (torch.from_numpy(x).to(prototypes.device) for x in (space.mean, space.matrix))
    return Scale(mean, matrix, prototypes)
