"""Segmenter: photographs in, masks of words out, in one process that keeps what it has loaded.

`reco.load` makes one. It goes the way of the workflow (text, retrieve, features, cosegment,
segment) with the workflow's own functions and files: a reference that a run has made is read, not
made again, and the other way round.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from reco import models
from reco.concepts import Concept, parse_concepts, slugify
from reco.config import Config, FolderIndex
from reco.config import load as read_config
from reco.data.embeddings import index_mark
from reco.data.folder import IGNORE, printable, read_table
from reco.data.store import Place, read_places
from reco.device import resolve_device
from reco.errors import RecoError
from reco.experiment import Experiment
from reco.files import fingerprint, open_array, read_tensors, sha256
from reco.method.background import BANK_BETWEEN, BETWEEN, RANGE, bounds, extent
from reco.method.bank import Space
from reco.method.doubt import BEST, doubt, vocabulary
from reco.method.refine import largest, mean_field, shrink
from reco.method.segment import WEIGHT, Knowledge, bank_maps, bank_scores, saliency
from reco.models import keeping_loader
from reco.photos.index import (
    Sample,
    _find_rows,
    _is_of_archive,
    _is_of_index,
    _is_whole,
    embed_index,
)
from reco.photos.learned import Archived, Learned
from reco.photos.picture import Picture, as_picture, fit
from reco.photos.result import Segmentation
from reco.workflow.bank import bank_archive, read_spaces
from reco.workflow.cosegment import cosegment_archive, made_from, sources_mark
from reco.workflow.embed import embed_archives, embed_features
from reco.workflow.retrieve import read_archive, retrieve_archives
from reco.workflow.segment import read_scale
from reco.workflow.text import embed_concepts, embed_names
from reco.workflow.views import load_encoder
from reco.workflow.whiten import draw, is_of_index, whiten_index

SAMPLE = 64  # images drawn from the index, to tell what a word is not
Words = str | Concept | Iterable[str | Concept]


def load(
    experiment: str = "stamps",
    *,
    index: str | Path | None = None,
    config: str | Path | Config | None = None,
    archive_size: int | None = None,
) -> "Segmenter":
    """A segmenter that learns words from the images of an index.

    Relative paths are those of the project's folder, so run it there.

    Args:
        experiment: whose index and settings are used, as its last run recorded them.
        index: a folder of photographs to learn from instead, of any kind, at any depth. It is
            embedded once, and again when its files change.
        config: a config file, or a config, instead of the experiment's.
        archive_size: images to learn a concept from; None = as in the config, or fewer where the
            index is small.

    Raises:
        RecoError: no such experiment, or its index was not embedded yet; no images.
    """
    settings = config if isinstance(config, Config) else _find_config(experiment, config)
    if archive_size is not None and archive_size < 1:
        raise RecoError(f"archive size {archive_size}: must be at least 1")
    loader = keeping_loader()
    if index is None:
        plan = Experiment(settings)
        if not Path(plan.embeddings).exists():
            raise RecoError(
                f"{plan.embeddings}: the index of {settings.experiment!r} was not embedded yet: "
                f"run 'snakemake --cores all {plan.embeddings}' in the project's folder, or name "
                "a folder of photographs as the index"
            )
    else:
        root = Path(index).absolute()
        if not root.is_dir():
            raise RecoError(f"{root}: no such folder: name one with photographs to learn from")
        if printable(str(root)) != str(root):
            raise RecoError(f"{printable(str(root))}: rename it: this name is not text in UTF-8")
        name = f"{slugify(root.name)[:40]}-{fingerprint(str(root), 6)}"
        changes = {"experiment": name, "index": FolderIndex(kind="folder", root=root)}
        settings = settings.model_copy(update=changes)
        embed_index(Experiment(settings), loader)
    usable = len(open_array(Experiment(settings).embeddings))
    if settings.banked:
        size = min(archive_size or settings.bank.size, usable)
        bank = settings.bank.model_copy(update={"size": size})
        settings = settings.model_copy(update={"bank": bank})
    elif archive_size or usable < max(settings.all_archive_sizes):
        wanted = min(archive_size or settings.archive_size, usable)
        settings = settings.model_copy(update={"archive_size": wanted, "archive_sizes": []})
    return Segmenter(settings, loader)


class Segmenter:
    """Learns words from an index and segments photographs with them; see `load`.

    Args:
        config: of the index, the models and the method; its concepts are known with their aliases.
        loader: `reco.models.load`, or a function like it that keeps what it has loaded.
    """

    def __init__(self, config: Config, loader: models.Loader) -> None:
        self.config, self._loader = config, loader
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
            self._make(self._plan(unknown))
            for concept in unknown:
                self._known[marks[concept.slug]] = self._read(plan, concept)
        return [self._known[marks[concept.slug]] for concept in concepts]

    def _plan(self, concepts: list[Concept]) -> Experiment:
        changes = {"concepts": concepts, "benchmark": None, "train": None}
        return Experiment(self.config.model_copy(update=changes))

    def _make(self, plan: Experiment) -> None:
        """Bring the files of a plan's concepts into being that are not there, or of another index.

        No other file is written: Snakemake would find it changed.
        """
        index, sources = Path(plan.embeddings), plan.sources
        if texts := [slug for slug in plan.concepts if not _is_whole(plan.text(slug))]:
            embed_concepts(plan, self._loader, texts)
        mark = index_mark(index)
        if archives := [slug for slug in sources if not _is_of_index(plan.archive(slug), mark)]:
            given = [Path(plan.text(slug)) for slug in archives]
            made = [Path(plan.archive(slug)) for slug in archives]
            retrieve_archives(index, Path(plan.usable), given, plan.config.deepest_archive, made)
        if plan.config.banked:
            self._make_banks(plan, mark)
        else:
            self._make_references(plan)

    def _make_references(self, plan: Experiment) -> None:
        sources, count = plan.sources, plan.config.all_archive_sizes[-1]
        tables = {slug: plan.features(slug) for slug in sources}
        if features := [
            s for s in sources if not _is_of_archive(plan.archive(s), tables[s], count)
        ]:
            embed_archives(self._only(plan, features), self._loader)
        for slug in sources:  # contexts come first
            contexts = [Path(plan.reference(context)) for context in plan.context_before(slug)]
            made_of = Path(plan.features(slug)), Path(plan.text(slug)), contexts
            if made_from(Path(plan.reference(slug))) == sources_mark(*made_of):
                continue
            cosegment_archive(
                *made_of,
                [variant.reference_name for variant in plan.reference_variants],
                Path(plan.reference(slug)),
                temperature=plan.config.temperature,
                merge=plan.config.cosegment.merge,
                variant=plan.config.cosegment.variant,
            )

    def _make_banks(self, plan: Experiment, mark: str) -> None:
        """Args: mark: of the index; see `index_mark`."""
        whitening, settings = Path(plan.whitening), plan.config.bank
        if not is_of_index(whitening, mark):
            whiten_index(plan, Path(plan.embeddings), self._loader)
        tables = {slug: plan.bank_features(slug) for slug in plan.banked}
        lacking = [
            slug
            for slug, table in tables.items()
            if not _is_of_archive(plan.archive(slug), table, settings.size)
        ]
        if lacking:
            embed_archives(self._only(plan, lacking), self._loader)
        for slug, table in tables.items():
            bank = Path(plan.bank(slug))
            if made_from(bank) != sources_mark(Path(table), whitening, []):
                bank_archive(Path(table), whitening, settings.scales, settings.size, bank)

    def _only(self, plan: Experiment, slugs: Sequence[str]) -> Experiment:
        """A plan of some sources; their texts, archives and features have the same names in it.

        It has no context, and so no place for a concept that takes over the reference of one.
        """
        some = [plan.concepts[slug] for slug in slugs]
        return Experiment(plan.config.model_copy(update={"concepts": some, "context": []}))

    def _read(self, plan: Experiment, concept: Concept) -> Learned:
        slug, source, variant = concept.slug, plan.best_source(concept.slug), plan.best_variant
        stored, texts = read_tensors(source), read_tensors(plan.text(slug))
        rows = read_archive(plan.archive(slug))[: plan.best.archive_size]
        support, seeds = stored[f"{variant}.support"], stored[f"{variant}.seeds"]
        steps = np.array(support.shape[1:])
        archive = tuple(
            Archived(
                plan.index_root / row["path"],
                float(row["similarity"]),
                tuple(((seed + 0.5) / steps).tolist()),
                values,
            )
            for row, seed, values in zip(rows, seeds, support, strict=True)
        )
        unlike = np.argsort(self._sample.embeddings @ texts["retrieval"], kind="stable")
        unlike = unlike[: max(1, len(unlike) // 2)]
        text = torch.from_numpy(texts["dense"])
        if plan.config.banked:
            references = {
                scale: torch.from_numpy(stored[f"{scale}.prototypes"])
                for scale in plan.config.bank.scales
            }
            table = plan.bank_features(slug)
        else:
            references = {0: torch.from_numpy(stored[f"{variant}.reference"])}
            table = plan.features(slug)
        places, end = read_table(table)[: len(rows)], f"_{variant}" * plan.config.banked
        inside = [
            torch.from_numpy(
                read_places(
                    [
                        Place(row[f"{what}{end}_shard"], int(row[f"{what}{end}_row"]))
                        for row in places
                    ]
                )
            )
            for what in ("encoder", "dense")
        ]
        outside = [
            torch.from_numpy(features[unlike])
            for features in (self._sample.encoder, self._sample.dense)
        ]
        low, high = bounds(
            self._positions(inside[0], inside[1], references, text, own=True),
            self._positions(outside[0], outside[1], references, text),
        )
        least = low + (BANK_BETWEEN if plan.config.banked else BETWEEN) * (high - low)
        return Learned(
            concept,
            # The file's name tells the settings, its content what was learned. Whether a word is in
            # doubt, and where another thing begins, the whole index tells.
            fingerprint([source, sha256(source), least, index_mark(Path(plan.embeddings))]),
            {scale: values.to(self.device) for scale, values in references.items()},
            text.to(self.device),
            archive,
            least,
            low,
            self._doubt(plan, concept, rows, texts["retrieval"]),
            tuple(self._sample.paths[place] for place in unlike),
        )

    def _positions(
        self,
        encoder: Tensor,
        dense: Tensor,
        references: dict[int, Tensor],
        text: Tensor,
        *,
        own: bool = False,
    ) -> np.ndarray:
        """(n, positions): saliency of one concept in images, or its score at the first scale.

        Args:
            encoder, dense: (n, c, h, w) and (n, d, h', w').
            own: whether these are the archive's images; each is then compared with the prototypes
                of the others.
        """
        if not self.config.banked:
            reference, size = references[0][None], (encoder.shape[2], encoder.shape[3])
            temperature = self.config.temperature
            maps = saliency(encoder, reference, dense, text[None], size, temperature=temperature)
            return maps[:, 0].flatten(1).numpy()
        first = self.config.bank.scales[0]
        prototypes = references[first]
        found = []
        for i in range(len(encoder)):
            others = prototypes[torch.arange(len(prototypes)) != i] if own else prototypes
            scale = read_scale(self._spaces[first], others[None])
            found.append(bank_scores(encoder[i : i + 1], dense[i : i + 1], scale, text[None]))
        return torch.cat(found)[:, 0].flatten(1).numpy()

    def _doubt(
        self, plan: Experiment, concept: Concept, rows: Sequence[dict[str, str]], text: np.ndarray
    ) -> str:
        best = [row["path"] for row in rows[:BEST]]
        place = _find_rows(Path(plan.usable), best)
        names, others = self._vocabulary
        nearest = np.asarray(self._embeddings[[place[path] for path in best]], np.float32)
        sample = self._sample.embeddings @ text
        return doubt(concept.name, nearest, nearest @ text, others, names, sample)

    # ---- the index ----------------------------------------------------------------------------

    @cached_property
    def _embeddings(self) -> np.ndarray:
        return open_array(Experiment(self.config).embeddings)

    @cached_property
    def _vocabulary(self) -> tuple[list[str], np.ndarray]:
        names = vocabulary()
        return names, embed_names(Experiment(self.config), names, self._loader)

    @cached_property
    def _spaces(self) -> dict[int, Space]:
        plan = Experiment(self.config)
        return read_spaces(plan.whitening, self.config.bank.scales)

    @cached_property
    def _sample(self) -> "Sample":
        """Images drawn from the index at random; features of them are kept in the store."""
        plan = Experiment(self.config)
        drawn = draw(plan, len(self._embeddings), SAMPLE)
        rows = np.random.default_rng(self.config.seed).permutation(len(self._embeddings))[:SAMPLE]
        keys = {key: plan.index_root / path for path, key in drawn}
        scale = self.config.bank.scales[0] if self.config.banked else None
        places = embed_features(plan, keys, self._loader, scale)
        kept = [key for _, key in drawn]
        return Sample(
            [keys[key] for key in kept],
            np.asarray(self._embeddings[rows], np.float32),
            read_places([places["encoder"][key] for key in kept]),
            read_places([places["dense"][key] for key in kept]),
        )

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
        sure = [place for place, item in enumerate(learned) if doubtful or not item.doubt]
        if not sure:
            raise RecoError("\n".join(item.doubt for item in learned))
        picture = as_picture(image)
        small = np.array(fit(picture, self.config.sizes.benchmark))
        maps = self._maps(picture, small, learned)
        scores, settings = maps[sure], self.config.crf
        if background or (background is None and len(sure) == 1):
            scores = self._beside_none(scores, [learned[place] for place in sure])
            if self.config.banked:
                wider = {"bilateral_srgb": RANGE * settings.bilateral_srgb}
                settings = settings.model_copy(update=wider)
        if crf and len(scores) > 1:
            shares = shrink(scores.softmax(0), settings.size).contiguous().numpy()
            scores = torch.from_numpy(mean_field(small, shares, settings))
        return Segmentation(
            np.asarray(picture),
            tuple(item.concept.name for item in learned),
            largest(scores, picture.size[::-1], [*sure, IGNORE][: len(scores)]),
            self._saliency(maps),
            {item.concept.name: item.doubt for item in learned if item.doubt},
        )

    def _beside_none(self, scores: Tensor, learned: Sequence[Learned]) -> Tensor:
        """(n + 1, h, w): the maps of n concepts, and one that is larger where none of them is."""
        least = torch.tensor([item.threshold for item in learned])
        if not self.config.banked:
            return torch.cat([scores, least[scores.argmax(0)][None]])
        low = np.array([item.low for item in learned])
        ends = torch.from_numpy(extent(scores.numpy(), low, least.numpy()))
        return torch.cat([scores - ends[:, None, None], torch.zeros_like(scores[:1])])

    def _saliency(self, maps: Tensor) -> np.ndarray:
        """(n, h, w) in [0, 1], as people are shown."""
        return (maps / (WEIGHT + 1)).clamp(0, 1).numpy() if self.config.banked else maps.numpy()

    def _maps(self, picture: Image.Image, small: np.ndarray, learned: Sequence[Learned]) -> Tensor:
        """(n, h, w) saliency or scores on the CPU, at the size of `small`."""
        texts = torch.stack([item.text for item in learned])
        size = (small.shape[0], small.shape[1])
        with torch.inference_mode():
            if not self.config.banked:
                encoder, dense = self._encode(small)
                references = torch.stack([item.references[0] for item in learned])
                temperature = self.config.temperature
                return saliency(encoder, references, dense, texts, size, temperature=temperature)[
                    0
                ].cpu()
            scales = {
                side: read_scale(space, torch.stack([item.references[side] for item in learned]))
                for side, space in self._spaces.items()
            }
            knowledge = Knowledge({}, texts, self.config.temperature, scales)
            views = {side: self._encode(np.array(fit(picture, side))) for side in scales}
            return bank_maps(views, knowledge, size).cpu()

    @cached_property
    def _encode(self) -> Callable[[np.ndarray], tuple[Tensor, Tensor]]:
        return load_encoder(Experiment(self.config), self.device, self._loader)


def _find_config(experiment: str, config: str | Path | None) -> Config:
    """The config that is named, else that of the experiment's last run."""
    if config is not None:
        return read_config(config)
    recorded = Path("results", experiment, "config.yaml")
    merged = sorted(
        Path("data", experiment, "config").glob("[0-9a-f]*.json"), key=lambda p: p.stat().st_mtime
    )
    for file in [recorded, *reversed(merged)]:
        if file.exists():
            return read_config(file)
    known = sorted(path.parent.name for path in Path("results").glob("*/config.yaml"))
    raise RecoError(
        f"no experiment {experiment!r} here; known: {', '.join(known) or 'none'}. Run this in the "
        "project's folder"
    )
