"""Lists of concepts, as people give them: a file, a list, or text with commas between names."""

from datetime import date
from pathlib import Path

from reco.concepts import Concept, check_concepts
from reco.errors import RecoError
from reco.explain import not_text
from reco.files import read_text, read_yaml

LISTS = (".yaml", ".yml", ".txt")  # endings of files that list concepts


def lists(concepts: str) -> bool:
    """Whether a text names a file that lists concepts, rather than concepts."""
    return concepts.strip().lower().endswith(LISTS)


def read_concepts(file: str | Path) -> list[Concept]:
    """The concepts that a file lists: a YAML list (.yaml, .yml), or text with a name a line.

    Raises:
        RecoError: a file that cannot be read, holds no list, or an entry that is no concept.
    """
    if Path(file).suffix.lower() == ".txt":
        entries = [line for line in read_text(file).split("\n") if line.strip()]
    else:
        entries = read_yaml(file)
    if not entries:
        raise RecoError(f"{file}: names no concept: list at least one")
    try:
        return check_concepts(entries)
    except RecoError as error:
        raise RecoError(f"{file}: {error}") from None


def listed(concepts: object) -> list[Concept]:
    """Concepts from a list, or from text with commas between names."""
    if isinstance(concepts, int | float | date):
        raise ValueError(not_text(concepts))
    if isinstance(concepts, str):
        concepts = [name.strip() for name in concepts.split(",") if name.strip()]
    try:
        return check_concepts(concepts)
    except RecoError as error:
        raise ValueError(str(error)) from None
