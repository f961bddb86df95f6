"""The images: an index to retrieve from, a benchmark to score on, scenes composed for both."""

from typing import Literal

from pydantic import Field, model_validator

from reco.config.section import MANY, Int, Section, SplitName, UserPath


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
