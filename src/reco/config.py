"""The config of an experiment: every key, its type, its default, and errors that say the remedy.

`config/README.md` explains the keys to people, `workflow/schemas/config.schema.json` (made by
`reco schema`) to editors; tests hold the three together.
"""

import difflib
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from reco.concepts import Concept, check_slugs
from reco.errors import RecoError
from reco.files import fingerprint

# Folders below data/ that belong to no experiment.
SHARED = ("downloads", "models", "packages", "photographs", "store")


class Section(BaseModel):
    """A part of the config; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class StampsIndex(Section):
    """The composed scenes of the default experiment."""

    kind: Literal["stamps"] = "stamps"


class FolderIndex(Section):
    """Any folder tree of images; no labels needed. Of `imagenet` the folders' names are labels."""

    kind: Literal["folder", "imagenet"]
    root: Path = Field(description="folder that is searched for images, at any depth")
    labels: Path | None = Field(
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
    root: Path = Field(
        description="folder that holds classes.txt, images/ and masks/, or what is published"
    )
    train_root: Path | None = Field(
        None,
        description="coco_stuff: the folder of COCO-Stuff10K, whose train images train ReCo+",
    )
    train: str = Field("train", description="split whose images (never masks) train ReCo+")
    val: str = Field("val", description="split that is scored")

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
    size: int = Field(320, ge=64, le=2048, description="width and height of a scene in pixels")
    index: int = Field(1200, ge=1, description="number of unlabelled scenes")
    train: int = Field(240, ge=1, description="number of scenes that train ReCo+")
    val: int = Field(120, ge=1, description="number of scenes that are scored")


class Models(Section):
    """Which network plays which role."""

    retrieval: str = Field("packaged", description="language-image model that ranks the index")
    dense: str = Field("packaged", description="language-image model for dense saliency")
    encoder: str = Field("packaged", description="image encoder that is co-segmented")
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

    retrieval: int = Field(256, ge=32, description="index images: shorter side, centre crop")
    archive: int = Field(256, ge=32, description="archive images: shorter side, centre crop")
    benchmark: int | None = Field(
        320, ge=32, description="benchmark images: shorter side; null = as they are"
    )


class Cosegment(Section):
    """Co-segmentation (paper section 3.2)."""

    variant: Literal["paper", "released"] = Field(
        "paper", description="the rule as the paper states it, or as the published code computes it"
    )
    merge: Literal["mean", "weighted", "winner"] = Field(
        "mean", description="how seeds become one reference embedding"
    )


class CRF(Section):
    """Dense CRF (Kraehenbuehl and Koltun 2011): the paper's values but for `size`, `tolerance`."""

    size: int | None = Field(
        None, ge=16, description="longer side at which the mean field runs; null = full size"
    )
    iterations: int = Field(10, ge=1, description="mean-field steps")
    tolerance: float = Field(
        0.001,
        ge=0,
        lt=1,
        description="how far a class's probability may move, as a share of the largest one, before "
        "its messages are computed anew; 0 = always, as pydensecrf does",
    )
    gaussian_sxy: float = Field(1.0, gt=0, description="smoothness kernel: width in pixels")
    gaussian_compat: float = Field(3.0, ge=0, description="smoothness kernel: weight")
    bilateral_sxy: float = Field(67.0, gt=0, description="appearance kernel: width in pixels")
    bilateral_srgb: float = Field(3.0, gt=0, description="appearance kernel: width in grey levels")
    bilateral_compat: float = Field(4.0, ge=0, description="appearance kernel: weight")


class Train(Section):
    """ReCo+: DeepLabv3+ on the pseudo-masks of the train split."""

    encoder: str = Field(
        "packaged", description="backbone: packaged, or a segmentation_models_pytorch encoder"
    )
    encoder_weights: str | None = Field(
        None, description="weights of such an encoder: null, 'imagenet', or a local checkpoint"
    )
    keep: float = Field(
        1.0,
        gt=0,
        le=1,
        description="share of each image's pixels, the most salient ones, whose pseudo-labels are "
        "learned; the paper's is 1; less where most of an image shows none of the concepts",
    )
    scale: tuple[float, float] = Field(
        (0.5, 2.0), description="random scale of an image, least and most; the paper's is 0.5 to 2"
    )
    jitter: float = Field(
        0.8, ge=0, description="strength of the colour jitter (hue: a quarter); the paper's is 0.8"
    )
    size: int = Field(256, ge=32, description="side of a training crop in pixels")
    iterations: int = Field(150, ge=1, description="optimiser steps")
    batch: int = Field(8, ge=2, description="images a step")
    lr: float = Field(5e-4, gt=0, description="Adam's learning rate")
    backbone_lr: float = Field(
        0.0,
        ge=0,
        description="learning rate of the backbone as a share of lr; the paper's is 0.1; 0 keeps "
        "the backbone as it is, at a third of the time",
    )
    validate_every: int = Field(
        0,
        ge=0,
        description="steps between looks at val, reported beside the result and used for nothing; "
        "0 = none. The released code looks every 1,000 steps and keeps the best",
    )


class Config(Section):
    """One experiment."""

    experiment: str = Field(
        "stamps",
        pattern=r"^[a-z0-9][a-z0-9_-]{0,59}$",
        description="name of the folders under data/ and results/",
    )
    seed: int = Field(0, ge=0, description="seed of everything random")
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
    concepts: list[Concept] | Path | None = Field(
        None,
        description="names or {name, aliases, prompts}, or text with commas between names; a YAML "
        "file with such a list (.yaml, .yml); null = the classes of the benchmark",
    )
    photos: Path | None = Field(
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
        [Concept(name=name) for name in ("tree", "sky", "building", "road", "person")],
        description="context concepts to eliminate, in order; [] = no context elimination",
    )
    models: Models = Models()
    sizes: Sizes = Sizes()
    archive_size: int = Field(20, ge=1, description="k: images retrieved for a concept")
    archive_sizes: list[int] = Field(
        [5, 10], description="further archive sizes, for the curve of mIoU against k"
    )
    compare: dict[str, str] = Field(
        {},
        description="experiments to draw beside this one in the figures of archive size and "
        "precision, with their labels; those without results are left out",
    )
    temperature: float = Field(10.0, gt=0, description="scale of the cosine in dense saliency")
    cosegment: Cosegment = Cosegment()
    crf: CRF = CRF()
    train: Train | None = Field(Train(), description="ReCo+; null = none is trained")

    @field_validator("experiment")
    @classmethod
    def _own_folder(cls, name: str) -> str:
        if name in SHARED:
            raise ValueError(f"data/{name} is shared by all experiments: choose another name")
        return name

    @field_validator("concepts", mode="before")
    @classmethod
    def _names_in_a_line(cls, concepts: object) -> object:
        if not isinstance(concepts, str) or concepts.endswith((".yaml", ".yml")):
            return concepts
        return [name.strip() for name in concepts.split(",") if name.strip()]

    @field_validator("archive_sizes")
    @classmethod
    def _positive(cls, sizes: list[int]) -> list[int]:
        if any(size < 1 for size in sizes):
            raise ValueError("archive sizes are at least 1")
        return sorted(set(sizes))

    @model_validator(mode="after")
    def _distinct(self) -> "Config":
        for group in (self.concepts, self.context):
            if isinstance(group, list):
                check_slugs(group)
        return self

    @property
    def all_archive_sizes(self) -> list[int]:
        """Every archive size that is evaluated, ascending."""
        return sorted({*self.archive_sizes, self.archive_size})


def check_config(values: dict[str, Any]) -> Config:
    """Check a merged config.

    Raises:
        RecoError: one line per problem: the key, what is wrong, and the nearest key that exists.
    """
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        lines = [_explain(problem) for problem in error.errors()]
        raise RecoError("config: " + "\nconfig: ".join(lines)) from None


def load(*files: str | Path) -> Config:
    """Read config files, later ones over earlier ones, and check the result."""
    merged: dict[str, Any] = {}
    for file in files:
        values = read_yaml(file)
        if not isinstance(values, dict):
            raise RecoError(f"{file}: a config is a mapping of keys to values")
        _merge(merged, values)
    return check_config(merged)


def read_yaml(file: str | Path) -> Any:
    """Read a YAML file (plain data only)."""
    try:
        return yaml.safe_load(Path(file).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecoError(f"{file}: no such file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecoError(f"{file}: not valid YAML: {error}") from None


def config_fingerprint(config: Config) -> str:
    """Digest of every value of the config."""
    return fingerprint(config.model_dump(mode="json"))


def _merge(base: dict[str, Any], over: dict[str, Any]) -> None:
    for key, value in over.items():
        if isinstance(value, dict) and isinstance(base.get(key), dict):
            _merge(base[key], value)
        else:
            base[key] = value


def _explain(problem: Any) -> str:
    location = [str(part) for part in problem["loc"]]
    key = ".".join(location)
    if problem["type"] != "extra_forbidden":
        message = problem["msg"].removeprefix("Value error, ")
        return f"{key}: {message}" if key else message
    known = _keys(location[:-1])
    near = difflib.get_close_matches(location[-1], known, 1, 0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"known keys here: {', '.join(known)}"
    return f"unknown key {key!r}: {hint}"


def _keys(location: list[str]) -> list[str]:
    """The keys that exist at a place of the config, found by walking the JSON schema."""
    schema = Config.model_json_schema()
    node: Any = schema
    for part in location:
        node = node.get("properties", {}).get(part, node)
        for option in [node, *node.get("anyOf", []), *node.get("oneOf", [])]:
            reference = option.get("$ref") or option.get("items", {}).get("$ref")
            if reference:
                node = schema["$defs"][reference.rsplit("/", 1)[1]]
        mapping = node.get("discriminator", {}).get("mapping", {})
        if mapping:
            choices = [schema["$defs"][name.rsplit("/", 1)[1]] for name in mapping.values()]
            node = {"properties": {key: {} for choice in choices for key in choice["properties"]}}
    return sorted(node.get("properties", {}))
