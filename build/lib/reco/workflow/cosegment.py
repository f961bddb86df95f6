"""Co-segment: the reference embeddings of a concept, from its archive's features.

One light job per concept: NumPy only, no network.
"""

from collections.abc import Sequence
from pathlib import Path

from safetensors.numpy import save

from reco.data.features import read_features
from reco.data.tables import read_table
from reco.errors import RecoError
from reco.files import MAKE_AGAIN, atomic, fingerprint, read_metadata, read_tensors, sha256
from reco.method.cosegment import Merge, Variant
from reco.method.references import reference_variants


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
        features: CSV of `Experiment.features`.
        text: safetensors with `dense` (d,).
        contexts: the reference files of the context concepts to eliminate, in order.
        variants: names such as `lgc-ce-k20`.
        temperature, merge, variant: see `reference_variants`, `cosegment`.

    Raises:
        RecoError: no images, or damaged files.
    """
    rows = read_table(features)
    if not rows:
        raise RecoError(f"{features}: has no images: {MAKE_AGAIN}")
    results = reference_variants(
        read_features(rows, "encoder"),
        read_features(rows, "dense"),
        read_tensors(text)["dense"],
        [read_tensors(path) for path in contexts],
        variants,
        temperature=temperature,
        merge=merge,
        variant=variant,
    )
    made_from = {"made_from": sources_mark(features, [text, *contexts])}
    with atomic(output) as temporary:
        temporary.write_bytes(save(results, made_from))


def sources_mark(features: Path, others: Sequence[Path]) -> str:
    """Digest of what a reference or a bank is made from, which stands in its header.

    Args:
        features: CSV, of which only the images count: the place of their features in the store may
            change, and what else these depend on has its fingerprint in the file's name.
        others: files whose bytes count.
    """
    keys = [row["key"] for row in read_table(features)]
    return fingerprint([keys, *(sha256(path) for path in others)])


def made_from(path: Path) -> str:
    """The `sources_mark` that a reference or a bank was made with; "" where none can be read."""
    try:
        return read_metadata(path).get("made_from", "")
    except RecoError:  # missing or damaged
        return ""
