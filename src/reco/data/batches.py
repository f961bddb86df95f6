"""Feed a network: decode images in threads, in order, a batch ahead of the network."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

from torch import Tensor, stack

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
    loaded: Iterable[tuple[Item, Tensor]], size: int
) -> Iterator[tuple[list[Item], Tensor]]:
    """Group (item, (3, h, w) tensor) pairs into batches of at most `size` images of equal shape."""
    items: list[Item] = []
    tensors: list[Tensor] = []
    for item, tensor in loaded:
        if tensors and (len(tensors) == size or tensor.shape != tensors[0].shape):
            yield items, stack(tensors)
            items, tensors = [], []
        items.append(item)
        tensors.append(tensor)
    if tensors:
        yield items, stack(tensors)
