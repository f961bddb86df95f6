"""Specialist: a small segmenter of one concept that ReCo teaches, and that needs no index after.

The word is learned from the index as ever; ReCo's masks of its archive, which take some tenths of a
second and every network of the config each, are what a DeepLabv3+ learns from. Images of the index
that are unlike the word are shown to it as background alone, for else it would meet nothing that
it must not take for the concept. What is trained is one folder that can be carried elsewhere.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torchvision.transforms import v2

from reco.concepts import parse_concepts
from reco.config import CRF, Section, Train
from reco.datasets import check_sizes
from reco.device import resolve_device
from reco.errors import RecoError
from reco.experiment import Experiment
from reco.figures import write_figure
from reco.files import atomic, read_json, sha256, write_json
from reco.folder import IGNORE, find_images, read_image, write_labels, write_table
from reco.metrics import ConfusionMatrix
from reco.models.packaged import convert
from reco.progress import LOG, track
from reco.refine import mean_field, shrink
from reco.revision import read_revision
from reco.segmentation import Segmentation, paint
from reco.segmenter import Learned, Picture, Segmenter, as_picture, fit
from reco.train import PACKAGED_WEIGHTS, build, normalisation, predict, predict_picture, train

FORMAT = 1
FILES = ("model.json", "model.safetensors", "model.onnx", "curve.csv", "overview.png")
FILES += ("evaluation.json",)
ITERATIONS = 150
THRESHOLD = 0.5
CONCEPT = 1  # the class; 0 is background
TOLERANCE = 1e-4  # between what ONNX Runtime and torch say of a pixel
SHOWN = 6  # photographs in overview.png
PACKAGES = ("numpy", "pillow", "segmentation-models-pytorch", "timm", "torch", "torchvision")
NO_ONNX = "pip install onnx onnxruntime onnxscript"


class Example(Section):
    """An image that was learned from: its path below the index, and its SHA-256."""

    path: str
    sha256: str


class Description(Section):
    """What model.json says.

    Attributes:
        format: version of this file.
        word: the concept.
        encoder: backbone; see `reco.train.build`.
        mean, std: the statistics that pixels in [0, 1] are normalised with.
        size: pixels of the shorter side at which the network sees a photograph, None = as it is; a
            strip longer than 4:1 gets a longer side of 4 sizes.
        threshold: probability from which on a pixel is the concept.
        crf: the dense CRF after the network.
        train, seed: how it was trained.
        doubt: what speaks against the images that it was learned from; "" = nothing.
        index: folder that they are from.
        archive, unlike: those that show the concept, and those that are background alone.
        weights: SHA-256 of model.safetensors.
        code, versions: what it was made with.
    """

    format: int = FORMAT
    word: str
    encoder: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    size: int | None
    threshold: float = THRESHOLD
    crf: CRF
    train: Train
    seed: int
    doubt: str
    index: str
    archive: list[Example]
    unlike: list[Example]
    weights: str
    code: str
    versions: dict[str, str]


@dataclass(frozen=True)
class Specialist:
    """A segmenter of one concept.

    Attributes:
        description: see `Description`.
        network: (b, 3, H, W) normalised pixels -> (b, 2, H/4, W/4), background and concept.
        device: where the network is.
    """

    description: Description
    network: nn.Module
    device: str

    def segment(
        self, image: Picture, *, crf: bool = True, threshold: float | None = None
    ) -> Segmentation:
        """Find the concept in a photograph.

        Args:
            image: as `reco.segmenter.Segmenter.segment` takes it, of any size.
            crf: let a dense CRF follow the edges of the photograph.
            threshold: probability from which on a pixel is the concept; None = as described.

        Raises:
            RecoError: not an image.
        """
        picture = as_picture(image)
        small = np.array(fit(picture, self.description.size))
        scores = maps = predict_picture(self.network, small, self.normalise, self.device).exp().cpu()
        if crf:
            settings = self.description.crf
            shares = shrink(maps, settings.size).contiguous().numpy()
            scores = torch.from_numpy(mean_field(small, shares, settings))
        size = picture.size[::-1]
        found = interpolate(scores[None, CONCEPT:], size, mode="bilinear", align_corners=False)
        least = self.description.threshold if threshold is None else threshold
        return Segmentation(
            np.asarray(picture),
            (self.description.word,),
            np.where(found[0, 0].numpy() >= least, 0, IGNORE).astype(np.int32),
            maps[CONCEPT:].numpy(),
            {},
        )

    @cached_property
    def normalise(self) -> v2.Normalize:
        """Of pixels in [0, 1]."""
        return v2.Normalize(self.description.mean, self.description.std)


# ---- training ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Lesson:
    """An image to learn from, at the size at which networks see it.

    Attributes:
        picture: (h, w, 3) uint8.
        labels: (h, w) int32, 1 = the concept, 0 = background.
    """

    picture: np.ndarray
    labels: np.ndarray


def learn_one(segmenter: Segmenter, word: str, *, doubtful: bool = False) -> Learned:
    """What a segmenter learns of one word.

    Raises:
        RecoError: not one word, or its archive is in doubt (see `reco.doubt`) and `doubtful` not
            set.
    """
    check_word(word)
    (learned,) = segmenter.learn(word)
    if learned.doubt and not doubtful:
        raise RecoError(learned.doubt)
    if learned.doubt:
        LOG.warning("%s", learned.doubt)
    return learned


def check_word(word: str) -> None:
    """Raise RecoError unless a text names one concept."""
    concepts = parse_concepts(word)
    if len(concepts) > 1:
        names = ", ".join(repr(concept.name) for concept in concepts)
        raise RecoError(f"a specialist knows one concept, these are {len(concepts)}: {names}")


def make_lessons(
    segmenter: Segmenter, learned: Learned, *, unlike: bool = True
) -> tuple[list[Lesson], list[Lesson]]:
    """ReCo's masks of a concept's archive, and as many images without the concept.

    Args:
        unlike: whether to take such images, as far as `learned` has them.
    """
    size = segmenter.config.sizes.benchmark

    def shrunk(path: Path) -> Lesson:
        picture = np.array(fit(read_image(path), size))
        return Lesson(picture, np.zeros(picture.shape[:2], np.int32))

    def masked(path: Path) -> Lesson:
        lesson = shrunk(path)
        found = segmenter.segment(path, [learned.concept], background=True, doubtful=True)
        labels = Image.fromarray(found.labels).resize(
            lesson.labels.shape[::-1], Image.Resampling.NEAREST
        )
        return Lesson(lesson.picture, np.where(np.asarray(labels) == 0, CONCEPT, 0))

    archive = [item.path for item in learned.archive]
    others = learned.unlike[: len(archive)] if unlike else ()
    shown = [masked(path) for path in track(archive, "segment the archive")]
    return shown, [shrunk(path) for path in others]


def teach(
    segmenter: Segmenter, learned: Learned, lessons: Sequence[Lesson], iterations: int = ITERATIONS
) -> tuple[Specialist, list[tuple[int, float, float]]]:
    """Train a specialist; about a minute on two cores.

    Returns:
        it, and (step, loss, learning rate) of every step.

    Raises:
        RecoError: the loss is not finite.
    """
    config = segmenter.config
    settings = (config.train or Train()).model_copy(update={"iterations": iterations})
    if settings.encoder == "packaged" and not Path(PACKAGED_WEIGHTS).exists():
        convert(Path(PACKAGED_WEIGHTS).parent)
    torch.manual_seed(config.seed)
    start = PACKAGED_WEIGHTS if settings.encoder == "packaged" else settings.encoder_weights
    network = build(settings.encoder, start, 2)
    with TemporaryDirectory(prefix="reco-specialist-") as folder:
        pairs = [_write(lesson, Path(folder), i) for i, lesson in enumerate(lessons)]
        steps = train(network, pairs, settings, seed=config.seed, device=segmenter.device)
        curve = list(track(steps, "train", total=iterations, unit="step"))
    network.eval()
    described = _describe(segmenter, learned, settings, len(lessons))
    return Specialist(described, network, segmenter.device), curve


def _write(lesson: Lesson, folder: Path, number: int) -> tuple[Path, Path]:
    picture, labels = folder / f"{number}.png", folder / f"{number}.labels.png"
    Image.fromarray(lesson.picture).save(picture)
    write_labels(labels, lesson.labels)
    return picture, labels


def _describe(
    segmenter: Segmenter, learned: Learned, settings: Train, lessons: int
) -> Description:
    config, root = segmenter.config, Experiment(segmenter.config).index_root
    statistics = normalisation(settings.encoder)
    archive = [item.path for item in learned.archive]

    def examples(paths: Iterable[Path]) -> list[Example]:
        return [
            Example(path=path.relative_to(root).as_posix(), sha256=sha256(path)) for path in paths
        ]

    return Description(
        word=learned.concept.name,
        encoder=settings.encoder,
        mean=tuple(statistics.mean),
        std=tuple(statistics.std),
        size=config.sizes.benchmark,
        crf=config.crf,
        train=settings,
        seed=config.seed,
        doubt=learned.doubt,
        index=str(root),
        archive=examples(archive),
        unlike=examples(learned.unlike[: lessons - len(archive)]),
        weights="",
        code=str(read_revision() or "not in a git checkout"),
        versions={name: metadata.version(name) for name in PACKAGES},
    )


# ---- the folder -------------------------------------------------------------------------------


def check_out(folder: Path) -> None:
    """Whether a specialist may be written to a folder.

    Raises:
        RecoError: it holds anything else, or is no folder.
    """
    if folder.exists() and not folder.is_dir():
        raise RecoError(f"{folder}: is a file: name a folder with --out")
    found = sorted(path.name for path in folder.glob("[!.]*"))
    other = [name for name in found if name not in FILES]
    if other or (found and "model.json" not in found):
        raise RecoError(
            f"{folder}: holds other files, such as {[*other, *found][0]}: name another folder with "
            "--out; only a specialist's own is overwritten"
        )
    if found:
        read_description(folder)


def save_specialist(
    specialist: Specialist, curve: Sequence[tuple[int, float, float]], folder: Path
) -> None:
    """Write model.safetensors, model.json and curve.csv, and take away what is of an earlier one.

    Raises:
        RecoError: the folder holds other files, or the disk is full.
    """
    check_out(folder)
    for name in FILES:
        (folder / name).unlink(missing_ok=True)
    weights = folder / "model.safetensors"
    state = {key: value.contiguous() for key, value in specialist.network.state_dict().items()}
    with atomic(weights) as temporary:
        temporary.write_bytes(save(state))
    described = specialist.description.model_copy(update={"weights": sha256(weights)})
    write_json(folder / "model.json", described.model_dump(mode="json"))
    rows = [(step, f"{loss:.6f}", f"{rate:.3e}") for step, loss, rate in curve]
    write_table(folder / "curve.csv", ["step", "loss", "lr"], rows)


def read_description(folder: Path) -> Description:
    """Read model.json.

    Raises:
        RecoError: missing, damaged, or of another version.
    """
    path = folder / "model.json"
    remedy = "train it again with 'reco specialist'"
    try:
        values = read_json(path)
    except OSError as error:
        raise RecoError(f"{path}: {error.strerror}: name a folder of 'reco specialist'") from None
    except ValueError as error:
        raise RecoError(f"{path}: damaged ({error}): {remedy}") from None
    version = values.get("format") if isinstance(values, dict) else None
    if version != FORMAT:
        raise RecoError(
            f"{path}: is of format {version!r}, and this version of reco reads {FORMAT}: {remedy}"
        )
    try:
        return Description.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise RecoError(f"{path}: {key}: {first['msg']}: {remedy}") from None


def load_specialist(folder: str | Path, device: str = "auto") -> Specialist:
    """Read a specialist from its folder; model.json and model.safetensors are enough.

    Args:
        device: see `reco.device.resolve_device`.

    Raises:
        RecoError: no such folder, a file is missing or damaged, or of another version.
    """
    folder, device = Path(folder), resolve_device(device)
    described = read_description(folder)
    weights = folder / "model.safetensors"
    damaged = f"{weights}: damaged: copy it again, or train it again with 'reco specialist'"
    network = build(described.encoder, None, 2)
    try:
        if sha256(weights) != described.weights:
            raise RecoError(damaged)
        network.load_state_dict(load(weights.read_bytes()))
    except OSError as error:
        raise RecoError(f"{weights}: {error.strerror}: copy the whole folder") from None
    except (SafetensorError, RuntimeError):  # of another network
        raise RecoError(damaged) from None
    return Specialist(described, network.to(device).eval(), device)


# ---- ONNX -------------------------------------------------------------------------------------


class Portable(nn.Module):
    """(H, W, 3) uint8 RGB at the size of `Description` -> (H, W) probability of the concept."""

    def __init__(self, specialist: Specialist) -> None:
        super().__init__()
        self.network = specialist.network
        for name in ("mean", "std"):
            values = torch.tensor(getattr(specialist.description, name))[:, None, None]
            self.register_buffer(name, values, persistent=False)

    def forward(self, picture: Tensor) -> Tensor:
        """Normalise, pad, predict, cut."""
        pixels = picture.permute(2, 0, 1).float() / 255
        maps = predict(self._maps, ((pixels - self.mean) / self.std)[None])
        return maps[0, CONCEPT].exp()

    def _maps(self, pixels: Tensor) -> Tensor:
        """The network without its check of the sides, which would fix them in the export."""
        network = self.network
        return network.segmentation_head(network.decoder(network.encoder(pixels)))


def export_onnx(specialist: Specialist, path: Path, pictures: Sequence[np.ndarray]) -> float:
    """Write a specialist as ONNX, of any height and width.

    Args:
        pictures: (h, w, 3) uint8 of several sizes, on which ONNX Runtime has to say what torch says.

    Returns:
        the largest difference of a probability.

    Raises:
        ImportError: onnx, onnxscript or onnxruntime is not installed.
        RecoError: the two differ; nothing is written.
    """
    import onnx  # noqa: F401
    import onnxscript  # noqa: F401
    from onnxruntime import InferenceSession

    portable = Portable(specialist).cpu().eval()
    sides = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    with atomic(path) as temporary:
        torch.onnx.export(
            portable,
            (torch.from_numpy(pictures[0]),),
            temporary,
            input_names=["picture"],
            output_names=["probability"],
            dynamic_shapes=(sides,),
            external_data=False,
            dynamo=True,
            verbose=False,
        )
        session = InferenceSession(temporary, providers=["CPUExecutionProvider"])
        worst = 0.0
        for picture in pictures:
            (found,) = session.run(None, {"picture": picture})
            with torch.inference_mode():
                wanted = portable(torch.from_numpy(picture)).numpy()
            worst = max(worst, float(np.abs(found - wanted).max()))
        portable.network.to(specialist.device)
        if not worst <= TOLERANCE:
            raise RecoError(
                f"{path}: ONNX Runtime and torch differ by {worst:.2g}: not written; use other "
                "versions of onnx, onnxscript and onnxruntime"
            )
    return worst
