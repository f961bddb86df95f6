"""The revision of the code: which commit it is, and what differs from it."""

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reco.files import read_json

# What the workflow and DVC write themselves is no change of the code.
MADE = (":(top,exclude)results", ":(top,exclude)dvc.lock")
# Untracked files matter where they could be imported.
SOURCES = ("src/", "workflow/")


@dataclass(frozen=True)
class Revision:
    """A commit and the files that differ from it.

    Attributes:
        commit: full SHA-1.
        changed: changed files, relative to the checkout; those the workflow writes are left out.
    """

    commit: str
    changed: tuple[str, ...]

    @property
    def dirty(self) -> bool:
        """Whether the code is not what the commit says."""
        return bool(self.changed)

    def __str__(self) -> str:
        """One line, such as `1a7a39d24ed9 with uncommitted changes (src/reco/files.py)`."""
        what = f" with uncommitted changes ({_few(self.changed)})"
        return self.commit[:12] + (what if self.dirty else "")

    def describe(self) -> dict[str, Any]:
        """Commit, whether files differ from it, and which, as plain data."""
        return {"revision": self.commit, "dirty": self.dirty, "changed": list(self.changed)}


def read_revision(folder: Path = Path(__file__).parent) -> Revision | None:
    """Revision of the checkout that holds `folder`; None outside a checkout, or without git."""
    try:
        commit, root = _git(folder, "rev-parse", "HEAD", "--show-toplevel").splitlines()
        # -z: names come as they are, without quotes
        status = _git(Path(root), "status", "--porcelain", "--no-renames", "-z", "--", ".", *MADE)
    except (OSError, subprocess.CalledProcessError):
        return None
    entries = [(line[:2], line[3:]) for line in status.split("\0") if line]
    return Revision(
        commit, tuple(path for kind, path in entries if kind != "??" or path.startswith(SOURCES))
    )


def uncommitted(run: Path) -> str:
    """A sentence for what is made from a run, if its code or today's is in no commit; else "".

    Args:
        run: the run.json of the numbers that are shown.
    """
    recorded, now = read_json(run)["git"], read_revision()
    changed = sorted({*(recorded["changed"] if recorded else ()), *(now.changed if now else ())})
    return f"Made with uncommitted changes: {_few(changed)}." if changed else ""


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True
    )
    return done.stdout
