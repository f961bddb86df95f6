"""The plan of an experiment: its concepts, and the name of every file the DAG makes.

Snakefile, commands and tests ask here, so that a file has one name. Files of a concept carry a
fingerprint of everything they depend on (the concept, the models' names, the settings, the code
of the stage): a changed concept has new names, which alone schedules its jobs and no others.
"""

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from reco.code import code_fingerprint
from reco.concepts import Concept, check_concepts, check_slugs, slugify
from reco.config import Config, FolderBenchmark, FolderIndex, StampsBenchmark
from reco.data.benchmarks import Folder, Reader, reader_of
from reco.data.embeddings import Description, read_description
from reco.data.folder import read_classes
from reco.data.geometry import choose_geometry
from reco.data.split import Split
from reco.data.store import SPLITS
from reco.data.tables import read_table
from reco.errors import RecoError
from reco.files import fingerprint, noted_digest, sha256, shipped
from reco.method.variants import STEPS, Method
from reco.models import Output, backend, checkpoint_of, is_checkpoint

PACKAGES = "config/stamps/packages.yaml"
CUTOUTS = "config/stamps/cutouts.csv"
BACKGROUNDS = "config/stamps/backgrounds.csv"
DIGESTS = "data/models/digests"  # notes of what checkpoints hold
KEPT = 512  # pixels of the shorter side up to which features of a benchmark are kept by default
PIXELS = ("data.images", "data.geometry", "models.half")
"""Modules by which every network's features come about, besides its own."""


@dataclass(frozen=True)
class Experiment:
    """A config and the names that follow from it. Paths are relative to the project.

    Attributes:
        images: state of the index's images, where somebody has looked at them to plan; None = as
            they were embedded.
    """

    config: Config
    images: str | None = None

    @property
    def data(self) -> str:
        """Folder of intermediate files."""
        return f"data/{self.config.experiment}"

    @property
    def results(self) -> str:
        """Folder of what people read."""
        return f"results/{self.config.experiment}"

    def compared(self, table: str) -> tuple[str, dict[str, Path]]:
        """Label of this experiment in comparisons ("" = none given), and the others' tables.

        Args:
            table: name of a file of results; experiments that do not have it are left out.
        """
        own = self.config.experiment
        others = {
            label: Path("results", name, table)
            for name, label in self.config.compare.items()
            if name != own
        }
        found = {label: path for label, path in others.items() if path.exists()}
        return self.config.compare.get(own, ""), found

    # ---- images -------------------------------------------------------------------------------

    @property
    def scenes(self) -> str:
        """Folder of the composed scenes of `stamps`."""
        return f"{self.data}/scenes"

    @property
    def composed(self) -> bool:
        """Whether any images of this experiment are composed scenes."""
        benchmark = self.config.benchmark
        return self.config.index.kind == "stamps" or isinstance(benchmark, StampsBenchmark)

    @property
    def index_root(self) -> Path:
        """Folder of the index."""
        index = self.config.index
        return index.root if isinstance(index, FolderIndex) else Path(self.scenes, "index")

    @property
    def index_labels(self) -> Path | None:
        """CSV that says what index images show, where that is known."""
        index = self.config.index
        if isinstance(index, FolderIndex):
            named = index.kind == "imagenet"
            return Path(self.data, "images/index_labels.csv") if named else index.labels
        return Path(self.scenes, "index_labels.csv")

    @property
    def embeddings(self) -> str:
        """Embeddings of the index images, a row each."""
        return f"{self.data}/embeddings/index.npy"

    @property
    def usable(self) -> str:
        """The list of these images: those that could be read, in the order of the rows."""
        return f"{self.data}/embeddings/index.csv"

    @cached_property
    def index(self) -> Description:
        """What the embeddings of the index are of, or will be."""
        if self.images is None:
            return read_description(self.embeddings)
        config = self.config
        composed = [config.stamps.model_dump(), config.seed] if self.composed else []
        made_by = ["workflow.catalog", "workflow.embed", *["data.scenes"] * self.composed]
        code = code_fingerprint(*made_by)
        state = [self.images, composed, self.model("retrieval"), config.sizes.retrieval, code]
        return Description(
            model=config.models.retrieval, size=config.sizes.retrieval, state=fingerprint(state)
        )

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

    def split(self, role: str) -> Split:
        """The `train` or the `val` split of the benchmark."""
        benchmark, geometry = self.config.benchmark, choose_geometry(self.config)
        if isinstance(benchmark, FolderBenchmark):
            if role == "train" and benchmark.train_root:
                # COCO-Stuff's val is scored, COCO-Stuff10K's train images are learned from.
                return Split(reader_of("coco_stuff10k"), benchmark.train_root, "train", geometry)
            return Split(self.reader, benchmark.root, getattr(benchmark, role), geometry)
        return Split(self.reader, Path(self.scenes, "benchmark"), role, geometry)

    def store(self, what: str, spec: str, version: str, size: int | None = None) -> str:
        """Folder of the store of `what` a model gives: global, dense, encoder, text-<role>.

        The kind stands before the model, so that the folders that one stage fills have one parent.

        Args:
            spec: the model as the config names it.
            version: fingerprint of its weights and preprocessing; the code counts besides.
            size: side of its input in pixels; None for text.
        """
        folder = f"text/{what}" if what.startswith("text") else f"{self.index_in_store}/{what}"
        computed = fingerprint([version, code_fingerprint(*PIXELS, backend(spec))])
        model = f"{fingerprint(spec, 6)}-{computed}" + (f"-{size}" if size else "")
        return f"data/store/{folder}/{model}"

    def split_store(self, role: str, what: Output, spec: str, version: str, side: str) -> str:
        """Folder of the store of what a model gives for the pictures of a split.

        Args:
            version: of the model; the code counts besides, as in `store`.
            side: see `side_name`.
        """
        split = self.split(role)
        geometry = split.geometry
        pixels = fingerprint([geometry.size, geometry.crop, int(geometry.resample)], 6)
        name = "stamps" if self._stamped else _in_store(split.root)
        computed = fingerprint([version, code_fingerprint(*PIXELS, backend(spec))])
        model = f"{fingerprint(spec, 6)}-{computed}-{pixels}-{side}"
        return f"data/store/{name}{SPLITS}/{what}/{model}"

    @property
    def _stamped(self) -> bool:
        return isinstance(self.config.benchmark, StampsBenchmark)

    def sides(self, role: str) -> list[int | None]:
        """Shorter sides in pixels at which a split is looked at; None = that of each picture."""
        methods, own = self.methods(role), choose_geometry(self.config).size
        banked = any(method.banked for method in methods)
        paper = any(not method.banked for method in methods)
        return list(dict.fromkeys([*self.config.bank.scales * banked, *[own] * paper]))

    @property
    def keeps_features(self) -> bool:
        """Whether features of a benchmark's pictures are kept in the store; docs/performance.md."""
        if self.config.benchmark is None:
            return False
        size, wanted = choose_geometry(self.config).size, self.config.keep_features
        return wanted if wanted is not None else size is not None and size <= KEPT

    def split_features(self, role: str) -> str:
        """Where the features of a split's pictures are in the store."""
        return f"{self.data}/split_features/{role}.csv"

    def kept_features(self, role: str) -> Path | None:
        """The same; None where they are not kept."""
        return Path(self.split_features(role)) if self.keeps_features else None

    @property
    def digests(self) -> str:
        """Digests of the images of the index, by path, size and time; experiments share them."""
        return f"data/store/{self.index_in_store}/digests.json"

    @property
    def index_in_store(self) -> str:
        """Name of the index in the store."""
        if self.config.index.kind == "stamps":
            return "stamps"
        return _in_store(self.index_root)

    def model(self, role: str) -> list[str]:
        """What tells whether a role's model changed: spec, precision, code, checkpoint."""
        spec = getattr(self.config.models, role)
        checkpoint = checkpoint_of(spec)
        content = noted_digest(checkpoint, DIGESTS) if checkpoint else ""
        precision = self.config.models.precision
        code = code_fingerprint(*PIXELS, backend(spec))
        return [spec, precision, code, content]

    @property
    def backbone(self) -> str:
        """What the checkpoint holds that the student `deeplab` starts from; "" where it is none."""
        weights = self.config.train.encoder_weights if self.config.train else None
        return noted_digest(weights, DIGESTS) if weights and is_checkpoint(weights) else ""

    # ---- concepts -----------------------------------------------------------------------------

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

    # ---- files of a concept -------------------------------------------------------------------

    def text(self, slug: str) -> str:
        """Text embeddings of a concept (retrieval, dense)."""
        return self._name("text", slug, "safetensors", self._text(slug))

    def archive(self, slug: str) -> str:
        """Archive of a concept: its best images, ranked."""
        source = self.source(slug)
        return self._name("archives", source, "csv", self._archive(source))

    def features(self, slug: str) -> str:
        """Where the features of a concept's archive are in the store."""
        source = self.source(slug)
        return self._name("features", source, "csv", self._features(source))

    def reference(self, slug: str) -> str:
        """Reference embeddings, seeds and support of a concept."""
        source = self.source(slug)
        return self._name("references", source, "safetensors", self._references[source])

    @property
    def banked(self) -> list[str]:
        """Slugs of the concepts that have a bank of seeds: what the targets are found by."""
        if not self.config.banked:
            return []
        return list(dict.fromkeys(self.source(concept.slug) for concept in self.targets))

    @property
    def whitening(self) -> str:
        """The space of every scale of the bank, from a sample of the index."""
        return f"{self.data}/whitening/{self._whitening}.safetensors"

    def bank_features(self, slug: str) -> str:
        """Where the features of a concept's archive are in the store, at the bank's scales."""
        source = self.source(slug)
        return self._name("bank_features", source, "csv", self._bank_features(source))

    def bank(self, slug: str) -> str:
        """Prototypes, seeds and support of a concept, a set for every scale."""
        source = self.source(slug)
        return self._name("banks", source, "safetensors", self._bank(source))

    def best_source(self, slug: str) -> str:
        """What the best method finds a concept by: its bank, or its references."""
        return self.bank(slug) if self.config.banked else self.reference(slug)

    @property
    def best_variant(self) -> str:
        """Name of the best method's tensors in that file: `<name>.seeds`, `<name>.support`."""
        return str(self.config.bank.scales[0]) if self.config.banked else self.best.reference_name

    def learned_by(self, methods: Sequence[Method]) -> list[str]:
        """What some methods find all targets by: references, or banks and the whitening."""
        slugs = [concept.slug for concept in self.targets]
        referenced = any(method.referenced for method in methods)
        banked = any(method.banked for method in methods)
        references = [self.reference(slug) for slug in slugs] if referenced else []
        banks = [self.bank(slug) for slug in slugs] if banked else []
        return list(dict.fromkeys([*references, *banks, *[self.whitening] * bool(banks)]))

    def _name(self, folder: str, slug: str, suffix: str, mark: str) -> str:
        return f"{self.data}/{folder}/{slug}.{mark}.{suffix}"

    def _text(self, slug: str) -> str:
        concept = self.concepts[slug].model_dump(mode="json")
        models = [self.model("retrieval"), self.model("dense")]
        return fingerprint([concept, models, code_fingerprint("workflow.text")])

    def _archive(self, slug: str) -> str:
        largest = self.config.deepest_archive
        index, code = self.index["state"], code_fingerprint("workflow.retrieve")
        return fingerprint([self._text(slug), index, largest, code])

    def _features(self, slug: str) -> str:
        models = [self.model("dense"), self.model("encoder")]
        config = self.config
        pixels = [config.sizes.archive, config.models.statistics, config.geometry]
        code = code_fingerprint("workflow.embed")
        return fingerprint([self._archive(slug), models, pixels, code])

    @cached_property
    def _whitening(self) -> str:
        config = self.config
        pixels = [config.bank.scales, config.models.statistics, config.seed]
        index, code = self.index["state"], code_fingerprint("workflow.whiten")
        return fingerprint([self.model("encoder"), index, pixels, code])

    def _bank_features(self, slug: str) -> str:
        models = [self.model("dense"), self.model("encoder")]
        pixels = [self.config.bank.scales, self.config.models.statistics]
        code = code_fingerprint("workflow.embed")
        return fingerprint([self._archive(slug), models, pixels, code])

    def _bank(self, slug: str) -> str:
        settings = [self.config.bank.model_dump(mode="json"), code_fingerprint("workflow.bank")]
        return fingerprint([self._bank_features(slug), self._whitening, settings])

    @cached_property
    def _references(self) -> dict[str, str]:
        """Fingerprint of every reference; contexts come first, for the others depend on them."""
        config = self.config
        settings = [
            config.cosegment.model_dump(mode="json"),
            config.temperature,
            config.archive_size,
            config.all_archive_sizes,
            code_fingerprint("workflow.cosegment"),
        ]
        marks: dict[str, str] = {}
        for slug in self.sources:
            before = [marks[context] for context in self.context_before(slug)]
            marks[slug] = fingerprint([self._features(slug), before, settings])
        return marks

    def inference_settings(self, methods: Sequence[Method]) -> dict[str, object]:
        """The settings that the prediction of some methods depends on."""
        config = self.config
        return {
            "models": [self.model("dense"), self.model("encoder")],
            "size": config.sizes.benchmark,
            "pixels": [config.geometry, config.models.statistics],
            "temperature": config.temperature,
            "crf": config.crf.model_dump(mode="json"),
            "recipe": [config.recipe, config.bank.model_dump(mode="json")],
            "labels": self.labels,
            "methods": [method.slug for method in methods],
        }

    def segment_state(self, methods: Sequence[Method], files: Iterable[str | Path]) -> Any:
        """What masks of some methods depend on, down to the bytes of files and code, as JSON.

        Args:
            files: that they are made from.
        """
        code = code_fingerprint("workflow.segment", "workflow.train")
        settings = self.inference_settings(methods)
        return [settings, code, [(str(file), sha256(file)) for file in files]]

    def train_state(self, files: Iterable[str | Path]) -> Any:
        """What a training depends on, down to the bytes of files and code, as JSON.

        Args:
            files: that it learns from or starts with.
        """
        config = self.config
        settings = config.model_dump(mode="json", include={"train", "seed", "geometry", "sizes"})
        code = code_fingerprint("workflow.train")
        return [settings, self.labels, code, [(str(file), sha256(file)) for file in files]]

    # ---- methods ------------------------------------------------------------------------------

    @property
    def reference_variants(self) -> list[Method]:
        """The ways of co-segmenting that are evaluated: components at k, then other sizes."""
        k, ce = self.config.archive_size, bool(self.config.context)
        components = [(True, True), (True, False), (False, True), (False, False)]
        variants = [
            Method("reference", lgc, ce_, False, k) for lgc, ce_ in components if ce or not ce_
        ]
        others = [size for size in self.config.all_archive_sizes if size != k]
        return variants + [Method("reference", True, ce, False, size) for size in others]

    @property
    def paper(self) -> Method:
        """The paper's ReCo with all its parts."""
        return Method("reco", True, bool(self.config.context), True, self.config.archive_size)

    @property
    def best(self) -> Method:
        """ReCo by the recipe of the config, with all its parts: what makes the pseudo-masks."""
        if not self.config.banked:
            return self.paper
        return Method("reco", False, False, True, self.config.bank.size, "seedbank")

    @property
    def steps(self) -> list[Method]:
        """The parts of the recipe `seedbank` added one by one, without a CRF."""
        if not self.config.banked:
            return []
        return [replace(self.best, crf=False, recipe=step) for step in STEPS]

    @property
    def zero_shot(self) -> list[Method]:
        """Every method of the tables that needs no training."""
        components = self.reference_variants
        k = self.config.archive_size
        reco = [Method("reco", m.lgc, m.ce, False, m.archive_size) for m in components]
        return [
            Method("denseclip", False, False, False, 0),
            *(method for method in components if method.archive_size == k),
            *reco,
            self.paper,
            *self.steps,
            *[self.best] * self.config.banked,
        ]

    def methods(self, split: str) -> list[Method]:
        """What segments a split without training: of val every method, of train the best one."""
        return self.zero_shot if split == "val" else [self.best]

    @property
    def plus(self) -> list[Method]:
        """ReCo+ without and with the CRF; nothing where it is not trained."""
        if self.config.train is None:
            return []
        return [replace(self.best, kind="reco_plus", crf=crf) for crf in (False, True)]


def side_name(side: int | None) -> str:
    """How names of columns and folders call a length in pixels; None, a picture's own, is `own`."""
    return "own" if side is None else str(side)


def _in_store(root: Path) -> str:
    """Name of a folder of images in the store."""
    return f"{root.name}-{fingerprint(str(root.absolute()), 6)}"


def _fold(name: str) -> str:
    """A name without case, however its accents are written."""
    return unicodedata.normalize("NFC", name).casefold()
