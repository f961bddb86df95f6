"""Datasets that their owners give only to those who sign up: whether they lie complete."""

import difflib
from pathlib import Path

from reco.data.downloads.listing import DOWNLOADS, Named, read_downloads
from reco.errors import RecoError


def check_layout(name: str, root: str | Path, *, listing: str | Path = DOWNLOADS) -> None:
    """See that a dataset that must be signed for lies complete below `root`.

    Raises:
        RecoError: it does not: gives the page to sign, the layout expected and what is missing; or
            there is no such name.
    """
    listed = read_downloads(listing)
    entry = next((entry for entry in listed.gated if entry.name == name), None)
    if entry is None:
        every: list[Named] = [*listed.downloads, *listed.gated]
        known = [entry.name for entry in every]
        close = difflib.get_close_matches(name, known, 1)
        meant = f"did you mean {close[0]}?" if close else f"known: {', '.join(known)}"
        raise RecoError(f"{name}: not listed in {listing}: {meant}")
    root = Path(root)
    wrong = "" if root.is_dir() else f"there is no folder {root}"
    for part in entry.layout if not wrong else []:
        found = sum(1 for path in root.glob(part.path) if path.is_file())
        if found != part.count:
            wrong = f"{found} of {part.count} files {part.path}"
            break
    if wrong:
        layout = ", ".join(f"{part.path} ({part.count} files)" for part in entry.layout)
        raise RecoError(
            f"{name}: {wrong}: {entry.title} is given only to those who sign up ({entry.licence}): "
            f"sign at {entry.page}, {entry.get}, so that {root} holds {layout}"
        )
