"""The networks, and the sizes at which they see images."""

from typing import Literal

from pydantic import Field

from reco.config.section import PIXELS, Int, Section


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
