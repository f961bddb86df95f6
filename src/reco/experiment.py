"""The plan of an experiment: its concepts, and the name of every file the DAG makes.

Snakefile, commands and tests ask here, so that a file has one name. Files of a concept carry a
fingerprint of everything they depend on (the concept, the models' names, the settings, the code
of the stage): a changed concept has new names, which alone schedules its jobs and no others.
"""

from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import numpy as np

import reco
from reco.concepts import Concept, check_slugs
from reco.config import Config, FolderBenchmark, FolderIndex, read_yaml
from reco.errors import RecoError
from reco.files import fingerprint, sha256
from reco.folder import read_classes, read_table, scan

PACKAGES = "config/stamps/packages.yaml"
CUTOUTS = "config/stamps/cutouts.csv"
BACKGROUNDS = "config/stamps/backgrounds.csv"

MODULES = {"packaged": "models/packaged", "open_clip": "models/clip", "timm": "models/encoder"}


@dataclass(frozen=True)
class Method:
    """One way of predicting, and so one row of the metrics.

    Attributes:
        method: denseclip (dense saliency alone), reference (reference embeddings alone), reco
            (their product) or reco_plus (the segmenter trained on reco's masks).
        lgc: language guidance in co-segmentation.
        ce: context elimination in co-segmentation.
        crf: dense CRF after prediction.
        archive_size: images per archive; 0 where no archive is used.
    """

    method: str
    lgc: bool
    ce: bool
    crf: bool
    archive_size: int

    @property
    def slug(self) -> str:
        """Name of the folder of its masks, such as `reco-lgc-ce-k20-crf`."""
        parts = [self.method, self.reference_name if self.archive_size else ""]
        return "-".join(filter(None, [*parts, "crf" if self.crf else ""]))

    @property
    def reference_name(self) -> str:
        """Name of the way of co-segmenting it uses, such as `lgc-ce-k20`."""
        flags = ["lgc"] * self.lgc + ["ce"] * self.ce
        return "-".join([*flags, f"k{self.archive_size}"])


@dataclass(frozen=True)
class Experiment:
    """A config and the names that follow from it. Paths are relative to the project."""

    config: Config

    @property
    def data(self) -> str:
        """Folder of intermediate files."""
        return f"data/{self.config.experiment}"

    @property
    def results(self) -> str:
        """Folder of what people read."""
        return f"results/{self.config.experiment}"

    # ---- images -------------------------------------------------------------------------------

    @property
    def scenes(self) -> str:
        """Folder of the composed scenes of `stamps`."""
        return f"{self.data}/scenes"

    @property
    def composed(self) -> bool:
        """Whether any images of this experiment are composed scenes."""
        return self.config.index.kind == "stamps" or self.config.benchmark.kind == "stamps"

    @property
    def index_root(self) -> Path:
        """Folder of the index."""
        index = self.config.index
        return index.root if isinstance(index, FolderIndex) else Path(self.scenes, "index")

    @property
    def benchmark_root(self) -> Path:
        """Folder of classes.txt, images/ and masks/."""
        benchmark = self.config.benchmark
        if isinstance(benchmark, FolderBenchmark):
            return benchmark.root
        return Path(self.scenes, "benchmark")

    @property
    def index_labels(self) -> Path | None:
        """CSV that says what index images show, where that is known."""
        index = self.config.index
        if isinstance(index, FolderIndex):
            return index.labels
        return Path(self.scenes, "index_labels.csv")

    def split(self, role: str) -> str:
        """Name of the folder of the `train` or `val` split."""
        return getattr(self.config.benchmark, role, role)

    def store(self, what: str, spec: str, version: str, size: int | None = None) -> str:
        """Folder of the store of `what` a model gives: global, dense, encoder, text-<role>.

        The kind stands before the model, so that the folders that one stage fills have one parent.

        Args:
            spec: the model as the config names it.
            version: fingerprint of its weights and preprocessing.
            size: side of its input in pixels; None for text.
        """
        folder = f"text/{what}" if what.startswith("text") else f"{self.dataset}/{what}"
        model = f"{fingerprint(spec, 6)}-{version}" + (f"-{size}" if size else "")
        return f"data/store/{folder}/{model}"

    @property
    def dataset(self) -> str:
        """Name of the index in the store."""
        if self.config.index.kind == "stamps":
            return "stamps"
        return f"{self.index_root.name}-{fingerprint(str(self.index_root.absolute()), 6)}"

    def model(self, role: str) -> list[str]:
        """What tells whether a role's model changed: spec, code, and a local checkpoint's state."""
        spec = getattr(self.config.models, role)
        kind, _, rest = spec.partition(":")
        checkpoint = Path(rest.split("/", 1)[-1].removeprefix("local-dir:"))
        if kind == "packaged" or not checkpoint.exists():
            state = ""
        else:
            stat = checkpoint.stat()
            state = f"{stat.st_size}-{stat.st_mtime_ns}"
        return [spec, *_code("models/images", MODULES.get(kind, "models/__init__")), state]

    # ---- concepts -----------------------------------------------------------------------------

    @cached_property
    def classes(self) -> list[str]:
        """Names of the benchmark's labels, by id."""
        if self.config.benchmark.kind == "folder":
            return read_classes(self.benchmark_root)
        return list(dict.fromkeys(row["concept"] for row in read_table(CUTOUTS)))

    @cached_property
    def targets(self) -> list[Concept]:
        """The concepts that are predicted, in the order of the labels, further ones after."""
        concepts = self.config.concepts
        if isinstance(concepts, Path):
            entries = read_yaml(concepts)
            if not isinstance(entries, list):
                raise RecoError(f"{concepts}: must be a YAML list of concepts")
            concepts = Config.model_validate({"concepts": entries}).concepts
        if not isinstance(concepts, list):  # None: the classes of the benchmark
            concepts = [Concept(name=name) for name in self.classes]
        if not concepts:
            raise RecoError("concepts: none given: list at least one name")
        check_slugs(concepts)
        place = {name: label for label, name in enumerate(self.classes)}
        return sorted(concepts, key=lambda concept: place.get(concept.name, len(place)))

    @cached_property
    def labels(self) -> list[str]:
        """Names of all label ids: the benchmark's classes, then concepts that it does not have."""
        known = set(self.classes)
        return self.classes + [c.name for c in self.targets if c.name not in known]

    @cached_property
    def target_labels(self) -> np.ndarray:
        """(targets,) int64: the label id of every target."""
        place = {name: label for label, name in enumerate(self.labels)}
        return np.array([place[concept.name] for concept in self.targets])

    @cached_property
    def concepts(self) -> dict[str, Concept]:
        """Every concept by slug, contexts first; a target that is a context stands once."""
        merged = {concept.slug: concept for concept in self.config.context}
        for target in self.targets:
            context = merged.setdefault(target.slug, target)
            if context != target:
                raise RecoError(
                    f"concept {target.name!r} is also a context concept, with other aliases or "
                    "prompts: write it the same way in both places"
                )
        return merged

    def context_before(self, slug: str) -> list[str]:
        """Slugs of the context concepts that are eliminated from a concept's archive, in order.

        A context concept is freed of those before it; any other concept of all of them.
        """
        context = [concept.slug for concept in self.config.context]
        return context[: context.index(slug)] if slug in context else context

    # ---- files of a concept -------------------------------------------------------------------

    def text(self, slug: str) -> str:
        """Text embeddings of a concept (retrieval, dense)."""
        return self._name("text", slug, "safetensors", self._text(slug))

    def archive(self, slug: str) -> str:
        """Archive of a concept: its best images, ranked."""
        return self._name("archives", slug, "csv", self._archive(slug))

    def features(self, slug: str) -> str:
        """Where the features of a concept's archive are in the store."""
        return self._name("features", slug, "csv", self._features(slug))

    def reference(self, slug: str) -> str:
        """Reference embeddings, seeds and support of a concept."""
        return self._name("references", slug, "safetensors", self._references[slug])

    def _name(self, folder: str, slug: str, suffix: str, mark: str) -> str:
        return f"{self.data}/{folder}/{slug}.{mark}.{suffix}"

    def _text(self, slug: str) -> str:
        concept = self.concepts[slug].model_dump(mode="json")
        models = [self.model("retrieval"), self.model("dense")]
        return fingerprint([concept, models, _code("text", "prompts", "concepts")])

    def _archive(self, slug: str) -> str:
        largest = self.config.all_archive_sizes[-1]
        return fingerprint([self._text(slug), largest, _code("retrieve")])

    def _features(self, slug: str) -> str:
        models = [self.model("dense"), self.model("encoder")]
        return fingerprint([self._archive(slug), models, self.config.sizes.archive])

    @cached_property
    def _references(self) -> dict[str, str]:
        """Fingerprint of every reference; contexts come first, for the others depend on them."""
        config = self.config
        settings = [
            config.cosegment.model_dump(mode="json"),
            config.temperature,
            config.archive_size,
            config.all_archive_sizes,
            _code("cosegment", "reference"),
        ]
        marks: dict[str, str] = {}
        for slug in self.concepts:
            before = [marks[context] for context in self.context_before(slug)]
            marks[slug] = fingerprint([self._features(slug), before, settings])
        return marks

    @property
    def inference_settings(self) -> dict[str, object]:
        """The settings that prediction depends on."""
        config = self.config
        return {
            "models": [self.model("dense"), self.model("encoder")],
            "size": config.sizes.benchmark,
            "temperature": config.temperature,
            "crf": config.crf.model_dump(mode="json"),
            "labels": self.labels,
            "methods": [method.slug for method in self.zero_shot],
        }

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
    def best(self) -> Method:
        """ReCo with all its parts: what makes the pseudo-masks."""
        return Method("reco", True, bool(self.config.context), True, self.config.archive_size)

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
            self.best,
        ]

    @property
    def plus(self) -> list[Method]:
        """ReCo+ without and with the CRF."""
        best = self.best
        return [
            Method("reco_plus", best.lgc, best.ce, crf, best.archive_size) for crf in (False, True)
        ]


def images_state(experiment: Experiment) -> dict[str, str]:
    """What tells whether images were added, replaced or taken away since they were listed.

    Of composed scenes only names and sizes count, for times change where they are copied.
    """
    roots = {
        "index": [experiment.index_root],
        "benchmark": [
            experiment.benchmark_root / part / experiment.split(role)
            for part in ("images", "masks")
            for role in ("train", "val")
        ],
    }
    return {
        name: scan(
            *(root for root in folders if root.is_dir()),
            times=getattr(experiment.config, name).kind != "stamps",
        )
        for name, folders in roots.items()
    }


@cache
def _code(*modules: str) -> list[str]:
    """Digests of modules whose edits must run a stage again."""
    folder = Path(reco.__file__).parent
    return [sha256(folder / f"{module}.py")[:12] for module in modules]
