"""The method: co-segmentation, the bank of seeds, the CRF."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from reco.config.section import PIXELS, Float, Int, Section


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
