"""Progress for long stages: a bar on a terminal, a plain line every few seconds in a log."""

import logging
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from reco.files import disk_full

Item = TypeVar("Item")

LOG = logging.getLogger("reco")
_LINES = logging.getLogger("reco.progress")


class LogFile(logging.FileHandler):
    """A log file that goes without what a full disk does not take: the screen has it, too."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802, a name of logging
        """Any other error is reported as logging does."""
        if not disk_full(sys.exception()):
            super().handleError(record)


def open_log(path: Path | None) -> None:
    """Send messages to standard error, and all messages and progress lines to a file.

    Progress lines go to standard error too where it is no terminal, for then there is no bar.
    Details (level debug) go to the file alone.
    """
    LOG.setLevel(logging.DEBUG)
    LOG.propagate = False
    screen = logging.StreamHandler()
    screen.setLevel(logging.INFO)
    screen.setFormatter(logging.Formatter("%(message)s"))
    if sys.stderr.isatty():
        screen.addFilter(lambda record: record.name != _LINES.name)
    handlers: list[logging.Handler] = [screen]
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = LogFile(path, mode="w", encoding="utf-8", errors="backslashreplace")
        file.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
        handlers.append(file)
    LOG.handlers = handlers


def track(
    items: Iterable[Item],
    what: str,
    *,
    total: int | None = None,
    unit: str = "image",
    every: float = 10.0,
) -> Iterator[Item]:
    """Yield `items` and report rate and time left.

    Args:
        what: the stage, as a person would say it ("embed index").
        total: the number of items, where `items` has no length.
        unit: the singular noun that is counted.
        every: seconds between lines of the log.
    """
    if total is None and isinstance(items, Sized):
        total = len(items)
    terminal = sys.stderr.isatty()
    start = last = time.monotonic()
    done = 0
    with logging_redirect_tqdm([LOG]):
        for item in tqdm(
            items, what, total, unit=unit, dynamic_ncols=True, disable=not terminal, leave=False
        ):
            yield item
            done += 1
            now = time.monotonic()
            if now - last >= every and done != total:
                last = now
                _LINES.info(progress_line(what, done, total, unit, now - start))
    _LINES.info(progress_line(what, done, total, unit, time.monotonic() - start))


def progress_line(what: str, done: int, total: int | None, unit: str, seconds: float) -> str:
    """One line such as `embed index: 320 of 1200 images, 31.0/s, 28 s left`."""
    rate = done / seconds if seconds > 0 else 0.0
    of = f" of {total}" if total else ""
    left = f", {(total - done) / rate:.0f} s left" if total and rate and done < total else ""
    return f"{what}: {done}{of} {unit}s, {rate:.1f}/s{left}"
