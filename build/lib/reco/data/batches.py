"""Feed a network: decode images in threads, in order, a batch ahead of the network."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

import numpy as np

Item = TypeVar("Item")
Result = TypeVar("Result")


def ahead(
    items: Iterable[Item], work: Callable[[Item], Result], *, workers: int, most: int
) -> Iterator[Result]:
    """`map(work, items)` in threads, in order, with at most `most` results waiting."""
    iterator = iter(items)
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[Future[Result]] = deque(
            pool.submit(work, item) for item in islice(iterator, most)
        )
        while waiting:
            result = waiting.popleft().result()
            waiting.extend(pool.submit(work, item) for item in islice(iterator, 1))
            yield result


def batches(
    loaded: Iterable[tuple[Item, np.ndarray]], size: int
) -> Iterator[tuple[list[Item], np.ndarray]]:
    """Group (item, (3, h, w) array) pairs into batches of at most `size` images of equal shape."""
    items: list[Item] = []
    arrays: list[np.ndarray] = []
    for item, array in loaded:
        if arrays and (len(arrays) == size or array.shape != arrays[0].shape):
            yield items, np.stack(arrays)
            items, arrays = [], []
        items.append(item)
        arrays.append(array)
    if arrays:
        yield items, np.stack(arrays)
