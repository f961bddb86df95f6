"""Code: which modules a stage's results depend on, from the imports that they hold.

Modules in rooms (`method`, `models`, `data`, `workflow`, `photos`) compute; those beside this file,
`NAMES` among them, hold names, settings and messages, change no number, and are not looked through.
"""

import ast
from functools import cache
from pathlib import Path

import grimp

from reco.files import fingerprint

FOLDER = Path(__file__).parent
NAMES = ("config", "experiment")  # packages, but no rooms: one module each, in several files


@cache
def closure(*modules: str) -> tuple[str, ...]:
    """Modules that some modules import, directly or through others, these included; sorted.

    Args:
        modules: names below `reco`, such as `workflow.retrieve`.

    Returns:
        names of the same kind.

    Raises:
        ValueError: no such module.
    """
    graph, found, ahead = _graph(), set(), [f"reco.{module}" for module in modules]
    if unknown := sorted(set(ahead) - graph.modules):
        raise ValueError(f"no such module: {', '.join(unknown)}")
    while ahead:
        module = ahead.pop()
        if module not in found:
            found.add(module)
            imported = graph.find_modules_directly_imported_by(module)
            ahead += [name for name in imported if _in_room(name)]
    return tuple(sorted(name.removeprefix("reco.") for name in found))


def sources(*modules: str) -> list[Path]:
    """Files of the `closure` of some modules."""
    return [_file(module) for module in closure(*modules)]


@cache
def code_fingerprint(*modules: str) -> str:
    """Digest of the code of some modules' `closure`; comments and docstrings do not count."""
    return fingerprint([[module, _statements(_file(module))] for module in closure(*modules)])


@cache
def _graph() -> grimp.ImportGraph:
    # Imports within functions count; those for annotations alone do not.
    return grimp.build_graph("reco", exclude_type_checking_imports=True, cache_dir=None)


def _in_room(module: str) -> bool:
    first = module.split(".")[1:2]
    if not first or first[0] in NAMES:
        return False
    return bool(_graph().find_children(f"reco.{first[0]}"))


def _file(module: str) -> Path:
    path = FOLDER.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


@cache
def _statements(path: Path) -> str:
    """A module's statements without comments, docstrings and layout."""
    tree = ast.parse(path.read_bytes())
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [line for line in node.body if not _is_text(line)] or [ast.Pass()]
    return ast.unparse(tree)


def _is_text(line: ast.stmt) -> bool:
    return isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant)
