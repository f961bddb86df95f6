"""Learned: what is known of a word, and how it comes to be known.

The files of a word (text, archive, features, reference) are those of the workflow: one that a run
has made is read, not made again, and the other way round.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from reco import models
from reco.concepts import Concept
from reco.data.embeddings import index_mark
from reco.data.features import read_features
from reco.data.tables import read_table
from reco.errors import RecoError
from reco.experiment import Experiment
from reco.files import fingerprint, read_tensors, sha256
from reco.method.background import BANK_BETWEEN, BETWEEN, bounds
from reco.method.doubt import BEST, doubt
from reco.method.segment import Scale, bank_scores, saliency
from reco.photos.index import Index
from reco.workflow.bank import bank_archive
from reco.workflow.cosegment import cosegment_archive, made_from, sources_mark
from reco.workflow.embed import embed_archives
from reco.workflow.retrieve import read_archive, retrieve_archives
from reco.workflow.text import embed_concepts
from reco.workflow.whiten import is_of_index, whiten_index


@dataclass(frozen=True)
class Archived:
    """An image of a concept's archive.

    Attributes:
        path: of the file.
        similarity: of image and text, a cosine.
        seed: (row, column) of its seed, as shares of the height and width of its centre square.
        support: (h, w) how well each part of that square matches the other images.
    """

    path: Path
    similarity: float
    seed: tuple[float, float]
    support: np.ndarray


@dataclass(frozen=True)
class Learned:
    """What is known of a concept.

    Attributes:
        concept: as it was asked for.
        mark: fingerprint of all that its masks depend on, the index included.
        references: what the recipe compares with: the reference embedding (c,) by the key 0, or
            the prototypes (n, c) of every scale of the bank.
        text: (d,) text embedding of dense saliency.
        archive: the images that it was learned from, the nearest first.
        threshold: saliency, or score of a bank, below which a pixel is background in any
            photograph; see `reco.method.background`.
        low: what other things reach.
        doubt: what speaks against the archive; "" = nothing; see `reco.method.doubt`.
        unlike: images drawn from the index that are unlike the concept, the least alike first.
    """

    concept: Concept
    mark: str
    references: dict[int, np.ndarray]
    text: np.ndarray
    archive: tuple[Archived, ...]
    threshold: float
    low: float
    doubt: str
    unlike: tuple[Path, ...] = ()


def make_files(plan: Experiment, loader: models.Loader) -> None:
    """Bring the files of a plan's concepts into being that are not there, or of another index.

    No other file is written: Snakemake would find it changed.
    """
    index, sources = Path(plan.embeddings), plan.sources
    if texts := [slug for slug in plan.concepts if not _is_whole(plan.text(slug))]:
        embed_concepts(plan, loader, texts)
    mark = index_mark(index)
    if archives := [slug for slug in sources if not _is_of_index(plan.archive(slug), mark)]:
        given = [Path(plan.text(slug)) for slug in archives]
        made = [Path(plan.archive(slug)) for slug in archives]
        retrieve_archives(index, Path(plan.usable), given, plan.config.deepest_archive, made)
    if plan.config.banked:
        _make_banks(plan, loader, mark)
    else:
        _make_references(plan, loader)


def _make_references(plan: Experiment, loader: models.Loader) -> None:
    sources, count = plan.sources, plan.config.all_archive_sizes[-1]
    tables = {slug: plan.features(slug) for slug in sources}
    if lacking := [s for s in sources if not _is_of_archive(plan.archive(s), tables[s], count)]:
        embed_archives(_only(plan, lacking), loader)
    for slug in sources:  # contexts come first
        features, text = Path(tables[slug]), Path(plan.text(slug))
        contexts = [Path(plan.reference(context)) for context in plan.context_before(slug)]
        reference = Path(plan.reference(slug))
        if made_from(reference) == sources_mark(features, [text, *contexts]):
            continue
        cosegment_archive(
            *(features, text, contexts),
            [variant.reference_name for variant in plan.reference_variants],
            reference,
            temperature=plan.config.temperature,
            merge=plan.config.cosegment.merge,
            variant=plan.config.cosegment.variant,
        )


def _make_banks(plan: Experiment, loader: models.Loader, mark: str) -> None:
    """Make what is lacking of the whitening and the banks.

    Args:
        mark: of the index; see `index_mark`.
    """
    whitening, settings = Path(plan.whitening), plan.config.bank
    if not is_of_index(whitening, mark):
        whiten_index(plan, Path(plan.embeddings), loader)
    tables = {slug: plan.bank_features(slug) for slug in plan.banked}
    lacking = [
        slug
        for slug, table in tables.items()
        if not _is_of_archive(plan.archive(slug), table, settings.size)
    ]
    if lacking:
        embed_archives(_only(plan, lacking), loader)
    for slug, table in tables.items():
        bank = Path(plan.bank(slug))
        if made_from(bank) != sources_mark(Path(table), [whitening]):
            bank_archive(Path(table), whitening, settings.scales, settings.size, bank)


def _only(plan: Experiment, slugs: Sequence[str]) -> Experiment:
    """A plan of some sources; their texts, archives and features have the same names in it.

    It has no context, and so no place for a concept that takes over the reference of one.
    """
    some = [plan.concepts[slug] for slug in slugs]
    return Experiment(plan.config.model_copy(update={"concepts": some, "context": []}))


def read_learned(plan: Experiment, concept: Concept, index: Index) -> Learned:
    """Read what `make_files` made of a concept, and compare it with images of the index.

    Args:
        plan: that has the concept.
        index: of the plan.

    Raises:
        RecoError: a file is missing or damaged.
    """
    config, slug, source = plan.config, concept.slug, plan.best_source(concept.slug)
    stored, texts = read_tensors(source), read_tensors(plan.text(slug))
    rows = read_archive(plan.archive(slug))[: plan.best.archive_size]
    references, text = _references(plan, stored), texts["dense"]
    unlike = np.argsort(index.sample.embeddings @ texts["retrieval"], kind="stable")
    unlike = unlike[: max(1, len(unlike) // 2)]
    inside = _features(plan, slug, len(rows))
    outside = [of[unlike] for of in (index.sample.encoder, index.sample.dense)]
    low, high = bounds(
        _positions(index, inside, references, text, own=True),
        _positions(index, outside, references, text),
    )
    least = low + (BANK_BETWEEN if config.banked else BETWEEN) * (high - low)
    return Learned(
        concept,
        # The file's name tells the settings, its content what was learned. Whether a word is in
        # doubt, and where another thing begins, the whole index tells.
        fingerprint([source, sha256(source), least, index_mark(Path(plan.embeddings))]),
        references,
        text,
        _archive(plan, rows, stored),
        least,
        low,
        _doubt(index, concept, rows, texts["retrieval"]),
        tuple(index.sample.paths[i] for i in unlike),
    )


def _references(plan: Experiment, stored: dict[str, np.ndarray]) -> dict[int, np.ndarray]:
    """What the recipe compares with; see `Learned`."""
    if not plan.config.banked:
        return {0: stored[f"{plan.best_variant}.reference"]}
    scales = plan.config.bank.scales
    return {scale: stored[f"{scale}.prototypes"] for scale in scales}


def _archive(
    plan: Experiment, rows: Sequence[dict[str, str]], stored: dict[str, np.ndarray]
) -> tuple[Archived, ...]:
    support, seeds = (stored[f"{plan.best_variant}.{what}"] for what in ("support", "seeds"))
    steps = np.array(support.shape[1:])
    return tuple(
        Archived(
            plan.index_root / row["path"],
            float(row["similarity"]),
            tuple(((seed + 0.5) / steps).tolist()),
            values,
        )
        for row, seed, values in zip(rows, seeds, support, strict=True)
    )


def _features(plan: Experiment, slug: str, count: int) -> list[np.ndarray]:
    """Of an archive's first images: the encoder's (n, c, h, w), and dense ones (n, d, h', w')."""
    banked = plan.config.banked
    table = plan.bank_features(slug) if banked else plan.features(slug)
    rows, end = read_table(table)[:count], f"_{plan.best_variant}" * banked
    return [read_features(rows, f"{kind}{end}") for kind in ("encoder", "dense")]


def _positions(
    index: Index,
    features: Sequence[np.ndarray],
    references: dict[int, np.ndarray],
    text: np.ndarray,
    *,
    own: bool = False,
) -> np.ndarray:
    """(n, positions): saliency of one concept in images, or its score at the first scale.

    Args:
        features: the encoder's (n, c, h, w), and dense ones (n, d, h', w').
        own: whether these are the archive's images; each is then compared with the prototypes
            of the others.
    """
    config, (encoder, dense) = index.plan.config, features
    if not config.banked:
        reference, size = references[0][None], (encoder.shape[2], encoder.shape[3])
        temperature = config.temperature
        maps = saliency(encoder, reference, dense, text[None], size, temperature=temperature)
        return maps[:, 0].reshape(len(maps), -1)
    first = config.bank.scales[0]
    prototypes, space = references[first], index.spaces[first]
    if not own:
        scores = bank_scores(encoder, dense, Scale(space, prototypes[None]), text[None])
    else:
        others = [np.delete(prototypes, i, axis=0)[None] for i in range(len(encoder))]
        scores = np.concatenate(
            [
                bank_scores(encoder[i : i + 1], dense[i : i + 1], Scale(space, kept), text[None])
                for i, kept in enumerate(others)
            ]
        )
    return scores.reshape(len(scores), -1)


def _doubt(index: Index, concept: Concept, rows: Sequence[dict[str, str]], text: np.ndarray) -> str:
    nearest = index.rows([row["path"] for row in rows[:BEST]])
    names, others = index.vocabulary
    sample = index.sample.embeddings @ text
    return doubt(concept.name, nearest, nearest @ text, others, names, sample)


# Whether a file is as it should be is asked of what is in it: times differ between machines.


def _is_whole(text: str) -> bool:
    """Whether a concept's text embeddings are there."""
    try:
        return bool(read_tensors(text))
    except RecoError:
        return False


def _is_of_index(archive: str, mark: str) -> bool:
    """Whether an archive is there and was ranked from an index; see `index_mark`."""
    try:
        return {row["index"] for row in read_archive(archive)} == {mark}
    except RecoError:
        return False


def _is_of_archive(archive: str, features: str, count: int) -> bool:
    """Whether a list of features is there and is that of the archive's first images."""
    try:
        listed = read_table(features)
    except RecoError:
        return False
    return [row["key"] for row in listed] == [row["key"] for row in read_archive(archive)[:count]]
