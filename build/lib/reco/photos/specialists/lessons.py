"""Lessons: what a specialist learns from, which are ReCo's own masks."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from PIL import Image

from reco.concepts import parse_concepts
from reco.config import Train
from reco.data.folder import write_labels
from reco.data.images import read_image
from reco.errors import RecoError
from reco.experiment import Experiment
from reco.files import sha256
from reco.method.metrics import IGNORE
from reco.models.packaged import convert
from reco.photos.learned import Learned
from reco.photos.picture import fit
from reco.photos.segmenter import Segmenter
from reco.photos.specialists.specialist import CONCEPT, Description, Example
from reco.photos.specialists.trained import Trained
from reco.progress import LOG, track
from reco.revision import read_revision
from reco.workflow.deeplab import PACKAGED_WEIGHTS, build, normalisation, starting_weights
from reco.workflow.train import train

ITERATIONS = 100
VERSIONED = ("numpy", "pillow", "segmentation-models-pytorch", "timm", "torch", "torchvision")


@dataclass(frozen=True)
class Lesson:
    """An image to learn from, at the size at which networks see it.

    Attributes:
        picture: (h, w, 3) uint8.
        labels: (h, w) int32, 1 = the concept, 0 = background, -1 = not learned from.
    """

    picture: np.ndarray
    labels: np.ndarray


def learn_one(segmenter: Segmenter, word: str, *, doubtful: bool = False) -> Learned:
    """What a segmenter learns of one word.

    Raises:
        RecoError: not one word, or its archive is in doubt (see `reco.method.doubt`) and `doubtful`
            is not set.
    """
    check_word(word)
    (learned,) = segmenter.learn(word)
    if learned.doubt and not doubtful:
        raise RecoError(f"{learned.doubt}; --doubtful trains all the same")
    if learned.doubt:
        LOG.warning("%s", learned.doubt)
    return learned


def check_word(word: str) -> None:
    """Raise RecoError unless a text names one concept."""
    concepts = parse_concepts(word)
    if len(concepts) > 1:
        names = ", ".join(repr(concept.name) for concept in concepts)
        raise RecoError(f"a specialist knows one concept, these are {len(concepts)}: {names}")


def make_lessons(segmenter: Segmenter, learned: Learned) -> tuple[list[Lesson], list[Lesson]]:
    """ReCo's masks of a concept's archive, and of images without it as many, if there are."""
    size = segmenter.config.sizes.benchmark

    def shrunk(path: Path) -> Lesson:
        picture = np.array(fit(read_image(path), size))
        return Lesson(picture, np.zeros(picture.shape[:2], np.int32))

    def masked(path: Path) -> Lesson:
        lesson = shrunk(path)
        found = segmenter.segment(path, [learned.concept], background=True, doubtful=True)
        salient = found.maps[0]
        labels = Image.fromarray(found.labels).resize(salient.shape[::-1], Image.Resampling.NEAREST)
        inside = np.asarray(labels) == 0
        least = np.median(salient[inside]) if inside.any() else 0.0
        sure = np.where(salient >= least, CONCEPT, IGNORE)
        return Lesson(lesson.picture, np.where(inside, sure, 0).astype(np.int32))

    archive = [item.path for item in learned.archive]
    others = learned.unlike[: len(archive)]
    shown = [masked(path) for path in track(archive, "segment the archive")]
    return shown, [shrunk(path) for path in others]


def teach(
    segmenter: Segmenter, learned: Learned, lessons: Sequence[Lesson], iterations: int = ITERATIONS
) -> tuple[Trained, list[tuple[int, float, float]]]:
    """Train a specialist; about a minute on two cores.

    Returns:
        it, and (step, loss, learning rate) of every step.

    Raises:
        RecoError: the loss is not finite.
    """
    config = segmenter.config
    settings = (config.train or Train()).model_copy(update={"iterations": iterations})
    if settings.encoder == "packaged" and not Path(PACKAGED_WEIGHTS).exists():
        convert(Path(PACKAGED_WEIGHTS).parent)
    torch.manual_seed(config.seed)
    network = build(settings.encoder, starting_weights(settings), 2)
    with TemporaryDirectory(prefix="reco-specialist-") as folder:
        pairs = [_write(lesson, Path(folder), i) for i, lesson in enumerate(lessons)]
        steps = train(network, pairs, settings, seed=config.seed, device=segmenter.device)
        curve = list(track(steps, "train", total=iterations, unit="step"))
    network.eval()
    described = _describe(segmenter, learned, settings, len(lessons))
    return Trained(described, network, segmenter.device), curve


def _write(lesson: Lesson, folder: Path, number: int) -> tuple[Path, Path]:
    picture, labels = folder / f"{number}.png", folder / f"{number}.labels.png"
    Image.fromarray(lesson.picture).save(picture)
    write_labels(labels, lesson.labels)
    return picture, labels


def _describe(segmenter: Segmenter, learned: Learned, settings: Train, lessons: int) -> Description:
    config, root = segmenter.config, Experiment(segmenter.config).index_root
    statistics = normalisation(settings.encoder)
    archive = [item.path for item in learned.archive]

    def examples(paths: Iterable[Path]) -> list[Example]:
        return [
            Example(path=path.relative_to(root).as_posix(), sha256=sha256(path)) for path in paths
        ]

    return Description(
        word=learned.concept.name,
        encoder=settings.encoder,
        mean=tuple(statistics.mean),
        std=tuple(statistics.std),
        size=config.sizes.benchmark,
        crf=config.crf,
        train=settings,
        seed=config.seed,
        doubt=learned.doubt,
        index=str(root),
        archive=examples(archive),
        unlike=examples(learned.unlike[: lessons - len(archive)]),
        weights="",
        code=str(read_revision() or "not in a git checkout"),
        versions={name: metadata.version(name) for name in VERSIONED},
    )
