"""Permutohedral lattice: a Gaussian filter over the pixels of an image, as sparse matrices.

The lattice of Adams, Baek & Davis ("Fast High-Dimensional Filtering Using the Permutohedral
Lattice", Eurographics 2010), with the numbers of `pydensecrf`, down to rounding.

A filter is a chain of sparse matrices: splat (pixels to lattice vertices), blur along the axes of
the lattice, slice (vertices to pixels). The chain is built once per image.
"""

import numpy as np
from scipy import sparse

Array = np.ndarray
Kernel = list[sparse.csr_matrix]  # matrices to be applied in turn


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


def _scaled(name: str, deviation: float, *values: Array) -> Array:
    """Stack `values`, (N,) float32 each, divided by a standard deviation, which must be > 0."""
    if not deviation > 0:
        raise ValueError(f"{name} must be > 0, not {deviation}")
    return np.stack(values) / np.float32(deviation)


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
