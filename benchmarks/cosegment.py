"""Co-segmentation beside the released code's way: the whole adjacency matrix in memory.

The limit is the bare half-matrix product: with no weights the matrix is symmetric, so no exact way
can do with fewer multiplications.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from measure import Row, compare, report

from reco.method.cosegment import Cosegmentation, Variant, cosegment

CASES: list[tuple[tuple[int, int, int, int], Variant, bool]] = [
    ((50, 384, 14, 14), "released", True),
    ((50, 384, 14, 14), "paper", True),
    ((50, 384, 20, 20), "released", True),
    ((50, 384, 20, 20), "paper", True),
    ((50, 768, 32, 32), "paper", False),
]
"""(images, channels, height, width), variant, whether the whole matrix fits a laptop's memory."""


def make_archive(n: int, c: int, h: int, w: int) -> tuple[np.ndarray, np.ndarray]:
    """Random features (n, c, h, w) that share one planted direction, and weights (n, h, w)."""
    rng = np.random.default_rng(0)
    features = rng.standard_normal((n, c, h * w), dtype=np.float32)
    planted = rng.integers(0, h * w, n)
    features[np.arange(n), :, planted] += rng.standard_normal(c, dtype=np.float32)
    return features.reshape(n, c, h, w), rng.uniform(0.2, 1, (n, h, w)).astype(np.float32)


def whole_matrix(
    features: np.ndarray, weights: np.ndarray, variant: Variant
) -> tuple[np.ndarray, np.ndarray]:
    """Seeds (n,) and support (n, hw) by the whole (n h w)^2 matrix, as the published code does.

    Args:
        variant: `released` with its slip in a slice, which takes maxima over images j..2j
            (docs/deviations.md); `paper` without.
    """
    n, c, h, w = features.shape
    size, slip = h * w, variant == "released"
    pixels = torch.from_numpy(features).permute(0, 2, 3, 1).reshape(-1, c)
    unit = torch.nn.functional.normalize(pixels, dim=1)
    adjacency = unit @ unit.T
    adjacency = adjacency * torch.from_numpy(weights).reshape(1, -1)
    ends = [(2 * j + 1 if slip else j + 1) * size for j in range(n)]
    best = [adjacency[:, j * size : end].amax(1) for j, end in enumerate(ends)]
    support = torch.stack(best, 1).mean(1).reshape(n, size)
    return support.argmax(1).numpy(), support.numpy()


def half_product(n: int, c: int, h: int, w: int, images: int = 10) -> Callable[[], None]:
    """The products of the upper half of the matrix and nothing else, `images` to a block."""
    rng = np.random.default_rng(0)
    blocks = [
        rng.standard_normal((len(part) * h * w, c), dtype=np.float32)
        for part in np.array_split(np.arange(n), -(-n // images))
    ]
    out = np.empty((len(blocks[0]), len(blocks[0])), np.float32)

    def multiply() -> None:
        for i, rows in enumerate(blocks):
            for columns in blocks[i:]:
                np.matmul(rows, columns.T, out=out[: len(rows), : len(columns)])

    return multiply


def measure_case(shape: tuple[int, int, int, int], variant: Variant, whole: bool) -> list[Row]:
    """The ways of one size."""
    n, _, h, w = shape
    features, weights = make_archive(*shape)
    limit = half_product(*shape, images=max(1, 2000 // (h * w)))
    case = f"{' x '.join(map(str, shape))}, {variant}"

    ways = our_ways(features, weights, variant)
    if not whole:
        return compare(case, ways, limit=limit, repeats=3)
    seeds, support = whole_matrix(features, weights, variant)
    agrees = {}
    for name, way in ways.items():
        result = way()
        places = result.seeds[:, 0] * w + result.seeds[:, 1]
        off = np.abs(result.support.reshape(n, -1) - support).max()
        agrees[name] = f"{(places == seeds).sum()} of {n} seeds equal, support within {off:.0e}"
    released = {"whole matrix": lambda: whole_matrix(features, weights, variant)}
    return compare(case, {**released, **ways}, agrees, limit)


def our_ways(
    features: np.ndarray, weights: np.ndarray, variant: Variant
) -> dict[str, Callable[[], Cosegmentation[np.ndarray]]]:
    """`cosegment` on the CPU and, where there is a GPU, on it, in both precisions."""
    ways = {"ours": lambda: cosegment(features, weights, variant=variant)}
    for name, dtype in (("float32", torch.float32), ("float16", torch.float16)):
        if torch.cuda.is_available():
            values = torch.from_numpy(features).to("cuda", dtype)
            weight = torch.from_numpy(weights).cuda()
            ways[f"ours, GPU, {name}"] = partial(cosegment_there, values, weight, variant)
    return ways


def cosegment_there(
    features: torch.Tensor, weights: torch.Tensor, variant: Variant
) -> Cosegmentation[np.ndarray]:
    """`cosegment` where the tensors are, its result in main memory."""
    result = cosegment(features, weights, variant=variant)
    parts = (result.reference, result.seeds, result.support)
    return Cosegmentation(*(part.cpu().numpy() for part in parts))


if __name__ == "__main__":
    report(
        "cosegment",
        "Co-segmentation, with weights",
        [row for case in CASES for row in measure_case(*case)],
        [
            "whole matrix: the released code's way in PyTorch, the (n h w)^2 matrix and its "
            "weighted copy. `released` with its slip in a slice, by which maxima run over the "
            "images j..2j; `paper` without.",
            "limit: the bare product of half the matrix, in blocks, in the same run.",
        ],
    )
