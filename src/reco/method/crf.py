"""Fully connected conditional random field: mean field with permutohedral lattice filters.

Every pixel is joined to every other one by a Gaussian kernel on position and by a bilateral kernel
on position and colour (Krähenbühl & Koltun, "Efficient Inference in Fully Connected CRFs with
Gaussian Edge Potentials", NIPS 2011). The sums over all pairs are taken on the permutohedral
lattice of Adams, Baek & Davis ("Fast High-Dimensional Filtering Using the Permutohedral Lattice",
Eurographics 2010). The numbers are those of `pydensecrf`, down to rounding; unlike it, this needs
no compiler to install, and it is faster when there are many classes.

A filter is a chain of sparse matrices: splat (pixels to lattice vertices), blur along the axes of
the lattice, slice (vertices to pixels). The chain is built once per image. It multiplies the values
of many classes at once, which lie side by side, so that each non-zero moves one run of memory.

With a tolerance, products of a class are taken only once its probabilities have moved. Where many
classes are about as likely, as in ReCo, messages are small, and two or three updates leave nothing
to do.
"""

import numpy as np
from scipy import sparse

Array = np.ndarray
Kernel = list[sparse.csr_matrix]  # matrices to be applied in turn

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


def _scaled(name: str, deviation: float, *values: Array) -> Array:
    """Stack `values`, (N,) float32 each, divided by a standard deviation, which must be > 0."""
    if not deviation > 0:
        raise ValueError(f"{name} must be > 0, not {deviation}")
    return np.stack(values) / np.float32(deviation)


def _log_rows(probabilities: Array) -> Array:
    """(C, H, W) to contiguous (N, C) float32 logarithms: a pixel's classes lie side by side."""
    rows = np.array(probabilities.reshape(len(probabilities), -1).T, np.float32, order="C")
    return np.log(np.clip(rows, SMALLEST, 1, out=rows), out=rows)


# --- the lattice ------------------------------------------------------------------------------


def make_kernels(
    image: Array,
    gaussian_sxy: float,
    gaussian_compat: float,
    bilateral_sxy: float,
    bilateral_srgb: float,
    bilateral_compat: float,
) -> list[Kernel]:
    """Build the filters of both kernels for an image; see `dense_crf`."""
    y, x = np.indices(image.shape[:2], np.float32).reshape(2, -1)
    colour = image.reshape(-1, 3).T.astype(np.float32)
    position = _scaled("gaussian_sxy", gaussian_sxy, x, y)
    joint = np.concatenate(
        [
            _scaled("bilateral_sxy", bilateral_sxy, x, y),
            _scaled("bilateral_srgb", bilateral_srgb, *colour),
        ]
    )
    return [_kernel(position, gaussian_compat), _kernel(joint, bilateral_compat)]


def _simplices(features: Array) -> tuple[Array, Array]:
    """Find the lattice simplex around every point.

    Args:
        features: (d, N) float32, scaled to unit standard deviation.

    Returns:
        Coordinates of the d + 1 vertices of each simplex, (d + 1, d, N) int32 (the last coordinate
        is left out: they sum to 0), and barycentric weights, (d + 1, N) float32.

    Single precision and the order of the operations follow `pydensecrf`, because points near a
    face of a simplex would otherwise fall on its other side. Page and symbol names are those of
    Adams et al.
    """
    d, n = features.shape
    side = d + 1
    # Elevate to the plane of d + 1 coordinates with sum 0, and scale so that blurring gives unit
    # deviation (p. 5-6).
    deviation = np.float32(np.sqrt(2 / 3) * side)
    elevated = np.empty((side, n), np.float32)
    total = np.zeros(n, np.float32)
    for axis in range(d, 0, -1):
        scaled = features[axis - 1] * np.float32(deviation / np.sqrt(axis * (axis + 1)))
        elevated[axis] = total - np.float32(axis) * scaled
        total += scaled
    elevated[0] = total

    # Round to a vertex whose coordinates are multiples of d + 1, then rank the remainders.
    rounded = np.rint(elevated * np.float32(1 / side))
    corner = rounded * np.float32(side)
    rank = np.repeat(rounded.sum(0, dtype=np.float32).astype(np.int32)[None], side, 0)
    remainder = elevated - corner
    for i in range(d):
        for j in range(i + 1, side):
            less = remainder[i] < remainder[j]
            rank[i] += less
            rank[j] += ~less
    # Bring vertices that rounding took off the plane back to it.
    shift = side * ((rank < 0).astype(np.int32) - (rank > d))
    rank += shift
    corner += shift

    # Barycentric coordinates (p. 10).
    weights = np.zeros((d + 2, n), np.float32)
    points = np.arange(n)
    for axis in range(side):
        share = (elevated[axis] - corner[axis]) * np.float32(1 / side)
        weights[d - rank[axis], points] += share
        weights[d + 1 - rank[axis], points] -= share
    weights[0] += 1 + weights[side]

    corner = corner[:d].astype(np.int32)
    vertices = [
        corner + np.where(rank[:d] <= d - k, np.int32(k), np.int32(k - side)) for k in range(side)
    ]
    return np.stack(vertices), weights[:side]


def _index(vertices: Array) -> tuple[Array, Array]:
    """Number the distinct vertices, and find their neighbours.

    Args:
        vertices: (d + 1, d, N) integer lattice coordinates.

    Returns:
        The number of each vertex, (d + 1, N) int32, and for each of the d + 1 axes of the lattice
        the number of the next vertex along it or -1, (d + 1, M) int32.
    """
    side = len(vertices)
    # One integer per vertex, linear in the coordinates: a neighbour lies at a constant distance.
    low = vertices.min((0, 2)) - side
    span = [int(s) for s in vertices.max((0, 2)) + side + 1 - low]
    place = [1]
    for size in span[:0:-1]:
        place.append(place[-1] * size)
    if place[-1] * span[0] >= 2**63:
        raise ValueError("a standard deviation is too small for the lattice to be indexed")
    code = np.zeros(vertices[:, 0].shape, np.int64)
    for axis, step in enumerate(reversed(place)):
        code += (vertices[:, axis] - low[axis]).astype(np.int64) * step
    codes, numbers = np.unique(code, return_inverse=True)

    following = np.empty((side, len(codes)), np.int32)
    back = sum(place)
    for axis, step in enumerate([*reversed(place), 0]):
        wanted = codes + side * step - back
        found = np.searchsorted(codes, wanted)
        found[found == len(codes)] = 0
        following[axis] = np.where(codes[found] == wanted, found, -1)
    return numbers.reshape(code.shape).astype(np.int32), following


def _blur(following: Array) -> sparse.csr_matrix:
    """(M, M) operator of one axis: a vertex, plus half of the one before and the one after it."""
    size = len(following)
    here = np.arange(size, dtype=np.int32)
    has_next = following >= 0
    has_previous = np.zeros(size, bool)
    has_previous[following[has_next]] = True
    starts = np.zeros(size + 1, np.int32)
    np.cumsum(1 + has_next + has_previous, out=starts[1:])
    columns = np.empty(starts[-1], np.int32)
    values = np.full(starts[-1], 0.5, np.float32)
    # In every row first the vertex itself, then the one before it, last the one after it.
    columns[starts[:-1]], values[starts[:-1]] = here, 1
    columns[starts[following[has_next]] + 1] = here[has_next]
    columns[starts[1:][has_next] - 1] = following[has_next]
    return sparse.csr_matrix((values, columns, starts), shape=(size, size))


def _kernel(features: Array, compat: float) -> Kernel:
    """Build one pairwise potential's filter, symmetrically normalised and times its Potts weight.

    Args:
        features: (d, N) float32, scaled to unit standard deviation.
        compat: Potts weight.

    Returns:
        Matrices to be applied in turn: (M, N) splat, (M, M) blurs, (N, M) slice, float32.

    The product is `compat * D K D`, where K is the kernel matrix and the diagonal D holds the
    inverse square roots of its row sums (`NORMALIZE_SYMMETRIC` of `pydensecrf`).
    """
    vertices, weights = _simplices(features)
    numbers, following = _index(vertices)
    side, n = numbers.shape
    blurs = [_blur(axis) for axis in following]
    # Two axes at once have hardly more non-zeros than the two apart, and save a pass over memory;
    # on a 2-D lattice, where every vertex has all its neighbours, they have half as many again.
    if side > 3:
        pairs = zip(blurs[0::2], [*blurs[1::2], None], strict=False)
        blurs = [first if second is None else second @ first for first, second in pairs]

    def slicing(scale: Array | np.float32) -> sparse.csr_matrix:
        values = np.ascontiguousarray((weights * scale).T, np.float32)
        starts = np.arange(0, n * side + 1, side, dtype=np.int32)
        columns = np.ascontiguousarray(numbers.T)
        return sparse.csr_matrix(
            (values.ravel(), columns.ravel(), starts), shape=(n, following.shape[1])
        )

    plain = slicing(np.float32(1))
    reach = np.ones(n, np.float32)
    for matrix in [plain.T, *blurs, plain]:
        reach = matrix @ reach
    # The gain of splat, blur and slice, `alpha` in pydensecrf, cancels here.
    scale = 1 / np.sqrt(reach)
    return [slicing(scale).T.tocsr(), *blurs, slicing(scale * compat)]


# --- inference --------------------------------------------------------------------------------


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
