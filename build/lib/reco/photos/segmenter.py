"""Segmenter: photographs in, masks of words out, in one process that keeps what it has loaded.

`reco.load` makes one. It goes the way of the workflow (text, retrieve, features, cosegment,
segment) with the workflow's own functions and files: a reference that a run has made is read, not
made again, and the other way round.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from reco import models
from reco.concepts import Concept, parse_concepts
from reco.config import Config
from reco.device import resolve_device
from reco.errors import RecoError
from reco.experiment import Experiment
from reco.files import open_array
from reco.method.background import RANGE, extent
from reco.method.maps import softmax
from reco.method.metrics import IGNORE
from reco.method.refine import largest, mean_field, shrink
from reco.method.segment import WEIGHT, Knowledge, Scale, bank_maps, saliency
from reco.models import keeping_loader
from reco.photos.index import Index, check_index, embed_index, find_config, with_folder
from reco.photos.learned import Learned, make_files, read_learned
from reco.photos.picture import Picture, as_picture, fit
from reco.photos.result import Segmentation
from reco.workflow.views import load_encoder

Words = str | Concept | Iterable[str | Concept]


def load(
    experiment: str | None = None,
    *,
    index: str | Path | None = None,
    config: str | Path | Config | None = None,
    archive_size: int | None = None,
) -> "Segmenter":
    """A segmenter that learns words from the images of an index.

    Relative paths are those of the project's folder, so run it there; with an index, any folder
    will do.

    Args:
        experiment: whose index and settings are used, as its last run recorded them; None =
            stamps, and without a project, with an index, the defaults.
        index: a folder of photographs to learn from instead, of any kind, at any depth. It is
            embedded once, and again when its files change.
        config: a config file, or a config, instead of the experiment's.
        archive_size: images to learn a concept from; None = as in the config, or fewer where the
            index is small.

    Raises:
        RecoError: no such experiment, or its index was not embedded yet, or by another model; no
            images.
    """
    settings = find_config(experiment, config, indexed=index is not None)
    if archive_size is not None and archive_size < 1:
        raise RecoError(f"archive size {archive_size}: must be at least 1")
    loader = keeping_loader()
    if index is None:
        check_index(Experiment(settings))
    else:
        settings = with_folder(settings, Path(index))
        embed_index(Experiment(settings), loader)
    return Segmenter(_fit_archives(settings, archive_size), loader)


def _fit_archives(config: Config, wanted: int | None) -> Config:
    """A config with archives of a wanted size, or of its own, but no larger than the index."""
    usable = len(open_array(Experiment(config).embeddings))
    if config.banked:
        bank = {"size": min(wanted or config.bank.size, usable)}
        return config.model_copy(update={"bank": config.bank.model_copy(update=bank)})
    if wanted or usable < max(config.all_archive_sizes):
        size = min(wanted or config.archive_size, usable)
        return config.model_copy(update={"archive_size": size, "archive_sizes": []})
    return config


class Segmenter:
    """Learns words from an index and segments photographs with them; see `load`.

    Args:
        config: of the index, the models and the method; its concepts are known with their aliases.
        loader: `reco.models.load`, or a function like it that keeps what it has loaded.
    """

    def __init__(self, config: Config, loader: models.Loader) -> None:
        self.config, self._loader = config, loader
        self._index = Index(Experiment(config), loader)
        self.device = resolve_device(config.device)
        self._known: dict[str, Learned] = {}
        written = [] if config.concepts is None else Experiment(config).targets
        self._written = {
            concept.name.casefold(): concept for concept in [*config.context, *written]
        }

    # ---- words --------------------------------------------------------------------------------

    def concepts(self, words: Words) -> list[Concept]:
        """The concepts that words stand for, those of the config with their aliases.

        Args:
            words: names, or text with commas between them. One that is given twice stands once.

        Raises:
            RecoError: none, a name that is too long, or two that would share their files.
        """
        return [
            self._written.get(concept.name.casefold(), concept)
            if concept == Concept(name=concept.name)
            else concept
            for concept in parse_concepts(words)
        ]

    @property
    def targets(self) -> list[Concept]:
        """The concepts of the config."""
        return Experiment(self.config).targets

    def learn(self, words: Words) -> list[Learned]:
        """Retrieve and co-segment what is not known yet; seconds a word.

        Raises:
            RecoError: see `concepts`.
        """
        concepts = self.concepts(words)
        plan = self._plan(concepts)
        marks = {concept.slug: plan.best_source(concept.slug) for concept in concepts}
        unknown = [concept for concept in concepts if marks[concept.slug] not in self._known]
        if unknown:
            make_files(self._plan(unknown), self._loader)
            for concept in unknown:
                learned = read_learned(plan, concept, self._index)
                self._known[marks[concept.slug]] = learned
        return [self._known[marks[concept.slug]] for concept in concepts]

    def _plan(self, concepts: list[Concept]) -> Experiment:
        changes = {"concepts": concepts, "benchmark": None, "train": None}
        return Experiment(self.config.model_copy(update=changes))

    # ---- photographs --------------------------------------------------------------------------

    def segment(
        self,
        image: Picture,
        concepts: Words,
        *,
        background: bool | None = None,
        crf: bool = True,
        doubtful: bool = False,
    ) -> Segmentation:
        """Find concepts in a photograph.

        Args:
            image: a picture of Pillow, an array (h, w), (h, w, 3) or (h, w, 4), 8 or 16 bit, or
                the path of a file.
            concepts: names, or text with commas between them. What is not known yet is learned.
            background: whether a pixel may be none of them (see `reco.method.background`); the
                paper's way is False. None = only if there is one concept, which else would get all
                pixels.
            crf: let a dense CRF follow the edges of the photograph.
            doubtful: segment words, too, whose archive is in doubt; see `reco.method.doubt`.

        Raises:
            RecoError: not an image, no concept, or all of them are in doubt.
        """
        learned = self.learn(concepts)
        sure = [i for i, item in enumerate(learned) if doubtful or not item.doubt]
        if not sure:
            raise RecoError("\n".join(item.doubt for item in learned))
        picture = as_picture(image)
        small = np.array(fit(picture, self.config.sizes.benchmark))
        maps = self._maps(picture, small, learned)
        scores, settings = maps[sure], self.config.crf
        if background or (background is None and len(sure) == 1):
            scores = self._beside_none(scores, [learned[i] for i in sure])
            if self.config.banked:
                wider = {"bilateral_srgb": RANGE * settings.bilateral_srgb}
                settings = settings.model_copy(update=wider)
        if crf and len(scores) > 1:
            scores = mean_field(small, shrink(softmax(scores), settings.size), settings)
        return Segmentation(
            np.asarray(picture),
            tuple(item.concept.name for item in learned),
            largest(scores, picture.size[::-1], [*sure, IGNORE][: len(scores)]),
            self._saliency(maps),
            {item.concept.name: item.doubt for item in learned if item.doubt},
        )

    def _beside_none(self, scores: np.ndarray, learned: Sequence[Learned]) -> np.ndarray:
        """(n + 1, h, w): the maps of n concepts, and one that is larger where none of them is."""
        least = np.array([item.threshold for item in learned], np.float32)
        if not self.config.banked:
            return np.concatenate([scores, least[scores.argmax(0)][None]])
        ends = extent(scores, np.array([item.low for item in learned]), least)
        return np.concatenate([scores - ends[:, None, None], np.zeros_like(scores[:1])])

    def _saliency(self, maps: np.ndarray) -> np.ndarray:
        """(n, h, w) in [0, 1], as people are shown."""
        return np.clip(maps / (WEIGHT + 1), 0, 1) if self.config.banked else maps

    def _maps(
        self, picture: Image.Image, small: np.ndarray, learned: Sequence[Learned]
    ) -> np.ndarray:
        """(n, h, w) saliency or scores, at the size of `small`."""
        texts = np.stack([item.text for item in learned])
        size = (small.shape[0], small.shape[1])
        if not self.config.banked:
            encoder, dense = self._encode(small)
            references = np.stack([item.references[0] for item in learned])
            temperature = self.config.temperature
            return saliency(encoder, references, dense, texts, size, temperature=temperature)[0]
        scales = {
            side: Scale(space, np.stack([item.references[side] for item in learned]))
            for side, space in self._index.spaces.items()
        }
        knowledge = Knowledge({}, texts, self.config.temperature, scales)
        views = {side: self._encode(np.array(fit(picture, side))) for side in scales}
        return bank_maps(views, knowledge, size)

    @cached_property
    def _encode(self) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
        return load_encoder(Experiment(self.config), self.device, self._loader)
