"""Section: what all sections of the config are made of, and the kinds of values that they hold."""

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict

PIXELS = 8192  # no side is longer
MANY = 1_000_000  # of images, steps: more is a slip of the hand


def _path(value: object) -> object:
    """`--config photos=2024` is a number to Snakemake, and the folder's name to its user."""
    if isinstance(value, int) and not isinstance(value, bool) and Path(str(value)).exists():
        return str(value)
    if isinstance(value, str) and (not value.strip() or "\0" in value):
        raise ValueError("blank: write a path, or leave the key out")
    return value


def _split(name: str) -> str:
    """A split names a folder below images/, which nothing else may be reached by."""
    parts = name.split("/")
    if not name.isprintable() or "\\" in name or {"", ".", ".."} & {part.strip() for part in parts}:
        raise ValueError(f"{name!r} names no folder below images/: write a name, or a/b")
    return name


def _number(value: object) -> object:
    """To pydantic, True is 1."""
    if isinstance(value, bool):
        raise ValueError(f"{value} is no number")
    return value


Int = Annotated[int, BeforeValidator(_number)]
Float = Annotated[float, BeforeValidator(_number)]
UserPath = Annotated[Path, BeforeValidator(_path)]
SplitName = Annotated[str, AfterValidator(_split)]


class Section(BaseModel):
    """A part of the config; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
