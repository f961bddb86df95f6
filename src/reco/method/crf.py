"""Fully connected conditional random field: mean field with permutohedral lattice filters.

Every pixel is joined to every other one by a Gaussian kernel on position and by a bilateral kernel
on position and colour (Krähenbühl & Koltun, "Efficient Inference in Fully Connected CRFs with
Gaussian Edge Potentials", NIPS 2011). The sums over all pairs are taken on the lattice of
`lattice.py`. The numbers are those of `pydensecrf`, down to rounding; unlike it, this needs no
compiler to install, and it is faster when there are many classes, whose values lie side by side: so
each non-zero of the lattice's matrices moves one run of memory.

With a tolerance, products are taken in half precision, and those of a class only once its
probabilities have moved. Where many classes are about as likely, as in ReCo, messages are small,
and two or three updates leave nothing to do.
"""

from collections.abc import Iterator

import numpy as np
import torch
from scipy import sparse
from torch.nn.functional import embedding_bag

from reco.method.lattice import Array, Kernel, make_kernels

Blocks = list[tuple[slice, torch.Tensor, torch.Tensor, torch.Tensor]]

SMALLEST = 1e-5  # probabilities are clipped here, as `pydensecrf.utils.unary_from_softmax` does
TABLE_BYTES = 96 << 20  # values on the lattice held at once; more classes go in several parts
BLOCK_BYTES = 2 << 20  # rows multiplied at once; the allocator reuses memory of this size


def dense_crf(
    image: Array,
    probabilities: Array,
    *,
    gaussian_sxy: float = 1.0,
    gaussian_compat: float = 3.0,
    bilateral_sxy: float = 67.0,
    bilateral_srgb: float = 3.0,
    bilateral_compat: float = 4.0,
    iterations: int = 10,
    tolerance: float = 0.0,
) -> Array:
    """Refine class probabilities so that near pixels of like colour agree.

    Args:
        image: (H, W, 3) uint8, RGB. The released ReCo code hands over BGR; the kernel weighs the
            three channels alike, so their order does not matter to it. It does turn the lattice,
            which approximates it: 0 to 0.2 % of the arg max moved on 192x256 photographs, 1.3 %
            on one of 64x96, about as far as the lattice is from the exact kernel.
        probabilities: (C, H, W) floating, a distribution over C at every pixel. The unary energy
            is their negative logarithm, after clipping from below at 1e-5.
        gaussian_sxy: standard deviation of the position kernel, in pixels.
        gaussian_compat: Potts weight of the position kernel.
        bilateral_sxy: standard deviation of the bilateral kernel in position, in pixels.
        bilateral_srgb: standard deviation of the bilateral kernel in colour, in 8-bit levels.
        bilateral_compat: Potts weight of the bilateral kernel.
        iterations: number of mean-field updates; 0 gives the clipped probabilities back.
        tolerance: how far a class's probability may move at any pixel, as a share of the largest
            probability of any class, before what it tells the other pixels is computed anew. 0
            gives the numbers of `pydensecrf`, in single precision throughout. Once no class has
            moved further, no later update would do anything, and the rest are left out.

    Returns:
        (C, H, W) float32 posteriors, which sum to 1 over C.

    Raises:
        ValueError: an argument has the wrong shape, type or range, or a standard deviation is so
            small that the lattice cannot be indexed; the message names it.

    The defaults are ReCo's. Works with torch's current number of threads and starts none of its
    own: for many images, one torch thread and several processes give the most.
    """
    _check(image, probabilities, iterations, tolerance)
    kernels = make_kernels(
        image, gaussian_sxy, gaussian_compat, bilateral_sxy, bilateral_srgb, bilateral_compat
    )
    posteriors = _mean_field(_log_rows(probabilities), kernels, iterations, tolerance)
    return np.ascontiguousarray(posteriors.numpy().T).reshape(probabilities.shape)


def _check(image: Array, probabilities: Array, iterations: int, tolerance: float) -> None:
    """Raise ValueError, saying what is wrong, unless the arguments of `dense_crf` are usable."""
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise ValueError(f"image must be (H, W, 3) uint8, not {image.shape} {image.dtype}")
    if probabilities.ndim != 3 or probabilities.shape[1:] != image.shape[:2]:
        raise ValueError(
            f"probabilities must be (C, {image.shape[0]}, {image.shape[1]}) like the image, "
            f"not {probabilities.shape}"
        )
    if not len(probabilities) or not np.issubdtype(probabilities.dtype, np.floating):
        raise ValueError(
            "probabilities must be floating with at least one class, "
            f"not {probabilities.dtype} with {len(probabilities)}"
        )
    total = probabilities.sum(0, dtype=np.float32)
    # Written so that NaN fails; the tolerance lets half precision pass.
    if not (probabilities.min() >= 0 and np.abs(total - 1).max() <= 0.01):
        raise ValueError("probabilities must be >= 0 and sum to 1 over the classes at every pixel")
    if iterations < 0:
        raise ValueError(f"iterations must be >= 0, not {iterations}")
    if not 0 <= tolerance < 1:
        raise ValueError(f"tolerance must be >= 0 and < 1, not {tolerance}")


def _log_rows(probabilities: Array) -> torch.Tensor:
    """(C, H, W) to contiguous (N, C) float32 logarithms: a pixel's classes lie side by side."""
    values = torch.from_numpy(np.require(probabilities, np.float32, ["C", "W"]))
    rows = _buffer(probabilities.size).view(-1, len(probabilities))
    rows.copy_(values.flatten(1).T)
    return rows.clamp_(SMALLEST, 1).log_()


def _mean_field(
    log_p: torch.Tensor, kernels: list[Kernel], iterations: int, tolerance: float
) -> torch.Tensor:
    """Run mean-field updates: Q = softmax(log P + sum over kernels of K Q).

    The messages K Q of a class depend on its own Q alone, so while that has hardly moved they are
    still right. A constant taken from the Q of all classes alike leaves the softmax as it is: in
    half precision that of an even distribution is, since what is left keeps more digits.

    Args:
        log_p: (N, C) float32, negative unary energies.
        kernels: as `make_kernels` builds them.
        iterations: number of updates at most.
        tolerance: see `dense_crf`.

    Returns:
        (N, C) float32, rows sum to 1.
    """
    n, classes = log_p.shape
    dtype, even = (np.float16, 1 / classes) if tolerance else (np.float32, 0.0)
    vertices = max(chain[0].shape[0] for chain in kernels)
    width = max(16, TABLE_BYTES // (np.dtype(dtype).itemsize * vertices))
    width = -(-classes // -(-classes // width))  # parts of equal width
    chains = [[cut_blocks(matrix, width, dtype) for matrix in chain] for chain in kernels]
    spare = [_buffer(vertices * width, dtype) for _ in range(2)]
    logits, posteriors = _buffer(n * classes).view(n, -1), _buffer(n * classes).view(n, -1)

    def send(q: torch.Tensor, logits: torch.Tensor) -> None:
        """Add the messages of some classes, (N, c) `q`, to their `logits`."""
        first = (q - even).to(torch.float16) if tolerance else q.contiguous()
        for chain in chains:
            values = first
            for turn, blocks in enumerate(chain[:-1]):
                size = blocks[-1][0].stop * q.shape[1]
                table = spare[turn % 2][:size].view(-1, q.shape[1])
                for rows, product in products(blocks, values):
                    table[rows] = product
                values = table
            for rows, product in products(chain[-1], values):
                logits[rows] += product

    logits.copy_(log_p)
    moved = _update(posteriors.fill_(even), logits)
    for _ in range(iterations):
        stale = (moved > tolerance * posteriors.max()).nonzero()[:, 0]
        if not len(stale):
            break
        if 2 * len(stale) > classes:  # to pick most of them takes longer than to take all
            stale = torch.arange(classes)
            for start in range(0, classes, width):
                part = slice(start, start + width)
                logits[:, part] = log_p[:, part]
                send(posteriors[:, part], logits[:, part])
        else:
            for some in stale.split(width):
                renewed = log_p.index_select(1, some)
                send(posteriors.index_select(1, some), renewed)
                logits.scatter_(1, some.expand(n, -1), renewed)
        moved[stale] = 0
        moved += _update(posteriors, logits)
    return posteriors


def _update(posteriors: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """Set (N, C) `posteriors` to the softmax of `logits`.

    Returns:
        (C,) how far each class moved at most.
    """
    moved = torch.zeros(logits.shape[1])
    step = max(1, BLOCK_BYTES // (4 * logits.shape[1]))
    for before, energies in zip(posteriors.split(step), logits.split(step), strict=True):
        after = torch.softmax(energies, 1)
        torch.maximum(moved, before.sub_(after).abs_().amax(0), out=moved)
        before.copy_(after)
    return moved


def _buffer(size: int, dtype: type = np.float32) -> torch.Tensor:
    """Uninitialised memory. NumPy's, since it asks Linux for huge pages: 15 % faster."""
    return torch.from_numpy(np.empty(size, dtype))


def cut_blocks(matrix: sparse.csr_matrix, width: int, dtype: type) -> Blocks:
    """Cut a matrix into blocks of rows whose product with `width` columns is `BLOCK_BYTES` long.

    Without blocks, half of the time would go into mapping fresh memory for every product.
    """
    step = max(1, BLOCK_BYTES // (4 * width))
    columns = torch.from_numpy(matrix.indices)
    values = torch.from_numpy(matrix.data.astype(dtype, copy=False))
    blocks = []
    for start in range(0, matrix.shape[0], step):
        bounds = matrix.indptr[start : start + step + 1]
        inside = slice(int(bounds[0]), int(bounds[-1]))
        offsets = torch.from_numpy(bounds[:-1] - bounds[0])
        rows = slice(start, start + len(offsets))
        blocks.append((rows, columns[inside], offsets, values[inside]))
    return blocks


def products(blocks: Blocks, values: torch.Tensor) -> Iterator[tuple[slice, torch.Tensor]]:
    """Yield the row blocks of a sparse matrix times `values`.

    A weighted sum of table rows is torch's `embedding_bag`, which is several times as fast as the
    sparse products of SciPy and torch themselves.
    """
    for rows, columns, offsets, weights in blocks:
        yield (
            rows,
            embedding_bag(columns, values, offsets, mode="sum", per_sample_weights=weights),
        )
