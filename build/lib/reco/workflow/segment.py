"""Segment: the concept of every pixel, from reference embeddings and dense saliency (section 3.3).

Maps are made in this process; each image's CRFs run in worker processes meanwhile.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from reco.data.split import Row
from reco.data.tables import read_table
from reco.experiment import Experiment
from reco.files import read_tensors
from reco.method.maps import softmax
from reco.method.segment import Knowledge, Scale, Views, least_salient, predict, predict_bank
from reco.method.variants import Method
from reco.progress import LOG, track
from reco.work import is_whole, publish, working_folder
from reco.workflow.bank import read_spaces
from reco.workflow.embed import slice_of
from reco.workflow.masks import MaskWriter, mask_writer
from reco.workflow.views import see


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
        size = (picture.shape[0], picture.shape[1])
        for method, maps in _predict_picture(views, knowledge, paper, banked, size):
            if method.crf:
                ignored = least_salient(maps, 1 - keep) if keep < 1 else None
                writer.write_refined(method, name, picture, softmax(maps), ignored)
            else:
                writer.write(method, name, maps)
        yield name


def _predict_picture(
    views: Views,
    knowledge: Knowledge,
    paper: Sequence[Method],
    banked: Sequence[Method],
    size: tuple[int, int],
) -> Iterator[tuple[Method, np.ndarray]]:
    if paper:
        for _, method, maps in predict(*views[min(size)], knowledge, paper, size):
            yield method, maps
    if banked:
        yield from predict_bank(views, knowledge, banked, size)


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
    todo = unfinished(own, methods, work)
    what = f"segment {role}"
    LOG.info("%s: %d of %d images to segment", what, len(todo), len(own))
    if todo:
        with mask_writer(work, experiment.target_labels, config.crf, workers) as writer:
            knowledge = read_knowledge(experiment, methods)
            seen = see(experiment, role, todo, experiment.sides(role), features)
            done = segment(as_views(seen), knowledge, methods, writer, keep)
            for _ in track(done, what, total=len(todo)):
                pass
    if not part:
        publish(work, masks)


def unfinished(rows: Sequence[Row], methods: Sequence[Method], work: Path) -> list[Row]:
    """The images of a split that lack the mask of a method in a working folder."""
    return [
        row
        for row in rows
        if not is_whole(work / method.slug / row["prediction"] for method in methods)
    ]


def as_views(
    seen: Iterable[tuple[str, np.ndarray, Mapping[int, tuple[np.ndarray, ...]]]],
) -> Iterator[tuple[str, np.ndarray, Views]]:
    """What `reco.workflow.views.see` gives, its tuples of both outputs as pairs: see `Views`."""
    for name, picture, views in seen:
        yield name, picture, {side: (view[0], view[1]) for side, view in views.items()}


def read_knowledge(experiment: Experiment, methods: Sequence[Method]) -> Knowledge:
    """What some methods know of all target concepts."""

    def stack(files: Sequence[Mapping[str, np.ndarray]], name: str) -> np.ndarray:
        return np.stack([file[name] for file in files])

    slugs = [concept.slug for concept in experiment.targets]
    references, scales = {}, {}
    if any(method.referenced for method in methods):
        files = [read_tensors(experiment.reference(slug)) for slug in slugs]
        names = [variant.reference_name for variant in experiment.reference_variants]
        references = {name: stack(files, f"{name}.reference") for name in names}
    if any(method.banked for method in methods):
        files = [read_tensors(experiment.bank(slug)) for slug in slugs]
        scales = {
            side: Scale(space, stack(files, f"{side}.prototypes"))
            for side, space in read_spaces(
                experiment.whitening, experiment.config.bank.scales
            ).items()
        }
    texts = stack([read_tensors(experiment.text(slug)) for slug in slugs], "dense")
    return Knowledge(references, texts, experiment.config.temperature, scales)
