"""Maps: vectors at positions, and what every step of the method does to them.

Arrays are NumPy's; what co-segmentation needs takes PyTorch's as well, without importing it.
"""

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

MAIN_MEMORY = ("cpu",)  # tensors of these devices go to NumPy


def normalise(values: Any, axis: int = -1) -> Any:
    """Divide by the L2 norm along `axis`; a zero vector stays zero."""
    return values / length(values, axis)


def length(values: Any, axis: int = -1) -> Any:
    """L2 norm along `axis`, which is kept with size 1; of a zero vector a tiny number."""
    xp = namespace(values)
    norm = xp.sqrt((values * values).sum(axis, keepdims=True))
    return norm.clip(min=float(xp.finfo(values.dtype).tiny))


def sigmoid(values: Any) -> Any:
    """The logistic function, without overflow."""
    return 0.5 * (1 + namespace(values).tanh(0.5 * values))


def resize(maps: Any, size: Sequence[int]) -> Any:
    """Bilinear resize of the last two axes, `align_corners=False`, no antialias (as PyTorch)."""
    rows, columns = (
        beside(_interpolation(n, m), maps) for n, m in zip(maps.shape[-2:], size, strict=True)
    )
    # The second product is a single one, for a map each would wait for the threads of BLAS.
    wide = (rows @ maps).reshape(-1, maps.shape[-1]) @ columns.T
    return as_float32(wide.reshape(*maps.shape[:-2], *size))


def _interpolation(length: int, wanted: int) -> np.ndarray:
    """(wanted, length) matrix of bilinear weights."""
    if length == wanted:
        return np.eye(length, dtype=np.float32)
    position = np.maximum((np.arange(wanted) + 0.5) * (length / wanted) - 0.5, 0)
    low = np.minimum(position.astype(int), length - 1)
    high = np.minimum(low + 1, length - 1)
    share = (position - low).astype(np.float32)
    matrix = np.zeros((wanted, length), dtype=np.float32)
    np.add.at(matrix, (np.arange(wanted), low), 1 - share)
    np.add.at(matrix, (np.arange(wanted), high), share)
    return matrix


def softmax(values: np.ndarray, axis: int = 0) -> np.ndarray:
    """Shares that sum to 1 over an axis."""
    shares = np.exp(values - values.max(axis=axis, keepdims=True))
    shares /= shares.sum(axis=axis, keepdims=True)
    return shares


def area_means(maps: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Means (..., h, w) -> (..., *size) float32 over what each cell touches: adaptive pooling."""
    rows, columns = (_bins(old, new) for old, new in zip(maps.shape[-2:], size, strict=True))
    return rows @ maps @ columns.T


def _bins(length: int, wanted: int) -> np.ndarray:
    """(wanted, length) float32: bin i is the mean of floor(i n / m) up to ceil((i + 1) n / m)."""
    matrix = np.zeros((wanted, length), np.float32)
    for i in range(wanted):
        start, end = i * length // wanted, -(-(i + 1) * length // wanted)
        matrix[i, start:end] = 1 / (end - start)
    return matrix


# ---- kinds of arrays ---------------------------------------------------------------------------


def is_tensor(values: Any) -> bool:
    torch = sys.modules.get("torch")  # whoever has a tensor has imported it
    return torch is not None and isinstance(values, torch.Tensor)


def namespace(values: Any) -> Any:
    """The library that computes on `values`: torch or NumPy, by their common function names."""
    return sys.modules["torch"] if is_tensor(values) else np


def as_float32(values: Any) -> Any:
    """What is computed on: a float32 tensor if `values` is one on an accelerator, else NumPy.

    Arrays are put into C order, for sums in another order differ in the last bit.
    """
    if is_tensor(values):
        values = values.detach().float()
        if values.device.type not in MAIN_MEMORY:
            return values
    return np.ascontiguousarray(values, dtype=np.float32)


def beside(values: Any, other: Any) -> Any:
    """`values` as an array of the library, and on the device, that holds `other`."""
    if is_tensor(other):
        return sys.modules["torch"].as_tensor(values, device=other.device)
    return values.cpu().numpy() if is_tensor(values) else values


def like(result: Any, given: Any) -> Any:
    """A result in the kind of array, and on the device, that the caller gave."""
    return beside(result, given) if is_tensor(given) else result
