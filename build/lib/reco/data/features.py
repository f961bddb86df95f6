"""Features in tables: where in the store those of a row are, `<name>_shard` and `<name>_row`."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from reco.data.store import Place, read_places


def place_columns(names: Iterable[str]) -> list[str]:
    """The columns of some features, such as `dense_shard` and `dense_row` of `dense`."""
    return [f"{name}_{field}" for name in names for field in Place._fields]


def place_in(row: Mapping[str, str], name: str) -> Place:
    """Where a row's features are.

    Raises:
        KeyError: the table has no such columns.
    """
    return Place(row[f"{name}_shard"], int(row[f"{name}_row"]))


def read_features(rows: Sequence[Mapping[str, str]], name: str) -> np.ndarray:
    """Features of some rows as (n, ...) float32.

    Raises:
        RecoError: a shard is missing or damaged.
        KeyError, ValueError: the table has no such columns, or there are no rows.
    """
    return read_places([place_in(row, name) for row in rows])
