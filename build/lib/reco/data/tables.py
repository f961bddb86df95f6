"""CSV tables: what the stages hand on to each other, a header and a row per thing."""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

from reco.errors import RecoError
from reco.files import MAKE_AGAIN, atomic


def write_table(path: str | Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a CSV table, atomically."""
    with atomic(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def read_table(path: str | Path) -> list[dict[str, str]]:
    """Read a CSV table as one dict per row.

    Raises:
        RecoError: no such file, not even a header, or a row that is cut off.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            header, rows = reader.fieldnames, list(reader)
    except FileNotFoundError:
        raise RecoError(f"{path}: no such file") from None
    except (csv.Error, UnicodeDecodeError) as error:
        raise RecoError(f"{path}: damaged, or no table ({error}): {MAKE_AGAIN}") from None
    if header is None:
        raise RecoError(f"{path}: empty: {MAKE_AGAIN}")
    for number, row in enumerate(rows, 1):
        if None in row or None in row.values():
            raise RecoError(f"{path}: row {number} has too few or too many values: {MAKE_AGAIN}")
    return rows
