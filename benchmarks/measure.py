"""Measure: ways of computing the same thing, in alternation in one process, and what limits them.

A machine's speed drifts, so every way runs once before any runs again, and what is reported is the
median of each and the ratio of medians. The limits (rate of the matrix product, of reading memory)
are measured in the same run.
"""

import ctypes
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from reco.files import write_json, write_text

RESULTS = Path("results/benchmarks")

# Another process looks, for one that computes may not let its own threads look in time.
WATCH = """
import sys, time
most = 0
print("ready", flush=True)
while True:
    with open(f"/proc/{sys.argv[1]}/status") as file:
        values = dict(line.split(":", 1) for line in file)
    most = max(most, int(values["RssAnon"].split()[0]))
    print(most, flush=True)
    time.sleep(0.001)
"""


@dataclass(frozen=True)
class Row:
    """What was measured of one way.

    Attributes:
        case: what was computed, such as "50 x 384 x 14 x 14".
        way: who computed it, such as "released".
        seconds: median.
        ratio: of the first way's median to this one's, so that more is better.
        mib: peak of memory beyond what was held before; pages of mapped files do not count.
        limit: share of the limit that is reached (1 = as fast as the machine allows), or None.
        agrees: how the result compares with the first way's.
    """

    case: str
    way: str
    seconds: float
    ratio: float
    mib: float
    limit: float | None
    agrees: str


def alternate(ways: Mapping[str, Callable[[], object]], repeats: int = 5) -> dict[str, float]:
    """Median seconds of every way, after one run of each that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(repeats + 1):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def peak_mib(way: Callable[[], object]) -> float:
    """Peak of this process' anonymous memory while `way` runs, beyond what it held before, in MiB.

    Looked at every millisecond from another process. Linux; elsewhere nan.
    """
    if not Path("/proc/self/status").exists():
        return float("nan")
    # Else what was freed before is used again, uncounted; and before it is watched, or it counts.
    ctypes.CDLL(None).malloc_trim(0)
    watcher = subprocess.Popen(
        [sys.executable, "-S", "-c", WATCH, str(os.getpid())], stdout=subprocess.PIPE, text=True
    )
    assert watcher.stdout
    assert watcher.stdout.readline()  # it has started
    with watcher:
        # Its lines are read while `way` runs, or the pipe would fill.
        most = ThreadPoolExecutor(1).submit(lambda: [int(line) for line in watcher.stdout or ()])
        before = _anonymous_kib()
        way()
        time.sleep(0.01)
        watcher.terminate()
        return (max(most.result()) - before) / 1024


def _anonymous_kib() -> int:
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(dict(line.split(":", 1) for line in status.splitlines())["RssAnon"].split()[0])


def gemm_rate(rows: int, inner: int, columns: int) -> float:
    """Multiplications and additions a second of a bare float32 matrix product of this shape."""
    rng = np.random.default_rng(0)
    left = rng.standard_normal((rows, inner), dtype=np.float32)
    right = rng.standard_normal((inner, columns), dtype=np.float32)
    out = np.empty((rows, columns), np.float32)
    seconds = alternate({"gemm": lambda: np.matmul(left, right, out=out)})["gemm"]
    return 2 * rows * inner * columns / seconds


def read_rate(mib: int = 512) -> float:
    """Bytes a second of reading main memory by as many threads as NumPy's products use."""
    threads = os.cpu_count() or 1
    parts = np.array_split(np.ones(mib << 18, np.float32), threads)
    with ThreadPoolExecutor(threads) as pool:
        seconds = alternate({"read": lambda: list(pool.map(np.max, parts))})["read"]
    return (mib << 20) / seconds


def compare(
    case: str,
    ways: Mapping[str, Callable[[], object]],
    agrees: Mapping[str, str] | None = None,
    limit: Callable[[], object] | float | None = None,
    repeats: int = 5,
) -> list[Row]:
    """Measure the ways of one case; the first is what the others are compared with.

    Args:
        agrees: how a way's result compares with the first one's.
        limit: work that no way can do without, timed in alternation with them; or the seconds that
            it takes, measured in the same run.
    """
    timed = {**ways, "limit": limit} if callable(limit) else ways
    medians = alternate(timed, repeats)
    least = medians.pop("limit", None) if callable(limit) else limit
    first = next(iter(medians.values()))
    return [
        Row(
            case,
            name,
            seconds,
            first / seconds,
            peak_mib(ways[name]),
            least / seconds if least else None,
            (agrees or {}).get(name, ""),
        )
        for name, seconds in medians.items()
    ]


def describe_machine() -> str:
    """Processor, cores and the versions that matter."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        model = names[0].split(":", 1)[1].strip() if names else model
    versions = f"Python {platform.python_version()}, NumPy {np.__version__}"
    return f"{model}, {os.cpu_count()} cores; {versions}"


def report(name: str, title: str, rows: Sequence[Row], notes: Sequence[str] = ()) -> None:
    """Print a benchmark's table and write it to `results/benchmarks/<name>.md` and `.json`."""
    table = pd.DataFrame(
        {
            "case": [row.case for row in rows],
            "way": [row.way for row in rows],
            "median, s": [f"{row.seconds:.3g}" for row in rows],
            "times as fast": [f"{row.ratio:.2f}" for row in rows],
            "memory, MiB": [f"{row.mib:.0f}" for row in rows],
            "of the limit": ["" if row.limit is None else f"{row.limit:.0%}" for row in rows],
            "result": [row.agrees for row in rows],
        }
    )
    right = ("left", "left", "right", "right", "right", "right", "left")
    lines = [
        f"# {title}",
        "",
        table.to_markdown(index=False, colalign=right, disable_numparse=True),
    ]
    lines += ["", *[f"* {note}" for note in [*notes, describe_machine()]], ""]
    text = "\n".join(lines)
    print(text)
    write_text(RESULTS / f"{name}.md", text)
    record = {"title": title, "machine": describe_machine(), "notes": list(notes)}
    write_json(RESULTS / f"{name}.json", {**record, "rows": [asdict(row) for row in rows]})


def read_rows(path: Path) -> list[Row]:
    """The rows of a `.json` that `report` wrote."""
    return [Row(**row) for row in json.loads(path.read_text(encoding="utf-8"))["rows"]]
