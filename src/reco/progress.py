"""Progress for long stages: a bar on a terminal, a plain line every few seconds in a log."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")


def track(
    items: Iterable[Item], what: str, *, total: int | None = None, unit: str = "image",
    every: float = 10.0,
) -> Iterator[Item]:
    """Yield `items` and report rate and time left on standard error.

    Args:
        what: the stage, as a person would say it ("embed index").
        total: the number of items, where `items` has no length.
        unit: the singular noun that is counted.
        every: seconds between lines when standard error is no terminal.
    """
    total = len(items) if total is None and hasattr(items, "__len__") else total
    if sys.stderr.isatty():
        yield from tqdm(items, desc=what, total=total, unit=unit, dynamic_ncols=True)
        return
    start = last = time.monotonic()
    done = 0
    for done, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        if now - last >= every:
            last = now
            _line(what, done, total, unit, now - start)
    _line(what, done, total, unit, time.monotonic() - start)


def _line(what: str, done: int, total: int | None, unit: str, seconds: float) -> None:
    rate = done / seconds if seconds > 0 else 0.0
    left = f", {(total - done) / rate:.0f} s left" if total and rate and done < total else ""
    of = f" of {total}" if total else ""
    print(f"{what}: {done}{of} {unit}s, {rate:.1f}/s{left}", file=sys.stderr, flush=True)
