"""Fully connected conditional random field: mean field with permutohedral lattice filters.

Every pixel is joined to every other one by a Gaussian kernel on position and by a bilateral kernel
on position and colour (Krähenbühl & Koltun, "Efficient Inference in Fully Connected CRFs with
Gaussian Edge Potentials", NIPS 2011). The sums over all pairs are taken on the lattice of
`lattice.py`. The numbers are those of `pydensecrf`, down to rounding; unlike it, this needs no
compiler to install, and it is faster when there are many classes, whose values lie side by side: so
each non-zero of the lattice's matrices moves one run of memory.

With a tolerance, products of a class are taken only once its probabilities have moved. Where many
classes are about as likely, as in ReCo, messages are small, and two or three updates leave nothing
to do.
"""

import numpy as np

from reco.method.lattice import Array, Kernel, make_kernels

SMALLEST = 1e-5  # probabilities are clipped here, as `pydensecrf.utils.unary_from_softmax` does
TABLE_BYTES = 16 << 20  # values on the lattice held at once; more classes go in several parts
BLOCK_BYTES = 2 << 20  # of rows that are normalised at once; the cache holds them


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

    The defaults are ReCo's. It uses one thread: many images go through several processes.
    """
    _check(image, probabilities, iterations, tolerance)
    kernels = make_kernels(
        image, gaussian_sxy, gaussian_compat, bilateral_sxy, bilateral_srgb, bilateral_compat
    )
    posteriors = _mean_field(_log_rows(probabilities), kernels, iterations, tolerance)
    return np.ascontiguousarray(posteriors.T).reshape(probabilities.shape)


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


def _log_rows(probabilities: Array) -> Array:
    """(C, H, W) to contiguous (N, C) float32 logarithms: a pixel's classes lie side by side."""
    rows = np.array(probabilities.reshape(len(probabilities), -1).T, np.float32, order="C")
    return np.log(np.clip(rows, SMALLEST, 1, out=rows), out=rows)


def _mean_field(log_p: Array, kernels: list[Kernel], iterations: int, tolerance: float) -> Array:
    """Run mean-field updates: Q = softmax(log P + sum over kernels of K Q).

    The messages K Q of a class depend on its own Q alone, so while that has hardly moved they are
    still right. A constant taken from the Q of all classes alike leaves the softmax as it is: with
    a tolerance that of an even distribution is, from which few classes move.

    Args:
        log_p: (N, C) float32, negative unary energies.
        kernels: as `make_kernels` builds them.
        iterations: number of updates at most.
        tolerance: see `dense_crf`.

    Returns:
        (N, C) float32, rows sum to 1.
    """
    classes = log_p.shape[1]
    even = np.float32(1 / classes if tolerance else 0)
    vertices = max(chain[0].shape[0] for chain in kernels)
    width = max(16, TABLE_BYTES // (4 * vertices))
    width = -(-classes // -(-classes // width))  # parts of equal width
    logits, posteriors = log_p.copy(), np.full_like(log_p, even)
    moved = _update(posteriors, logits)
    for _ in range(iterations):
        stale = np.flatnonzero(moved > tolerance * posteriors.max())
        if not len(stale):
            break
        if 2 * len(stale) > classes:  # to pick most of them takes longer than to take all
            stale = np.arange(classes)
        for start in range(0, len(stale), width):
            some = stale[start : start + width]
            part = slice(some[0], some[-1] + 1) if len(stale) == classes else some
            logits[:, part] = log_p[:, part] + _messages(posteriors[:, part] - even, kernels)
        moved[stale] = 0
        moved += _update(posteriors, logits)
    return posteriors


def _messages(q: Array, kernels: list[Kernel]) -> Array:
    """(N, c) what all pixels tell each of the classes of (N, c) `q`."""
    total = np.zeros_like(q)
    for chain in kernels:
        values = q
        for matrix in chain:
            values = matrix @ values
        total += values
    return total


def _update(posteriors: Array, logits: Array) -> Array:
    """Set (N, C) `posteriors` to the softmax of `logits`.

    Returns:
        (C,) how far each class moved at most.
    """
    moved = np.zeros(logits.shape[1], np.float32)
    step = max(1, BLOCK_BYTES // (4 * logits.shape[1]))
    for start in range(0, len(logits), step):
        before, energies = posteriors[start : start + step], logits[start : start + step]
        after = np.exp(energies - energies.max(axis=1, keepdims=True))
        after /= after.sum(axis=1, keepdims=True)
        before -= after
        np.maximum(moved, np.abs(before, out=before).max(axis=0), out=moved)
        before[:] = after
    return moved
