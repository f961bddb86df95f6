"""What commands share: options, and a group that imports a command when it runs."""

import ast
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click

FILE = click.Path(path_type=Path)
FILES = click.argument("files", type=FILE, nargs=-1, required=True)
CONFIG = click.option(
    "--config",
    "config_file",
    type=FILE,
    envvar="RECO_CONFIG",
    default="config/config.yaml",
    show_default=True,
    show_envvar=True,
    help="Config of the experiment.",
)
PLUS = click.option("--plus", type=FILE, help="Masks of `reco segment-plus`, if it was trained.")
METRICS = click.option(
    "--metrics", type=FILE, required=True, help="metrics.csv of `reco evaluate`."
)
RETRIEVAL = click.option(
    "--retrieval", type=FILE, required=True, help="retrieval.csv of `reco precision`."
)
RUN = click.option(
    "--run", type=FILE, required=True, help="run.json: tells of uncommitted changes."
)


def images_option(what: str) -> Callable:
    """The option that names a table made by `reco catalog`."""
    return click.option("--images", type=FILE, required=True, help=f"CSV: {what}.")


class LazyGroup(click.Group):
    """A group whose commands are imported when they run; its help reads their source.

    So nobody waits for matplotlib who asks for help, or for a command that draws nothing.

    Args:
        places: where each command is, `module:function` by name, in the order of the help.
    """

    def __init__(self, *args: Any, places: Mapping[str, str], **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.places = places

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in their order."""
        return list(self.places)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """The command, imported; None where there is none of that name."""
        if name not in self.places:
            return None
        module, function = self.places[name].split(":")
        return getattr(import_module(module), function)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands, each with the first line of its docstring."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, first_line(self.places[name])) for name in self.places])


def first_line(place: str) -> str:
    """First line of a function's docstring, read without importing its module.

    Args:
        place: `module:function`.
    """
    module, function = place.split(":")
    spec = find_spec(module)
    assert spec and spec.origin, place
    for node in ast.parse(Path(spec.origin).read_bytes()).body:
        if isinstance(node, ast.FunctionDef) and node.name == function:
            return (ast.get_docstring(node) or "").partition("\n")[0]
    raise LookupError(f"{place}: no such function")
