"""The plan of an experiment: its concepts, and the name of every file the DAG makes.

Snakefile, commands and tests ask here, so that a file has one name. Files of a concept carry a
fingerprint of everything they depend on (the concept, the models' names, the settings, the code
of the stage): a changed concept has new names, which alone schedules its jobs and no others.

What names are made from stands beside: `vocabulary.py`, `methods.py`, `images.py`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from reco.code import code_fingerprint
from reco.experiment.images import Images, side_name
from reco.experiment.vocabulary import CUTOUTS
from reco.files import fingerprint, sha256
from reco.method.variants import Method

__all__ = ["BACKGROUNDS", "CUTOUTS", "PACKAGES", "Experiment", "side_name"]

PACKAGES = "config/stamps/packages.yaml"
BACKGROUNDS = "config/stamps/backgrounds.csv"


@dataclass(frozen=True)
class Experiment(Images):
    """A config and the names that follow from it. Paths are relative to the project."""

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
