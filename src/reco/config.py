"""The config of an experiment: every key, its type, its default, and errors that say the remedy.

The defaults here are the only ones: a file means the same to Snakemake, to a command and to
`reco.load`, in a checkout and outside. They are the default experiment, which `params.yaml` spells
out. `config/README.md` explains the keys to people, `workflow/schemas/config.schema.json` (made by
`reco schema`) to editors; tests hold the four together.
"""

import re
from datetime import date
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from reco.concepts import Concept, check_concepts
from reco.device import DEVICES, check_device
from reco.errors import RecoError
from reco.explain import explain, not_text
from reco.files import fingerprint, read_text

# Folders below data/ and results/ that belong to no experiment.
SHARED = {
    "data": ("downloads", "models", "packages", "photographs", "store"),
    "results": ("benchmarks", "recorded"),
}
EXPERIMENT = r"[a-z0-9][a-z0-9_-]{0,59}"
LISTS = (".yaml", ".yml", ".txt")  # endings of files that list concepts
PIXELS = 8192  # no side is longer
MANY = 1_000_000  # of images, steps: more is a slip of the hand


def _path(value: object) -> object:
    """`--config photos=2024` is a number to Snakemake, and the folder's name to its user."""
    if isinstance(value, int) and not isinstance(value, bool) and Path(str(value)).exists():
        return str(value)
    if isinstance(value, str) and (not value.strip() or "\0" in value):
        raise ValueError("blank: write a path, or leave the key out")
    return value


def _split(name: str) -> str:
    """A split names a folder below images/, which nothing else may be reached by."""
    parts = name.split("/")
    if not name.isprintable() or "\\" in name or {"", ".", ".."} & {part.strip() for part in parts}:
        raise ValueError(f"{name!r} names no folder below images/: write a name, or a/b")
    return name


def _number(value: object) -> object:
    """To pydantic, True is 1."""
    if isinstance(value, bool):
        raise ValueError(f"{value} is no number")
    return value


Int = Annotated[int, BeforeValidator(_number)]
Float = Annotated[float, BeforeValidator(_number)]
UserPath = Annotated[Path, BeforeValidator(_path)]
SplitName = Annotated[str, AfterValidator(_split)]


class Section(BaseModel):
    """A part of the config; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class StampsIndex(Section):
    """The composed scenes of the default experiment."""

    kind: Literal["stamps"] = "stamps"


class FolderIndex(Section):
    """Any folder tree of images; no labels needed. Of `imagenet` the folders' names are labels."""

    kind: Literal["folder", "imagenet"]
    root: UserPath = Field(description="folder that is searched for images, at any depth")
    labels: UserPath | None = Field(
        None,
        description="CSV with columns path and concepts (';' between several), used for nothing "
        "but the precision of retrieval",
    )


class StampsBenchmark(Section):
    """The composed train and val scenes of the default experiment, with masks."""

    kind: Literal["stamps"] = "stamps"


class FolderBenchmark(Section):
    """Labelled images under one root: our own layout (`folder`), or as a dataset is published."""

    kind: Literal["folder", "cityscapes", "coco_stuff", "kitti_step", "pascal_context", "firenet"]
    root: UserPath = Field(
        description="folder that holds classes.txt, images/ and masks/, or what is published"
    )
    train_root: UserPath | None = Field(
        None,
        description="coco_stuff: the folder of COCO-Stuff10K, whose train images train ReCo+",
    )
    train: SplitName = Field("train", description="split whose images (never masks) train ReCo+")
    val: SplitName = Field("val", description="split that is scored")

    @model_validator(mode="after")
    def _one_root(self) -> "FolderBenchmark":
        if self.train_root and self.kind != "coco_stuff":
            raise ValueError("train_root goes with kind: coco_stuff alone")
        return self


class Stamps(Section):
    """How the default experiment's scenes are fetched and composed."""

    source: str | None = Field(
        None,
        description="where the photograph packages come from: null = apt-get, else a folder that "
        "holds the .deb files or the address of a Debian mirror",
    )
    size: Int = Field(320, ge=64, le=2048, description="width and height of a scene in pixels")
    index: Int = Field(1200, ge=1, le=MANY, description="number of unlabelled scenes")
    train: Int = Field(240, ge=1, le=MANY, description="number of scenes that train ReCo+")
    val: Int = Field(120, ge=1, le=MANY, description="number of scenes that are scored")


class Models(Section):
    """Which network plays which role."""

    retrieval: str = Field(
        "packaged", min_length=1, description="language-image model that ranks the index"
    )
    dense: str = Field(
        "packaged", min_length=1, description="language-image model for dense saliency"
    )
    encoder: str = Field("packaged", min_length=1, description="image encoder that is co-segmented")
    statistics: Literal["own", "imagenet"] = Field(
        "own",
        description="mean and deviation of the pixels that the dense model and the encoder get: "
        "each network's own, or ImageNet's for both, as in the released code",
    )
    precision: Literal["full", "half"] = Field(
        "full",
        description="of the networks' forward passes over images: `full`, float32; or `half`, "
        "16 bits, which GPUs are made for",
    )


class Sizes(Section):
    """Side of the network's input in pixels, per stage."""

    retrieval: Int = Field(
        320, ge=32, le=PIXELS, description="index images: shorter side, centre crop"
    )
    archive: Int = Field(
        320, ge=32, le=PIXELS, description="archive images: shorter side, centre crop"
    )
    benchmark: Int | None = Field(
        320, ge=32, le=PIXELS, description="benchmark images: shorter side; null = as they are"
    )


class Cosegment(Section):
    """Co-segmentation (paper section 3.2)."""

    variant: Literal["paper", "released"] = Field(
        "paper", description="the rule as the paper states it, or as the published code computes it"
    )
    merge: Literal["mean", "weighted", "winner"] = Field(
        "mean", description="how seeds become one reference embedding"
    )


class Bank(Section):
    """The recipe `seedbank` (docs/recipe.md)."""

    size: Int = Field(
        30, ge=2, le=10_000, description="archive images that give a seed each; all are kept"
    )
    scales: list[Annotated[Int, Field(ge=32, le=PIXELS)]] = Field(
        [320, 448],
        min_length=1,
        max_length=8,
        description="shorter sides in pixels at which images are looked at; scores are averaged",
    )

    @field_validator("scales")
    @classmethod
    def _different(cls, scales: list[int]) -> list[int]:
        if len(set(scales)) < len(scales):
            raise ValueError("a scale is given twice: leave one")
        return scales


class CRF(Section):
    """Dense CRF (Kraehenbuehl and Koltun 2011): the paper's values but for `size`, `tolerance`."""

    size: Int | None = Field(
        160,
        ge=16,
        le=PIXELS,
        description="longer side at which the mean field runs; null = full size",
    )
    iterations: Int = Field(10, ge=1, le=10_000, description="mean-field steps")
    tolerance: Float = Field(
        0.001,
        ge=0,
        lt=1,
        description="how far a class's probability may move, as a share of the largest one, before "
        "its messages are computed anew; 0 = always, as pydensecrf does",
    )
    gaussian_sxy: Float = Field(1.0, gt=0, description="smoothness kernel: width in pixels")
    gaussian_compat: Float = Field(3.0, ge=0, description="smoothness kernel: weight")
    bilateral_sxy: Float = Field(67.0, gt=0, description="appearance kernel: width in pixels")
    bilateral_srgb: Float = Field(3.0, gt=0, description="appearance kernel: width in grey levels")
    bilateral_compat: Float = Field(4.0, ge=0, description="appearance kernel: weight")


Scale = Annotated[Float, Field(gt=0, le=10)]


class Train(Section):
    """ReCo+: a student of ReCo; all keys but the first three are of `deeplab`."""

    student: Literal["probe", "deeplab"] | None = Field(
        None,
        description="what learns: `probe`, a linear map of the recipe `seedbank`'s features; or "
        "`deeplab`, the paper's DeepLabv3+; null = the one of the recipe",
    )
    index: Int = Field(
        1200,
        ge=0,
        le=MANY,
        description="probe: images of the index that it learns from beside the train split, drawn "
        "at random",
    )
    encoder: str = Field(
        "packaged",
        min_length=1,
        description="backbone: packaged, or a segmentation_models_pytorch encoder",
    )
    encoder_weights: str | None = Field(
        None, description="weights of such an encoder: null, 'imagenet', or a local checkpoint"
    )
    keep: Float = Field(
        0.35,
        gt=0,
        le=1,
        description="share of each image, where ReCo is surest, whose pseudo-labels are learned; "
        "the paper's is 1; less where most of an image shows none of the concepts",
    )
    scale: tuple[Scale, Scale] = Field(
        (0.9, 1.8), description="random scale of an image, least and most; the paper's is 0.5 to 2"
    )
    jitter: Float = Field(
        0.2,
        ge=0,
        le=2,
        description="strength of the colour jitter (hue: a quarter); the paper's is 0.8",
    )
    size: Int = Field(192, ge=32, le=PIXELS, description="side of a training crop in pixels")
    iterations: Int = Field(500, ge=1, le=10 * MANY, description="optimiser steps")
    batch: Int = Field(8, ge=2, le=4096, description="images a step")
    lr: Float = Field(2e-3, gt=0, description="Adam's learning rate")
    backbone_lr: Float = Field(
        0.0,
        ge=0,
        description="learning rate of the backbone as a share of lr; the paper's is 0.1; 0 keeps "
        "the backbone as it is, at a third of the time",
    )
    full_size_loss: bool = Field(
        False,
        description="the loss at the size of the crop, to which the network's maps are enlarged, "
        "as in the paper; else at the size of the maps, a quarter, which costs a CPU far less",
    )
    merge_labels: bool = Field(
        False,
        description="where a benchmark merges the predicted names for scoring (coco_stuff), learn "
        "the merged classes, as the released code does; else the names, which are merged after",
    )
    validate_every: Int = Field(
        0,
        ge=0,
        le=10 * MANY,
        description="steps between looks at val, reported beside the result and used for nothing; "
        "0 = none. The released code looks every 1,000 steps and keeps the best",
    )

    @field_validator("scale")
    @classmethod
    def _ascending(cls, scale: tuple[float, float]) -> tuple[float, float]:
        if scale[0] > scale[1]:
            raise ValueError(f"the least comes first: write [{scale[1]:g}, {scale[0]:g}]")
        return scale


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
        return None if concepts is None else _listed(concepts)

    @field_validator("context", mode="before")
    @classmethod
    def _without_reference(cls, context: object) -> list[Concept]:
        concepts = _listed(context)
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


def check_config(values: dict[str, Any]) -> Config:
    """The config that some keys and the defaults make; every file and command line comes in here.

    Where there are `photos`, nothing is scored, and so there is no benchmark.

    Raises:
        RecoError: one line per problem: the key, what is wrong, and the nearest key that exists.
    """
    try:
        config = Config.model_validate(values)
    except ValidationError as error:
        # A key of the user's may have line breaks in it.
        lines = [" ".join(_explain(problem).splitlines()) for problem in error.errors()]
        raise RecoError("config: " + "\nconfig: ".join(lines)) from None
    return config.model_copy(update={"benchmark": None}) if config.photos else config


def load(*files: str | Path) -> Config:
    """Read config files, later ones over earlier ones, and check the result."""
    merged: dict[str, Any] = {}
    for file in files:
        values = read_yaml(file)
        if not isinstance(values, dict):
            raise RecoError(f"{file}: a config is a mapping of keys to values")
        _merge(merged, values)
    return check_config(merged)


def lists(concepts: str) -> bool:
    """Whether a text names a file that lists concepts, rather than concepts."""
    return concepts.strip().lower().endswith(LISTS)


def read_concepts(file: str | Path) -> list[Concept]:
    """The concepts that a file lists: a YAML list (.yaml, .yml), or text with a name a line.

    Raises:
        RecoError: a file that cannot be read, holds no list, or an entry that is no concept.
    """
    if Path(file).suffix.lower() == ".txt":
        entries = [line for line in read_text(file).split("\n") if line.strip()]
    else:
        entries = read_yaml(file)
    if not entries:
        raise RecoError(f"{file}: names no concept: list at least one")
    try:
        return check_concepts(entries)
    except RecoError as error:
        raise RecoError(f"{file}: {error}") from None


def read_yaml(file: str | Path) -> Any:
    """Read a YAML file (plain data only).

    Raises:
        RecoError: no such file, a folder, or no YAML.
    """
    text = read_text(file)
    try:
        return yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"line {mark.line + 1}: " if mark else ""
        raise RecoError(
            f"{file}: not valid YAML: {place}{error.problem or error.context}"
        ) from None
    except Exception as error:  # dates that are none, numbers without end, nests without end
        reason = " ".join(str(error).split()) or type(error).__name__
        raise RecoError(f"{file}: not valid YAML: {reason:.200}") from None


def config_fingerprint(config: Config) -> str:
    """Digest of every value of the config."""
    return fingerprint(config.model_dump(mode="json"))


def _merge(base: dict[str, Any], over: dict[str, Any]) -> None:
    for key, value in over.items():
        if isinstance(value, dict) and isinstance(base.get(key), dict):
            _merge(base[key], value)
        else:
            base[key] = value


def _listed(concepts: object) -> list[Concept]:
    """Concepts from a list, or from text with commas between names."""
    if isinstance(concepts, int | float | date):
        raise ValueError(not_text(concepts))
    if isinstance(concepts, str):
        concepts = [name.strip() for name in concepts.split(",") if name.strip()]
    try:
        return check_concepts(concepts)
    except RecoError as error:
        raise ValueError(str(error)) from None


def _explain(problem: Any) -> str:
    line, place, value = explain(problem, Config), problem["loc"], problem["input"]
    if isinstance(value, int | float) and len(place) == 1 and line.endswith("in quotes"):
        # Snakemake takes quotes away before it looks for numbers, of which 2024_05_01 is one.
        other = {"photos": "photos=./...", "concepts": "concepts='[...]'"}.get(place[0])
        line += f" in a file; on the command line write {other}" if other else " in a config file"
    return line
