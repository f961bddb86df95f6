"""The words of an experiment: its concepts, and the labels and classes that they are."""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from reco.concepts import Concept, check_concepts, check_slugs, slugify
from reco.config import Config, FolderBenchmark
from reco.data.benchmarks import Folder, Reader, reader_of
from reco.data.folder import read_classes
from reco.data.tables import read_table
from reco.errors import RecoError
from reco.files import shipped

CUTOUTS = "config/stamps/cutouts.csv"


@dataclass(frozen=True)
class Vocabulary:
    """What is looked for by a config, and what it is called."""

    config: Config

    @cached_property
    def reader(self) -> Reader:
        """The reader of the benchmark, which knows its names; without one, nothing is scored."""
        benchmark = self.config.benchmark
        if isinstance(benchmark, FolderBenchmark):
            if benchmark.kind != "folder":
                return reader_of(benchmark.kind)
            names = tuple(read_classes(benchmark.root))
        elif benchmark:
            names = tuple(dict.fromkeys(row["concept"] for row in read_table(shipped(CUTOUTS))))
        else:
            names = ()
        return Folder(classes=names, predicted=names, page="config/README.md")

    @cached_property
    def targets(self) -> list[Concept]:
        """The concepts that are predicted, in the order of the labels, further ones after."""
        concepts = self.config.concepts
        if concepts is None:
            concepts = self._known_concepts
        if not concepts:
            raise RecoError("concepts: none given: list at least one name")
        check_slugs(concepts)
        concepts = self._as_known(concepts)
        context = {concept.slug for concept in self.config.context}
        for concept in concepts:
            if concept.reference and concept.reference not in context:
                raise RecoError(
                    f"concept {concept.name!r}: reference {concept.reference!r} is no context "
                    f"concept: one of {', '.join(sorted(context)) or 'none'}"
                )
        place = {name: label for label, name in enumerate(self.reader.predicted)}
        return sorted(concepts, key=lambda concept: place.get(concept.name, len(place)))

    @cached_property
    def context(self) -> list[Concept]:
        """The concepts that are eliminated as context, in order; a bank of seeds needs none."""
        taken = any(concept.reference for concept in self.targets)
        return self._as_known(self.config.context) if self.config.referenced or taken else []

    def _as_known(self, concepts: Sequence[Concept]) -> list[Concept]:
        """Concepts under the names that the classes have, which may differ in case.

        Raises:
            RecoError: two of them are one class.
        """
        like: dict[str, list[str]] = {}
        for name in self._known_names:
            like.setdefault(_fold(name), []).append(name)
        found: dict[str, str] = {}
        named = []
        for concept in concepts:
            names = like.get(_fold(concept.name), [])
            name = names[0] if len(names) == 1 else concept.name
            other = found.setdefault(name, concept.name)
            if other != concept.name:
                raise RecoError(
                    f"concepts {other!r} and {concept.name!r} are one class, {name!r}: leave one"
                )
            named.append(concept.model_copy(update={"name": name}))
        return named

    @property
    def _known_names(self) -> Sequence[str]:
        """The names that the benchmark predicts, or that the index knows where there is none."""
        if self.config.benchmark is None and self.config.index.kind == "imagenet":
            return reader_of("imagenet").classes
        return self.reader.predicted

    @property
    def _known_concepts(self) -> list[Concept]:
        """A concept for each of these names."""
        slugs = {concept.slug for concept in self.config.context}
        taken = {
            name: slugify(other)
            for name, other in self.reader.context.items()
            if slugify(other) in slugs and slugify(name) not in slugs
        }
        try:
            return check_concepts(
                [{"name": name, "reference": taken.get(name, "")} for name in self._known_names]
            )
        except RecoError as error:
            raise RecoError(f"classes of the benchmark: {error}") from None

    @cached_property
    def labels(self) -> list[str]:
        """Names of all predicted ids: the benchmark's, then concepts that it does not have."""
        known = list(self.reader.predicted)
        further = [concept.name for concept in self.targets if concept.name not in known]
        if further and self.reader.merge is not None:
            raise RecoError(
                f"concepts: {', '.join(further)}: not predicted on this benchmark, which merges "
                "its own names for scoring: leave them out"
            )
        return known + further

    @property
    def scored(self) -> list[str]:
        """Names of the scored label ids: `labels`, or what the benchmark merges them to."""
        return self.labels if self.reader.merge is None else list(self.reader.classes)

    @cached_property
    def _lessons(self) -> np.ndarray | None:
        """Map of label ids to classes, where the student learns merged classes."""
        train = self.config.train
        merged = train and train.merge_labels and self.config.student == "deeplab"
        return self.reader.merge if merged else None

    @property
    def lessons(self) -> np.ndarray:
        """(labels,) int64: what the student learns for every label id: the same, or its class."""
        return np.arange(len(self.labels)) if self._lessons is None else self._lessons

    @property
    def learned(self) -> list[str]:
        """Names of what the student tells apart: `labels`, or the classes they are merged to."""
        return self.labels if self._lessons is None else self.scored

    @property
    def learned_labels(self) -> np.ndarray:
        """(learned,) int64: the label id of each in masks; for a class, its first name's.

        So all masks of an experiment hold ids of `labels`, and are merged alike.
        """
        return np.unique(self.lessons, return_index=True)[1]

    @cached_property
    def target_labels(self) -> np.ndarray:
        """(targets,) int64: the label id of every target."""
        place = {name: label for label, name in enumerate(self.labels)}
        return np.array([place[concept.name] for concept in self.targets])

    @cached_property
    def concepts(self) -> dict[str, Concept]:
        """Every concept by slug, contexts first; a target that is a context stands once."""
        merged = {concept.slug: concept for concept in self.context}
        for target in self.targets:
            context = merged.setdefault(target.slug, target)
            if context != target:
                raise RecoError(
                    f"concept {target.name!r} is also a context concept, with another spelling, "
                    "aliases or prompts: write it the same way in both places"
                )
        return merged

    def context_before(self, slug: str) -> list[str]:
        """Slugs of the context concepts that are eliminated from a concept's archive, in order.

        A context concept is freed of those before it; any other concept of all of them.
        """
        context = [concept.slug for concept in self.context]
        return context[: context.index(slug)] if slug in context else context

    @cached_property
    def sources(self) -> list[str]:
        """Slugs of the concepts that are retrieved and co-segmented: all but those that take over
        the reference of another."""
        return [slug for slug, concept in self.concepts.items() if not concept.reference]

    def source(self, slug: str) -> str:
        """Slug of the concept whose archive and reference serve a concept."""
        return self.concepts[slug].reference or slug

    @property
    def banked(self) -> list[str]:
        """Slugs of the concepts that have a bank of seeds: what the targets are found by."""
        if not self.config.banked:
            return []
        return list(dict.fromkeys(self.source(concept.slug) for concept in self.targets))


def _fold(name: str) -> str:
    """A name without case, however its accents are written."""
    return unicodedata.normalize("NFC", name).casefold()
