"""The images of an experiment, and where what networks compute of them is kept."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from reco.code import code_fingerprint
from reco.config import FolderBenchmark, FolderIndex, StampsBenchmark
from reco.data.benchmarks import reader_of
from reco.data.embeddings import Description, read_description
from reco.data.geometry import choose_geometry
from reco.data.split import Split
from reco.data.store import SPLITS
from reco.experiment.methods import Methods
from reco.experiment.vocabulary import Vocabulary
from reco.files import fingerprint, noted_digest
from reco.models import Output, backend, checkpoint_of, is_checkpoint

DIGESTS = "data/models/digests"  # notes of what checkpoints hold
KEPT = 512  # pixels of the shorter side up to which features of a benchmark are kept by default
PIXELS = ("data.images", "data.geometry", "models.half")
"""Modules by which every network's features come about, besides its own."""


@dataclass(frozen=True)
class Images(Vocabulary, Methods):
    """Which images a config names. Paths are relative to the project.

    Attributes:
        images: state of the index's images, where somebody has looked at them to plan; None = as
            they were embedded.
    """

    images: str | None = None

    @property
    def data(self) -> str:
        """Folder of intermediate files."""
        return f"data/{self.config.experiment}"

    @property
    def scenes(self) -> str:
        """Folder of the composed scenes of `stamps`."""
        return f"{self.data}/scenes"

    @property
    def composed(self) -> bool:
        """Whether any images of this experiment are composed scenes."""
        benchmark = self.config.benchmark
        return self.config.index.kind == "stamps" or isinstance(benchmark, StampsBenchmark)

    @property
    def index_root(self) -> Path:
        """Folder of the index."""
        index = self.config.index
        return index.root if isinstance(index, FolderIndex) else Path(self.scenes, "index")

    @property
    def index_labels(self) -> Path | None:
        """CSV that says what index images show, where that is known."""
        index = self.config.index
        if isinstance(index, FolderIndex):
            named = index.kind == "imagenet"
            return Path(self.data, "images/index_labels.csv") if named else index.labels
        return Path(self.scenes, "index_labels.csv")

    @property
    def embeddings(self) -> str:
        """Embeddings of the index images, a row each."""
        return f"{self.data}/embeddings/index.npy"

    @property
    def usable(self) -> str:
        """The list of these images: those that could be read, in the order of the rows."""
        return f"{self.data}/embeddings/index.csv"

    @cached_property
    def index(self) -> Description:
        """What the embeddings of the index are of, or will be."""
        if self.images is None:
            return read_description(self.embeddings)
        config = self.config
        composed = [config.stamps.model_dump(), config.seed] if self.composed else []
        made_by = ["workflow.catalog", "workflow.embed", *["data.scenes"] * self.composed]
        code = code_fingerprint(*made_by)
        state = [self.images, composed, self.model("retrieval"), config.sizes.retrieval, code]
        return Description(
            model=config.models.retrieval, size=config.sizes.retrieval, state=fingerprint(state)
        )

    def split(self, role: str) -> Split:
        """The `train` or the `val` split of the benchmark."""
        benchmark, geometry = self.config.benchmark, choose_geometry(self.config)
        if isinstance(benchmark, FolderBenchmark):
            if role == "train" and benchmark.train_root:
                # COCO-Stuff's val is scored, COCO-Stuff10K's train images are learned from.
                return Split(reader_of("coco_stuff10k"), benchmark.train_root, "train", geometry)
            return Split(self.reader, benchmark.root, getattr(benchmark, role), geometry)
        return Split(self.reader, Path(self.scenes, "benchmark"), role, geometry)

    def store(self, what: str, spec: str, version: str, size: int | None = None) -> str:
        """Folder of the store of `what` a model gives: global, dense, encoder, text-<role>.

        The kind stands before the model, so that the folders that one stage fills have one parent.

        Args:
            spec: the model as the config names it.
            version: fingerprint of its weights and preprocessing; the code counts besides.
            size: side of its input in pixels; None for text.
        """
        folder = f"text/{what}" if what.startswith("text") else f"{self.index_in_store}/{what}"
        computed = fingerprint([version, _code(spec)])
        model = f"{fingerprint(spec, 6)}-{computed}" + (f"-{size}" if size else "")
        return f"data/store/{folder}/{model}"

    def split_store(self, role: str, what: Output, spec: str, version: str, side: str) -> str:
        """Folder of the store of what a model gives for the pictures of a split.

        Args:
            version: of the model; the code counts besides, as in `store`.
            side: see `side_name`.
        """
        split = self.split(role)
        geometry = split.geometry
        pixels = fingerprint([geometry.size, geometry.crop, int(geometry.resample)], 6)
        stamped = isinstance(self.config.benchmark, StampsBenchmark)
        name = "stamps" if stamped else _in_store(split.root)
        computed = fingerprint([version, _code(spec)])
        model = f"{fingerprint(spec, 6)}-{computed}-{pixels}-{side}"
        return f"data/store/{name}{SPLITS}/{what}/{model}"

    def sides(self, role: str) -> list[int | None]:
        """Shorter sides in pixels at which a split is looked at; None = that of each picture."""
        methods, own = self.methods(role), choose_geometry(self.config).size
        banked = any(method.banked for method in methods)
        paper = any(not method.banked for method in methods)
        return list(dict.fromkeys([*self.config.bank.scales * banked, *[own] * paper]))

    @property
    def keeps_features(self) -> bool:
        """Whether features of a benchmark's pictures are kept in the store; docs/performance.md."""
        if self.config.benchmark is None:
            return False
        size, wanted = choose_geometry(self.config).size, self.config.keep_features
        return wanted if wanted is not None else size is not None and size <= KEPT

    def split_features(self, role: str) -> str:
        """Where the features of a split's pictures are in the store."""
        return f"{self.data}/split_features/{role}.csv"

    def kept_features(self, role: str) -> Path | None:
        """The same; None where they are not kept."""
        return Path(self.split_features(role)) if self.keeps_features else None

    @property
    def digests(self) -> str:
        """Digests of the images of the index, by path, size and time; experiments share them."""
        return f"data/store/{self.index_in_store}/digests.json"

    @property
    def index_in_store(self) -> str:
        """Name of the index in the store."""
        if self.config.index.kind == "stamps":
            return "stamps"
        return _in_store(self.index_root)

    def model(self, role: str) -> list[str]:
        """What tells whether a role's model changed: spec, precision, code, checkpoint."""
        spec = getattr(self.config.models, role)
        checkpoint = checkpoint_of(spec)
        content = noted_digest(checkpoint, DIGESTS) if checkpoint else ""
        return [spec, self.config.models.precision, _code(spec), content]

    @property
    def backbone(self) -> str:
        """What the checkpoint holds that the student `deeplab` starts from; "" where it is none."""
        weights = self.config.train.encoder_weights if self.config.train else None
        return noted_digest(weights, DIGESTS) if weights and is_checkpoint(weights) else ""


def side_name(side: int | None) -> str:
    """How names of columns and folders call a length in pixels; None, a picture's own, is `own`."""
    return "own" if side is None else str(side)


def _in_store(root: Path) -> str:
    """Name of a folder of images in the store."""
    return f"{root.name}-{fingerprint(str(root.absolute()), 6)}"


def _code(spec: str) -> str:
    """Digest of the code by which a model's features come about."""
    return code_fingerprint(*PIXELS, backend(spec))
