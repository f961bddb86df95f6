"""MiniLM, the text network of `packaged`: sentence embeddings of all-MiniLM-L6-v2, in NumPy.

A BERT of six layers (Devlin et al., 2019; Wang et al., "MiniLM", 2020), whose words' outputs are
averaged. A few names take milliseconds, which a deep-learning framework takes longer to import.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np
from scipy.special import erf

from reco.errors import RecoError
from reco.files import read_tensors
from reco.method.maps import normalise, softmax

SENTENCES = 32  # in a batch
MAX_WORDS = 256  # pieces of words, of a sentence, as the package's settings say
LAYERS, HEADS = 6, 12
EPSILON = 1e-12  # of the normalisations
Weights = Mapping[str, np.ndarray]


def embed_sentences(sentences: Sequence[str], folder: Path) -> np.ndarray:
    """(n, 384) float32 L2-normalised embeddings: means over the words of a sentence.

    As sentence-transformers computes them.

    Args:
        folder: tokenizer.json and model.safetensors.
    """
    tokenizer, weights = _model(folder)
    pieces = [encoding.ids for encoding in tokenizer.encode_batch(list(sentences))]
    order = sorted(range(len(pieces)), key=lambda i: len(pieces[i]))  # little to fill up
    found = np.empty((len(pieces), weights["embeddings.LayerNorm.bias"].size), np.float32)
    for start in range(0, len(order), SENTENCES):
        batch = order[start : start + SENTENCES]
        words = np.zeros((len(batch), max(len(pieces[i]) for i in batch)), int)
        real = np.zeros(words.shape, bool)
        for row, i in enumerate(batch):
            words[row, : len(pieces[i])] = pieces[i]
            real[row, : len(pieces[i])] = True
        sums = (_forward(words, real, weights) * real[..., None]).sum(axis=1)
        found[batch] = normalise(sums / real.sum(axis=1, keepdims=True))
    return found


def _forward(words: np.ndarray, real: np.ndarray, weights: Weights) -> np.ndarray:
    """(n, words, 384) last hidden states.

    Args:
        words: (n, words) numbers of pieces of words.
        real: (n, words) bool: what is no filling.
    """

    def linear(x: np.ndarray, name: str) -> np.ndarray:
        rows = x.reshape(-1, x.shape[-1]) @ weights[f"{name}.weight"].T
        return rows.reshape(*x.shape[:-1], -1) + weights[f"{name}.bias"]

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        centred = x - x.mean(axis=-1, keepdims=True)
        variance = (centred * centred).mean(axis=-1, keepdims=True)
        gain, shift = weights[f"{name}.weight"], weights[f"{name}.bias"]
        return centred / np.sqrt(variance + EPSILON) * gain + shift

    def heads(x: np.ndarray) -> np.ndarray:
        return x.reshape(*x.shape[:2], HEADS, -1).swapaxes(1, 2)

    known = "embeddings.{}_embeddings.weight"
    x = weights[known.format("word")][words] + weights[known.format("token_type")][0]
    x = norm(x + weights[known.format("position")][: words.shape[1]], "embeddings.LayerNorm")
    hidden = np.where(real, np.float32(0), np.float32(-np.inf))[:, None, None]
    for i in range(LAYERS):
        at = f"encoder.layer.{i}"
        q, k, v = (heads(linear(x, f"{at}.attention.self.{n}")) for n in ("query", "key", "value"))
        scores = q @ k.swapaxes(2, 3) / np.float32(np.sqrt(q.shape[-1])) + hidden
        mixed = (softmax(scores, axis=-1) @ v).swapaxes(1, 2).reshape(x.shape)
        x = norm(
            x + linear(mixed, f"{at}.attention.output.dense"), f"{at}.attention.output.LayerNorm"
        )
        inner = linear(x, f"{at}.intermediate.dense")
        inner = inner * np.float32(0.5) * (1 + erf(inner * np.float32(np.sqrt(0.5))))
        x = norm(x + linear(inner, f"{at}.output.dense"), f"{at}.output.LayerNorm")
    return x


@cache
def _model(folder: Path) -> tuple:
    """The tokenizer and the tensors of a folder."""
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:  # the library raises nothing narrower
        raise RecoError(f"{folder}: not readable ({error}): reinstall the package") from None
    tokenizer.no_padding()
    tokenizer.enable_truncation(MAX_WORDS)
    weights = read_tensors(folder / "model.safetensors")
    # A file's tensors may lie at any byte, from where products take twenty times as long.
    return tokenizer, {name: value.copy() for name, value in weights.items()}
