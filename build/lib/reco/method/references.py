"""The reference embeddings of a concept, in every variant that is evaluated, from its archive."""

from collections.abc import Mapping, Sequence

import numpy as np

from reco.method.cosegment import Merge, Variant, context_weights, cosegment, guidance


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
