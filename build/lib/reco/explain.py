"""What pydantic finds wrong, in lines that a person can act on: the key, and the remedy."""

import difflib
from collections.abc import Iterable
from datetime import date
from typing import Any, get_args

from pydantic import BaseModel

TEXT = ("string_type", "path_type")
LIST = ("list_type", "tuple_type")
MAPPING = ("dict_type", "model_type", "model_attributes_type")


def explain(problem: Any, model: type[BaseModel]) -> str:
    """The key, what is wrong with it, and for an unknown key the nearest that exists.

    Args:
        problem: of the `errors()` of a ValidationError.
        model: what was checked.
    """
    keys, known, here = _walk(problem["loc"], model)
    key, value, kind = ".".join(keys), problem["input"], problem["type"]
    if kind == "extra_forbidden":
        near = difflib.get_close_matches(keys[-1], known, 1, 0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"known keys here: {', '.join(known)}"
        return f"unknown key {key!r}: {hint}"
    message = problem["msg"].removeprefix("Value error, ")
    if kind in TEXT:
        message = not_text(value)
    elif kind in LIST:
        message = f"a list is wanted here, as in [a, b], not {shown(value)}"
    elif kind in MAPPING:
        message = f"keys with values are wanted here, not {shown(value)}"
    elif kind.startswith("union_tag"):
        given = value.get("kind") if isinstance(value, dict) else None
        kinds = ", ".join(tag for found in here for tag in _kinds(found))
        message = f"kind {shown(given)}: write one of {kinds}"
    elif kind == "missing":
        message = "missing"
    return f"{key}: {message}" if key else message


def not_text(value: object) -> str:
    """What to say of a value that stands where text belongs."""
    if isinstance(value, bool):
        words = "yes, on and true" if value else "no, off and false"
        return f"{value} is no text, but what YAML makes of {words}: put it in quotes"
    if isinstance(value, int | float | date):
        return f"{value} is no text, but a number or a date: put it in quotes"
    return f"text is wanted here, not {shown(value)}"


def shown(value: object) -> str:
    """A value that is out of place, for people, in a few words."""
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    return "null" if value is None else f"{value!r:.40}"


def _walk(
    location: Iterable[str | int], model: type[BaseModel]
) -> tuple[list[str], list[str], list[type[BaseModel]]]:
    """A problem's keys as people write them, those beside the last one, the models it may hold.

    Pydantic also names the kind that a choice fell on, as in `index.folder.root`.
    """
    here, keys, known = [model], list[str](), list[str]()
    for part in map(str, location):
        fields = [found.model_fields[part] for found in here if part in found.model_fields]
        of_kind = [found for found in here if part in _kinds(found)]
        if of_kind and not fields:
            here = of_kind
            continue
        keys.append(part)
        known = sorted({key for found in here for key in found.model_fields})
        here = [found for field in fields for found in _models(field.annotation)]
    return keys, known, here


def _kinds(model: type[BaseModel]) -> tuple[Any, ...]:
    kind = model.model_fields.get("kind")
    return get_args(kind.annotation) if kind else ()


def _models(annotation: Any) -> list[type[BaseModel]]:
    """The models among the choices of an annotation."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for choice in get_args(annotation) for found in _models(choice)]
