"""The methods that an experiment compares: rows of its tables, folders of its masks."""

from dataclasses import dataclass, replace

from reco.config import Config
from reco.method.variants import STEPS, Method


@dataclass(frozen=True)
class Methods:
    """What a config asks to be compared."""

    config: Config

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
    def paper(self) -> Method:
        """The paper's ReCo with all its parts."""
        return Method("reco", True, bool(self.config.context), True, self.config.archive_size)

    @property
    def best(self) -> Method:
        """ReCo by the recipe of the config, with all its parts: what makes the pseudo-masks."""
        if not self.config.banked:
            return self.paper
        return Method("reco", False, False, True, self.config.bank.size, "seedbank")

    @property
    def steps(self) -> list[Method]:
        """The parts of the recipe `seedbank` added one by one, without a CRF."""
        if not self.config.banked:
            return []
        return [replace(self.best, crf=False, recipe=step) for step in STEPS]

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
            self.paper,
            *self.steps,
            *[self.best] * self.config.banked,
        ]

    def methods(self, split: str) -> list[Method]:
        """What segments a split without training: of val every method, of train the best one."""
        return self.zero_shot if split == "val" else [self.best]

    @property
    def plus(self) -> list[Method]:
        """ReCo+ without and with the CRF; nothing where it is not trained."""
        if self.config.train is None:
            return []
        return [replace(self.best, kind="reco_plus", crf=crf) for crf in (False, True)]
