"""Variants: the ways of predicting that tables compare."""

from dataclasses import dataclass

STEPS = ("whitened", "summed", "kept", "seedbank")
"""From the paper's rule to `seedbank`, each with the parts before it: whitened features; the sum of
two cosines instead of a product of sigmoids; all seeds kept instead of their mean; all scales."""


@dataclass(frozen=True)
class Method:
    """One way of predicting, and so one row of the metrics.

    Attributes:
        kind: denseclip (dense saliency alone), reference (reference embeddings alone), reco
            (their product) or reco_plus (the segmenter trained on reco's masks).
        lgc: language guidance in co-segmentation.
        ce: context elimination in co-segmentation.
        crf: dense CRF after prediction.
        archive_size: images per archive; 0 where no archive is used.
        recipe: `paper`, or a step of the way from it to `seedbank`, which is the last; see STEPS.
    """

    kind: str
    lgc: bool
    ce: bool
    crf: bool
    archive_size: int
    recipe: str = "paper"

    @property
    def slug(self) -> str:
        """Name of the folder of its masks, such as `reco-lgc-ce-k20-crf`."""
        parts = [self.kind, "" if self.recipe == "paper" else self.recipe]
        parts += [self.reference_name] * bool(self.archive_size)
        return "-".join(filter(None, [*parts, "crf" if self.crf else ""]))

    @property
    def referenced(self) -> bool:
        """Whether it compares with the paper's reference embeddings."""
        return self.recipe == "paper" and self.archive_size > 0

    @property
    def banked(self) -> bool:
        """Whether it compares with a bank of seeds."""
        return self.recipe != "paper"

    @property
    def reference_name(self) -> str:
        """Name of the way of co-segmenting it uses, such as `lgc-ce-k20`."""
        flags = ["lgc"] * self.lgc + ["ce"] * self.ce
        return "-".join([*flags, f"k{self.archive_size}"])
