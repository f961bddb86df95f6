"""An experiment: every key of its config, its type, its default, and errors that say the remedy.

The defaults here and in the sections are the only ones: a file means the same to Snakemake, to a
command and to `reco.load`, in a checkout and outside. They are the default experiment, which
`params.yaml` spells out. `config/README.md` explains the keys to people,
`workflow/schemas/config.schema.json` (made by `reco schema`) to editors; tests hold the four
together.
"""

import re
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from reco.concepts import Concept
from reco.config.concepts import listed, lists, read_concepts
from reco.config.images import FolderBenchmark, FolderIndex, Stamps, StampsBenchmark, StampsIndex
from reco.config.method import CRF, Bank, Cosegment
from reco.config.models import Models, Sizes
from reco.config.section import Float, Int, Section, UserPath
from reco.config.train import Train
from reco.device import DEVICES, check_device
from reco.errors import RecoError

# Folders below data/ and results/ that belong to no experiment.
SHARED = {
    "data": ("downloads", "models", "packages", "photographs", "store"),
    "results": ("benchmarks", "recorded"),
}
EXPERIMENT = r"[a-z0-9][a-z0-9_-]{0,59}"
ARCHIVE = 10_000  # images; all pairs of them are compared


def _or_text(schema: dict[str, Any]) -> None:
    """Editors shall take text, too: names with commas between, or the path of a file."""
    schema["anyOf"].insert(1, {"type": "string"})


class Config(Section):
    """One experiment. A file that `concepts` names is read: the config holds what it lists."""

    experiment: str = Field(
        "stamps",
        pattern=f"^{EXPERIMENT}$",
        description="name of the folders under data/ and results/",
    )
    seed: Int = Field(0, ge=0, le=2**63 - 1, description="seed of everything random")
    device: str = Field("auto", description="auto (a GPU where there is one), cpu, cuda, mps")
    index: Annotated[StampsIndex | FolderIndex, Field(discriminator="kind")] = StampsIndex()
    benchmark: Annotated[StampsBenchmark | FolderBenchmark, Field(discriminator="kind")] | None = (
        StampsBenchmark()
    )
    geometry: Literal["whole", "released"] = Field(
        "whole",
        description="which pixels of an image count: all, resized with antialias; or what the "
        "released code cuts out and resizes, which differs between benchmarks",
    )
    stamps: Stamps = Stamps()
    concepts: list[Concept] | None = Field(
        None,
        json_schema_extra=_or_text,
        description="names or {name, aliases, prompts}, or text with commas between names; a YAML "
        "file with such a list (.yaml, .yml) or text with a name a line (.txt); null = the classes "
        "of the benchmark",
    )
    photos: UserPath | None = Field(
        None,
        description="folder of photographs without labels: they are segmented, and nothing else "
        "is done; null = none",
    )
    background: bool | None = Field(
        None,
        description="photos: whether a pixel may be none of the concepts; null = only where there "
        "is one concept",
    )
    context: list[Concept] = Field(
        [Concept(name=name) for name in ("mountain", "beach", "lake", "valley")],
        description="context concepts to eliminate, in order; [] = no context elimination",
    )
    models: Models = Models()
    sizes: Sizes = Sizes()
    recipe: Literal["paper", "seedbank"] = Field(
        "seedbank",
        description="how archives become masks: as in the paper, or by a bank of seeds in whitened "
        "space (docs/recipe.md); tables of a benchmark always have the paper's, too",
    )
    bank: Bank = Bank()
    archive_size: Int = Field(20, ge=1, le=ARCHIVE, description="k: images retrieved for a concept")
    archive_sizes: list[Int] = Field(
        [5, 10], description="further archive sizes, for the curve of mIoU against k"
    )
    compare: dict[str, str] = Field(
        {},
        description="experiments to draw beside this one in the figures of archive size and "
        "precision, with their labels; those without results are left out",
    )
    keep_features: bool | None = Field(
        None,
        description="keep features of the benchmark's images in data/store, so that no network "
        "sees one twice; null = where their shorter side has at most 512 pixels",
    )
    temperature: Float = Field(10.0, gt=0, description="scale of the cosine in dense saliency")
    cosegment: Cosegment = Cosegment()
    crf: CRF = CRF()
    train: Train | None = Field(Train(), description="ReCo+; null = none is trained")

    @field_validator("experiment")
    @classmethod
    def _own_folder(cls, name: str) -> str:
        for folder, names in SHARED.items():
            if name in names:
                raise ValueError(
                    f"{folder}/{name} is shared by all experiments: choose another name"
                )
        return name

    @field_validator("device")
    @classmethod
    def _known_device(cls, name: str) -> str:
        try:
            return check_device(name)
        except RecoError:
            raise ValueError(f"{name!r} is none: write {DEVICES}") from None

    @field_validator("concepts", mode="before")
    @classmethod
    def _names_or_file(cls, concepts: object) -> object:
        if isinstance(concepts, str) and lists(concepts):
            concepts = Path(concepts.strip())
        if isinstance(concepts, Path):
            # Read once, so that it is in the fingerprint of the config and in the copy that jobs
            # read: whoever edits the file during a run changes the next one.
            try:
                return read_concepts(concepts)
            except RecoError as error:
                raise ValueError(str(error)) from None
        if concepts == "null":  # as --config reads it
            raise ValueError("'null' is a word here: on the command line, write concepts= for it")
        return None if concepts is None else listed(concepts)

    @field_validator("context", mode="before")
    @classmethod
    def _without_reference(cls, context: object) -> list[Concept]:
        concepts = listed(context)
        for concept in concepts:
            if concept.reference:
                raise ValueError(
                    f"{concept.name!r}: a context concept takes over no reference: leave it out"
                )
        return concepts

    @field_validator("archive_sizes")
    @classmethod
    def _possible(cls, sizes: list[int]) -> list[int]:
        if any(not 1 <= size <= ARCHIVE for size in sizes):
            raise ValueError(f"archive sizes are at least 1 and at most {ARCHIVE}")
        return sorted(set(sizes))

    @field_validator("compare")
    @classmethod
    def _experiments(cls, compare: dict[str, str]) -> dict[str, str]:
        for name in compare:
            if not re.fullmatch(f"{EXPERIMENT}(/{EXPERIMENT})*", name):
                raise ValueError(f"{name!r} is no name of an experiment")
        return compare

    @model_validator(mode="after")
    def _apart(self) -> "Config":
        benchmark = self.benchmark
        if self.train is None or not isinstance(benchmark, FolderBenchmark):
            return self
        train, val = PurePosixPath(benchmark.train), PurePosixPath(benchmark.val)
        if not benchmark.train_root and (train.is_relative_to(val) or val.is_relative_to(train)):
            raise ValueError(
                f"benchmark: train ({train}) and val ({val}) share images: ReCo+ would be scored "
                "on what it has learned from: name two splits; without ReCo+ write train: null"
            )
        return self

    @model_validator(mode="after")
    def _one_geometry(self) -> "Config":
        if self.recipe == "seedbank" and self.geometry == "released":
            raise ValueError(
                "recipe: seedbank has no released code: write geometry: whole, or recipe: paper"
            )
        return self

    @model_validator(mode="after")
    def _taught(self) -> "Config":
        if self.student == "probe" and self.recipe == "paper":
            raise ValueError(
                "train.student: probe learns in the space of the recipe seedbank: write "
                "recipe: seedbank, or student: deeplab"
            )
        return self

    @property
    def banked(self) -> bool:
        """Whether concepts have a bank of seeds."""
        return self.recipe == "seedbank"

    @property
    def student(self) -> Literal["probe", "deeplab"] | None:
        """What ReCo+ is; None where it is not trained."""
        if self.train is None or self.benchmark is None:
            return None
        return self.train.student or ("probe" if self.banked else "deeplab")

    @property
    def referenced(self) -> bool:
        """Whether concepts have the paper's references, which every table has rows of."""
        return self.recipe == "paper" or self.benchmark is not None

    @property
    def all_archive_sizes(self) -> list[int]:
        """Every size of the paper's archives that is evaluated, ascending."""
        return sorted({*self.archive_sizes, self.archive_size})

    @property
    def deepest_archive(self) -> int:
        """Images that have to be retrieved for a concept."""
        paper = self.all_archive_sizes[-1] if self.referenced else 0
        return max(paper, self.bank.size if self.banked else 0)
