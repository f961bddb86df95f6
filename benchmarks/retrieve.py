"""Retrieval beside the released code's way: a product, a full sort and a list of names a concept.

Random unit vectors of ImageNet's number at CLIP ViT-L/14's length; both ways see the same float16
values. The limit is the bare product in the same blocks, out of a cache: what cannot be avoided
where the product, not memory, is the slower part.
"""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from measure import Row, compare, read_rate, report

from reco.method.retrieve import LANES, ROWS, retrieve

IMAGES, LENGTH, K = 1_281_167, 768, 50
SHARD = 131_072
SIZES = [(IMAGES, 27), (IMAGES // 4, 27), (IMAGES // 2, 27), (IMAGES, 100), (IMAGES, 300)]
"""(images, concepts); the first is also retrieved in the released way."""


def unit_rows(rng: np.random.Generator, rows: int) -> np.ndarray:
    """(rows, LENGTH) float32 random directions."""
    values = rng.standard_normal((rows, LENGTH), dtype=np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def write_shards(folder: Path) -> Iterator[np.ndarray]:
    """Memory-mapped float16 shards of IMAGES random embeddings in all."""
    rng = np.random.default_rng(0)
    for start in range(0, IMAGES, SHARD):
        path = folder / f"{start}.npy"
        np.save(path, unit_rows(rng, min(SHARD, IMAGES - start)).astype(np.float16))
        yield np.load(path, mmap_mode="c")


def first_images(shards: list[np.ndarray], images: int) -> list[np.ndarray]:
    """The shards of the first `images` images."""
    starts = range(0, images, SHARD)
    return [shard[: images - start] for start, shard in zip(starts, shards, strict=False)]


def released_way(embeddings: np.ndarray, texts: np.ndarray, names: list[str]) -> list[list[str]]:
    """The K best names of each text, as the published code finds them."""
    archives = []
    for text in texts:
        order = np.argsort(-(embeddings @ text))
        archives.append([names[i] for i in order][:K])
    return archives


def bare_product(images: int, concepts: int) -> Callable[[], None]:
    """The products of `retrieve` with nothing around them."""
    rows, queries = torch.rand(ROWS, LENGTH), torch.rand(LENGTH, -(-concepts // LANES) * LANES)
    out = torch.empty(ROWS, queries.shape[1])

    def multiply() -> None:
        for _ in range(-(-images // ROWS)):
            torch.mm(rows, queries, out=out)

    return multiply


def measure_size(shards: list[np.ndarray], images: int, concepts: int, released: bool) -> list[Row]:
    """The ways of one size."""
    texts = unit_rows(np.random.default_rng(1), concepts)
    part = first_images(shards, images)
    case = f"{images:,} images, {concepts} concepts"
    limit = bare_product(images, concepts)
    ways: dict[str, Callable[[], object]] = {"ours": lambda: retrieve(part, texts, K)}
    if not released:
        return compare(case, ways, limit=limit, repeats=3)
    whole = np.concatenate(part).astype(np.float32)
    names = [f"n{i:08d}.JPEG" for i in range(images)]
    wanted = released_way(whole, texts, names)
    found = [[names[i] for i in rows] for rows in retrieve(part, texts, K)[0]]
    equal = sum(
        a == b for x, y in zip(wanted, found, strict=True) for a, b in zip(x, y, strict=True)
    )
    agrees = f"{equal} of {concepts * K} ranks equal"
    ways = {"released": lambda: released_way(whole, texts, names), **ways}
    return compare(case, ways, {"ours": agrees}, limit, repeats=3)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        found = list(write_shards(Path(folder)))
        rows = [
            row
            for i, (images, concepts) in enumerate(SIZES)
            for row in measure_size(found, images, concepts, released=i == 0)
        ]
    memory = 2 * IMAGES * LENGTH / read_rate()
    report(
        "retrieve",
        f"Retrieval of the {K} best of random unit vectors of {LENGTH} numbers",
        rows,
        [
            "released: float32 in memory; per concept a product, a full sort, a list of all names.",
            "ours: memory-mapped float16 shards, in the page cache.",
            "limit: the bare products out of a cache, in the same run. Reading all shards once "
            f"from main memory would take {memory:.2f} s.",
        ],
    )
