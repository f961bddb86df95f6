"""The reference embeddings of a concept, in every variant that is evaluated, from its archive.

One light job per concept: NumPy only, no network.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save

from reco.cosegment import Merge, Variant, context_weights, cosegment, guidance
from reco.errors import RecoError
from reco.files import atomic
from reco.folder import read_table
from reco.store import Place, read_places


def parse_variant(name: str) -> tuple[bool, bool, int]:
    """Read `lgc-ce-k20` as (language guidance, context elimination, archive size)."""
    *flags, size = name.split("-")
    return "lgc" in flags, "ce" in flags, int(size.removeprefix("k"))


def reference_variants(
    encoder: np.ndarray,
    dense: np.ndarray,
    text: np.ndarray,
    contexts: Sequence[Mapping[str, np.ndarray]],
    variants: Sequence[str],
    *,
    temperature: float,
    merge: Merge,
    variant: Variant,
) -> dict[str, np.ndarray]:
    """Co-segment one archive in several ways.

    Args:
        encoder: (n, c, h, w) encoder features, in order of rank.
        dense: (n, d, h', w') dense features of the language-image model.
        text: (d,) text embedding.
        contexts: earlier results of this function for the context concepts, in order.
        variants: names such as `lgc-ce-k20`: parts that are on, and the archive size.

    Returns:
        For every variant `<name>.reference` (c,), `<name>.seeds` (k, 2), `<name>.support`
        (k, h, w) and `<name>.saliency` (k, h, w), the weights of the pixels matched to.
    """
    saliency = guidance(dense, text, encoder.shape[-2:], temperature)
    results: dict[str, np.ndarray] = {}
    for name in variants:
        lgc, ce, k = parse_variant(name)
        weights = saliency[:k].copy() if lgc else np.ones_like(saliency[:k])
        if ce and contexts:
            references = np.stack([context[f"{name}.reference"] for context in contexts])
            weights *= context_weights(encoder[:k], references)
        result = cosegment(encoder[:k], weights, merge=merge, variant=variant)
        results[f"{name}.reference"] = result.reference
        results[f"{name}.seeds"] = result.seeds.astype(np.int32)
        results[f"{name}.support"] = result.support
        results[f"{name}.saliency"] = weights
    return results


def cosegment_archive(
    features: Path,
    text: Path,
    contexts: Sequence[Path],
    variants: Sequence[str],
    output: Path,
    *,
    temperature: float,
    merge: Merge,
    variant: Variant,
) -> None:
    """Read an archive's features from the store and write its references as safetensors.

    Args:
        features: CSV (rank, path, dense_shard, dense_row, encoder_shard, encoder_row).
        text: safetensors with `dense` (d,).
        contexts: the reference files of the context concepts to eliminate, in order.
    """
    rows = read_table(features)
    results = reference_variants(
        _read(rows, "encoder"),
        _read(rows, "dense"),
        load_file(text)["dense"],
        [load_file(path) for path in contexts],
        variants,
        temperature=temperature,
        merge=merge,
        variant=variant,
    )
    with atomic(output) as temporary:
        temporary.write_bytes(save(results))


def _read(rows: Sequence[Mapping[str, str]], what: str) -> np.ndarray:
    if not rows:
        raise RecoError("the archive is empty: nothing to co-segment")
    return read_places([Place(row[f"{what}_shard"], int(row[f"{what}_row"])) for row in rows])
