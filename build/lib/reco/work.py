"""Work in progress: what a job has made of an output that is a folder, kept if the job is killed.

Snakemake removes the outputs of a job that did not end. So a folder is made under a hidden name
beside its own, which holds a fingerprint of everything that its content depends on, and is renamed
when it is whole. A later job with the same fingerprint goes on; one with another starts anew.
"""

import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from reco.files import fingerprint


def working_folder(output: Path, state: Any) -> Path:
    """The folder in which `output` is made; what was left of another state is removed.

    Args:
        state: what the content depends on, as JSON.
    """
    folder = output.with_name(f".{output.name}.{fingerprint(state)}")
    for other in output.parent.glob(f".{output.name}.*"):
        if other != folder and other.is_dir():
            shutil.rmtree(other, ignore_errors=True)  # jobs side by side may both remove it
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def is_whole(files: Iterable[Path]) -> bool:
    """Whether all files are there and none is empty, as a power cut may leave them."""
    return all(file.is_file() and file.stat().st_size for file in files)


def publish(folder: Path, output: Path) -> None:
    """Give a working folder its own name, in place of what has that name."""
    for temporary in folder.rglob(".*"):  # of jobs that were killed
        temporary.unlink()
    if output.exists():
        shutil.rmtree(output)
    folder.replace(output)


def link(source: Path, target: Path) -> None:
    """Give a file a second name, or copy it where the file system has one name only."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:  # another disk, or one that knows no links
        shutil.copy2(source, target)
