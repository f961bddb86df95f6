"""Specialist: a small segmenter of one concept that ReCo teaches, and that needs no index after.

The word is learned from the index as ever, and ReCo's masks of its archive are what a DeepLabv3+
learns from, with two changes that measurements speak for (docs/specialist.md). Images of the index
that are unlike the word are shown to it as background alone, for else it would meet little that it
must not take for the concept. And of each mask, which is rather too large, the less salient half is
left open. What is trained is one folder that can be carried elsewhere.
"""

import warnings
from collections.abc import Callable, Iterable, Sequence
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
from reco.data.benchmarks import check_sizes
from reco.data.folder import IGNORE, find_images, write_labels
from reco.data.images import read_image, read_values
from reco.data.tables import write_table
from reco.device import resolve_device
from reco.errors import RecoError
from reco.experiment import Experiment
from reco.files import atomic, read_json, sha256, write_json
from reco.method.metrics import ConfusionMatrix
from reco.method.refine import mean_field, shrink
from reco.models.packaged import convert
from reco.photos.folder import find_photos, prepare_out
from reco.photos.result import Segmentation, paint
from reco.photos.segmenter import Learned, Picture, Segmenter, as_picture, fit
from reco.progress import LOG, track
from reco.revision import read_revision
from reco.workflow.figures import write_figure
from reco.workflow.train import (
    PACKAGED_WEIGHTS,
    build,
    normalisation,
    predict,
    predict_picture,
    train,
)

FORMAT = 1
FILES = (
    *("model.json", "model.safetensors", "model.onnx"),
    *("curve.csv", "overview.png", "evaluation.json"),
)
ITERATIONS = 100
THRESHOLD = 0.5
CONCEPT = 1  # the class; 0 is background
TOLERANCE = 1e-4  # between what ONNX Runtime and torch say of a pixel
SHOWN = 6  # photographs in overview.png
PACKAGES = ("numpy", "pillow", "segmentation-models-pytorch", "timm", "torch", "torchvision")
ONNX = "pip install onnx onnxruntime"


class Example(Section):
    """An image that was learned from: its path below the index, and its SHA-256."""

    path: str
    sha256: str


class Description(Section):
    """What model.json says.

    Attributes:
        format: version of this file.
        word: the concept.
        encoder: backbone; see `reco.workflow.train.build`.
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
            image: as `reco.photos.segmenter.Segmenter.segment` takes it, of any size.
            crf: let a dense CRF follow the edges of the photograph.
            threshold: probability from which on a pixel is the concept; None = as described.

        Raises:
            RecoError: not an image.
        """
        picture = as_picture(image)
        small = np.array(fit(picture, self.description.size))
        scores = maps = (
            predict_picture(self.network, small, self.normalise, self.device).exp().cpu()
        )
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
        labels: (h, w) int32, 1 = the concept, 0 = background, -1 = not learned from.
    """

    picture: np.ndarray
    labels: np.ndarray


def learn_one(segmenter: Segmenter, word: str, *, doubtful: bool = False) -> Learned:
    """What a segmenter learns of one word.

    Raises:
        RecoError: not one word, or its archive is in doubt (see `reco.method.doubt`) and `doubtful`
            is not set.
    """
    check_word(word)
    (learned,) = segmenter.learn(word)
    if learned.doubt and not doubtful:
        raise RecoError(f"{learned.doubt}; --doubtful trains all the same")
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
        salient = found.maps[0]
        labels = Image.fromarray(found.labels).resize(salient.shape[::-1], Image.Resampling.NEAREST)
        inside = np.asarray(labels) == 0
        least = np.median(salient[inside]) if inside.any() else 0.0
        sure = np.where(salient >= least, CONCEPT, IGNORE)
        return Lesson(lesson.picture, np.where(inside, sure, 0).astype(np.int32))

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


def _describe(segmenter: Segmenter, learned: Learned, settings: Train, lessons: int) -> Description:
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
    if not path.is_file():
        raise RecoError(f"{path}: no such file: name a folder of 'reco specialist'")
    values = read_json(path)
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
        self.network, described = specialist.network, specialist.description
        self.mean, self.std = torch.tensor(described.mean), torch.tensor(described.std)

    def forward(self, picture: Tensor) -> Tensor:
        """Normalise, pad, predict, cut."""
        pixels = ((picture.float() / 255 - self.mean) / self.std).permute(2, 0, 1)
        return predict(self.network, pixels[None])[0, CONCEPT].exp()


def export_onnx(specialist: Specialist, path: Path, pictures: Sequence[np.ndarray]) -> float:
    """Write a specialist as ONNX, of any height and width.

    Args:
        pictures: (h, w, 3) uint8 of several sizes, on which ONNX Runtime has to agree with torch.

    Returns:
        the largest difference of a probability.

    Raises:
        ImportError: onnx or onnxruntime is not installed.
        RecoError: the two differ; nothing is written.
    """
    import onnx  # noqa: F401, the exporter's error would be a longer one
    from onnxruntime import InferenceSession

    portable = Portable(specialist).cpu().eval()
    with atomic(path) as temporary, warnings.catch_warnings():
        # Of the exporter that traces: the other one takes minutes for this network.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            portable,
            (torch.from_numpy(pictures[0]),),
            temporary,
            input_names=["picture"],
            output_names=["probability"],
            dynamic_axes={"picture": {0: "height", 1: "width"}},
            dynamo=False,
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
                f"{path}: ONNX Runtime and torch differ by {worst:.2g}: not written; install other "
                "versions of onnx and onnxruntime"
            )
    return worst


# ---- looks and scores -------------------------------------------------------------------------


def overview(specialist: Specialist, shown: Sequence[Lesson], others: Sequence[Lesson]) -> Figure:
    """Photographs that were learned from, what ReCo taught, and what the specialist finds in them.

    Args:
        shown, others: of `make_lessons`; some of the first, and one of the second.
    """
    places = np.linspace(0, len(shown) - 1, min(SHOWN - 1, len(shown))).round().astype(int)
    lessons = [*(shown[place] for place in places), *others[:1]]
    figure = Figure(figsize=(6.5, 2.2 * len(lessons)), layout="constrained")
    axes = figure.subplots(len(lessons), 3, squeeze=False)
    for row, lesson in zip(axes, lessons, strict=True):
        found = specialist.segment(lesson.picture).labels
        taught = np.choose(lesson.labels + 1, [1, IGNORE, 0])  # what is open: the second colour
        pictures = (lesson.picture, paint(lesson.picture, taught), paint(lesson.picture, found))
        for axis, picture in zip(row, pictures, strict=True):
            axis.imshow(picture)
            axis.set_axis_off()
    word = specialist.description.word
    titles = ("photograph", f"taught: {word}; open", f"found: {word}")
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title if len(title) < 40 else title[:39] + "…", fontsize=9)
    return figure


def pair_photographs(photos: Path, masks: Path) -> list[tuple[Path, Path]]:
    """Photographs and their masks: PNG files of the same name, at the same place.

    Photographs without a mask are left out.

    Raises:
        RecoError: no folder, no mask, a mask without a photograph, or sizes that differ.
    """
    images = _by_stem(photos, find_images(photos))
    pairs = []
    for name in find_images(masks, {".png"}):
        stem = name.rsplit(".", 1)[0]
        if stem not in images:
            raise RecoError(f"{masks / name}: no photograph {stem}.* in {photos}: take it out")
        check_sizes(images[stem], masks / name)
        pairs.append((images[stem], masks / name))
    if not pairs:
        raise RecoError(f"{masks}: holds no masks: PNG files named as the photographs")
    return pairs


def _by_stem(root: Path, names: Iterable[str]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for name in names:
        stem = name.rsplit(".", 1)[0]
        if found.setdefault(stem, root / name) != root / name:
            raise RecoError(f"{root / name} and {found[stem]} would share a mask: rename one")
    return found


def evaluate(
    segment: Callable[[Path], Segmentation], pairs: Sequence[tuple[Path, Path]]
) -> dict[str, float]:
    """IoU, precision and recall of the concept's pixels, all photographs together.

    Args:
        segment: photograph -> what was found; its first name is the concept.
        pairs: photographs and masks, where any value but 0 is the concept.

    Raises:
        RecoError: a file cannot be read.
    """
    matrix = ConfusionMatrix(2)
    for photo, mask in track(pairs, "evaluate"):
        matrix.update(_read_binary(mask), segment(photo).labels == 0)
    (_, false), (missed, hit) = matrix.counts
    return {
        "iou": round(float(matrix.iou[CONCEPT]), 6),
        "precision": round(float(hit / max(1, hit + false)), 6),
        "recall": round(float(hit / max(1, hit + missed)), 6),
    }


def _read_binary(path: Path) -> np.ndarray:
    _, values = read_values(path)
    if values.ndim != 2:
        raise RecoError(f"{path}: has colours: a mask has one channel, 0 = not the concept")
    return values != 0


# ---- the commands -----------------------------------------------------------------------------


def make_specialist(
    segmenter: Segmenter,
    word: str,
    folder: Path,
    *,
    iterations: int = ITERATIONS,
    doubtful: bool = False,
    pairs: Sequence[tuple[Path, Path]] = (),
) -> dict[str, dict[str, float]]:
    """Learn a word, train a specialist, and write all of its folder.

    Args:
        pairs: photographs and masks to score it on, and ReCo beside it.

    Returns:
        the scores by method, also in evaluation.json; empty without `pairs`.

    Raises:
        RecoError: see `learn_one`, `teach`, `save_specialist`, `evaluate`.
    """
    check_out(folder)
    learned = learn_one(segmenter, word, doubtful=doubtful)
    shown, others = make_lessons(segmenter, learned)
    specialist, curve = teach(segmenter, learned, [*shown, *others], iterations)
    save_specialist(specialist, curve, folder)
    write_figure(overview(specialist, shown, others), folder / "overview.png")
    noise = np.random.default_rng(0).integers(0, 256, (97, 131, 3), dtype=np.uint8)
    try:
        worst = export_onnx(specialist, folder / "model.onnx", [shown[0].picture, noise])
        LOG.info("model.onnx: ONNX Runtime differs from torch by %.1g at most", worst)
    except ImportError as error:
        LOG.warning("no model.onnx: %s; if you want one: %s", error, ONNX)
    if not pairs:
        return {}
    scores = {
        "specialist": evaluate(specialist.segment, pairs),
        "reco": evaluate(
            lambda photo: segmenter.segment(
                photo, [learned.concept], background=True, doubtful=True
            ),
            pairs,
        ),
    }
    write_json(folder / "evaluation.json", {"photographs": len(pairs), **scores})
    return scores


def segment_photographs(
    specialist: Specialist,
    photos: Sequence[Path],
    out: Path,
    *,
    crf: bool = True,
    threshold: float | None = None,
) -> int:
    """Write masks (255 = the concept, 0 = not) and overlays of photographs, one after the other.

    Args:
        photos: files, and folders that are searched for images.
        out: gets masks/<name>.png and overlays/<name>.jpg.

    Returns:
        how many there were.

    Raises:
        RecoError: no photographs, or two of one name; a place for results that will not do, see
            `reco.photos.folder.prepare_out`; and at the end, if some files could not be read:
            which. The others are done.
    """
    named = find_photos(photos)
    prepare_out(out, photos)
    bad = []
    for photo in track(named, "segment"):
        try:
            picture = read_image(photo.path)
        except RecoError as error:
            bad.append(str(error))
            continue
        found = specialist.segment(picture, crf=crf, threshold=threshold)
        with atomic(out / "masks" / f"{photo.stem}.png") as temporary:
            mask = np.where(found.labels == 0, 255, 0).astype(np.uint8)
            Image.fromarray(mask).save(temporary, format="PNG")
        with atomic(out / "overlays" / f"{photo.stem}.jpg") as temporary:
            found.overlay().save(temporary, format="JPEG", quality=90)
    if bad:
        raise RecoError("\n".join([f"{len(bad)} of {len(named)} files were left out:", *bad]))
    return len(named)
