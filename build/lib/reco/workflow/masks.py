"""Masks: label masks are written, those with a CRF through processes of their own."""

from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from reco.config import CRF
from reco.data.folder import write_labels
from reco.errors import RecoError
from reco.method.metrics import IGNORE
from reco.method.refine import end_with_parent, refine, shrink
from reco.method.variants import Method

QUEUE_BYTES = 256 << 20  # of probabilities that wait for a CRF; one image per process at least


class MaskWriter:
    """Writes label masks, those with a CRF through a pool of processes.

    For 171 concepts at 320 x 320 each process needs 0.6 GiB beside its libraries.

    Args:
        folder: masks go to `<folder>/<method>/<name>`.
        labels: (concepts,) label id of every concept.
        settings: of the CRF.
        workers: processes for the CRF.
    """

    def __init__(self, folder: Path, labels: np.ndarray, settings: CRF, workers: int) -> None:
        self.folder, self.labels, self.settings = folder, labels, settings
        # spawn: a fork of a process that runs a network's threads can hang.
        self._pool = ProcessPoolExecutor(workers, get_context("spawn"), _begin)
        self._waiting: list[tuple[Path, Future[np.ndarray], np.ndarray | None]] = []
        self._workers = workers

    def write(self, method: Method, name: str, maps: np.ndarray) -> None:
        """Write the argmax of (concepts, height, width) maps."""
        self._save(self.folder / method.slug / name, maps.argmax(0))

    def write_refined(
        self,
        method: Method,
        name: str,
        image: np.ndarray,
        probabilities: np.ndarray,
        ignored: np.ndarray | None = None,
    ) -> None:
        """Queue the CRF of one image: (H, W, 3) uint8 RGB and (concepts, H, W).

        Pixels of `ignored` (H, W) are written as the ignore value.
        """
        small = shrink(probabilities, self.settings.size)
        task = self._pool.submit(refine, image, small, self.settings)
        self._waiting.append((self.folder / method.slug / name, task, ignored))
        most = max(self._workers, min(4 * self._workers, QUEUE_BYTES // small.nbytes))
        while len(self._waiting) > most:
            self._finish_one()

    def close(self) -> None:
        """Finish what is queued."""
        while self._waiting:
            self._finish_one()
        self._pool.shutdown()

    def cancel(self) -> None:
        """Drop what is queued."""
        self._pool.shutdown(cancel_futures=True)

    def _finish_one(self) -> None:
        path, task, ignored = self._waiting.pop(0)
        self._save(path, task.result(), ignored)

    def _save(self, path: Path, concepts: np.ndarray, ignored: np.ndarray | None = None) -> None:
        labels = self.labels[concepts]
        write_labels(path, labels if ignored is None else np.where(ignored, IGNORE, labels))


def _begin() -> None:
    """Set up a process of the pool: the processes share the cores, not the threads of each."""
    threadpool_limits(1)
    end_with_parent()


@contextmanager
def mask_writer(
    folder: Path, labels: np.ndarray, settings: CRF, workers: int
) -> Iterator[MaskWriter]:
    """A `MaskWriter` that finishes its queue at the end, or drops it on an error.

    Meanwhile this process uses half as many threads as there are workers: the threads of one
    operation wait for each other, so a network with a thread per core crawls beside busy workers.
    """
    writer = MaskWriter(folder, labels, settings, workers)
    try:
        with threadpool_limits(max(1, workers // 2)):
            yield writer
            writer.close()
    except BrokenProcessPool:
        raise RecoError(
            "a process that runs the CRF was killed, most likely for lack of memory: run again "
            "with fewer cores, or lower crf.size in the config"
        ) from None
    except BaseException:
        writer.cancel()
        raise
