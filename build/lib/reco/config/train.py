"""ReCo+: what learns from ReCo's masks, and how."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from reco.config.section import MANY, PIXELS, Float, Int, Section

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
