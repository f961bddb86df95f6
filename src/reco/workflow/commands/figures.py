"""Commands of figures.smk, which stand beside what draws a figure or makes a table."""

import ast
from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click


class LazyGroup(click.Group):
    """A group whose commands are imported when they run; its help reads their source.

    So nobody waits for matplotlib who asks for help, or for a command that draws nothing.

    Args:
        sources: where each command is, `module:function` by name, in the order of the help.
    """

    def __init__(self, *args: Any, sources: Mapping[str, str], **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.sources = sources

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in their order."""
        return list(self.sources)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """The command, imported; None where there is none of that name."""
        if name not in self.sources:
            return None
        module, function = self.sources[name].split(":")
        return getattr(import_module(module), function)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands, each with the first line of its docstring."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, first_line(self.sources[name])) for name in self.sources])


def first_line(source: str) -> str:
    """First line of a function's docstring, read without importing its module.

    Args:
        source: `module:function`.
    """
    module, function = source.split(":")
    spec = find_spec(module)
    assert spec and spec.origin, source
    for node in ast.parse(Path(spec.origin).read_bytes()).body:
        if isinstance(node, ast.FunctionDef) and node.name == function:
            return (ast.get_docstring(node) or "").partition("\n")[0]
    raise LookupError(f"{source}: no such function")


@click.group(
    cls=LazyGroup,
    sources={
        "components": "reco.workflow.tables.components:components",
        "methods": "reco.workflow.tables.methods:methods",
        "retrieval": "reco.workflow.tables.retrieval:retrieval",
    },
)
def table() -> None:
    """Write a table to FILES: .md, .tex or .html.

    \b
    reco table methods --metrics results/stamps/metrics.csv --run results/stamps/run.json \\
        --images data/stamps/images/val.csv methods.md methods.tex
    """


@click.group(
    cls=LazyGroup,
    sources={
        "archives": "reco.workflow.figures.archives:archives",
        "predictions": "reco.workflow.figures.predictions:predictions",
        "archive-size": "reco.workflow.figures.archive_size:archive_size",
        "precision": "reco.workflow.figures.precision:precision",
        "rare": "reco.workflow.figures.rare:rare",
        "training": "reco.workflow.figures.training:training",
    },
)
def figure() -> None:
    """Draw a figure to FILES: .png or .pdf.

    \b
    reco figure archives --retrieval results/stamps/retrieval.csv --concept zebra \\
        --run results/stamps/run.json zebra.png
    """
