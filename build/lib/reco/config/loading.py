"""Loading: config files and command lines come in here, and leave as a checked config."""

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from reco.config.config import Config
from reco.errors import RecoError
from reco.explain import explain
from reco.files import fingerprint, read_yaml


def check_config(values: dict[str, Any]) -> Config:
    """The config that some keys and the defaults make; every file and command line comes in here.

    Where there are `photos`, nothing is scored, and so there is no benchmark.

    Raises:
        RecoError: one line per problem: the key, what is wrong, and the nearest key that exists.
    """
    try:
        config = Config.model_validate(values)
    except ValidationError as error:
        # A key of the user's may have line breaks in it.
        lines = [" ".join(_explain(problem).splitlines()) for problem in error.errors()]
        raise RecoError("config: " + "\nconfig: ".join(lines)) from None
    return config.model_copy(update={"benchmark": None}) if config.photos else config


def load(*files: str | Path) -> Config:
    """Read config files, later ones over earlier ones, and check the result."""
    merged: dict[str, Any] = {}
    for file in files:
        values = read_yaml(file)
        if not isinstance(values, dict):
            raise RecoError(f"{file}: a config is a mapping of keys to values")
        _merge(merged, values)
    return check_config(merged)


def config_fingerprint(config: Config) -> str:
    """Digest of every value of the config."""
    return fingerprint(config.model_dump(mode="json"))


def _merge(base: dict[str, Any], over: dict[str, Any]) -> None:
    for key, value in over.items():
        if isinstance(value, dict) and isinstance(base.get(key), dict):
            _merge(base[key], value)
        else:
            base[key] = value


def _explain(problem: Any) -> str:
    line, place, value = explain(problem, Config), problem["loc"], problem["input"]
    if isinstance(value, int | float) and len(place) == 1 and line.endswith("in quotes"):
        # Snakemake takes quotes away before it looks for numbers, of which 2024_05_01 is one.
        other = {"photos": "photos=./...", "concepts": "concepts='[...]'"}.get(place[0])
        line += f" in a file; on the command line write {other}" if other else " in a config file"
    return line
