"""Datasets and weights of config/downloads.yaml: fetched, checked, unpacked, recorded."""

import re
from pathlib import Path

from reco.data.downloads.archives import unpack_archive
from reco.data.downloads.gated import check_layout
from reco.data.downloads.listing import DOWNLOADS, Download, read_downloads
from reco.data.downloads.transfer import digests, download, mismatch
from reco.errors import RecoError
from reco.files import read_json, write_json, write_text
from reco.progress import LOG


def fetch_download(
    name: str,
    folder: str | Path,
    *,
    listing: str | Path = DOWNLOADS,
    root: str | Path | None = None,
    timeout: float = 30.0,
    tries: int = 5,
    pause: float = 2.0,
) -> Path | None:
    """Fetch, verify and unpack a file of config/downloads.yaml; what is there is verified.

    Where no whole digest is published, that of the first download is written to `<file>.sha256`,
    and the file is checked against it from then on.

    Args:
        root: where a dataset lies that must be signed for; None = `folder`/<name>.

    Returns:
        the record that was written, `folder`/<name>.json; None for a dataset that must be signed
        for and lies complete in its place.

    Raises:
        RecoError: no such name; it cannot be had; wrong length or digest; not safe to unpack; or it
            must be signed for and is not complete.
    """
    folder = Path(folder)
    listed = read_downloads(listing)
    entry = next((entry for entry in listed.downloads if entry.name == name), None)
    if entry is None:
        root = Path(folder, name) if root is None else Path(root)
        check_layout(name, root, listing=listing)
        LOG.info("%s: complete in %s", name, root)
        return None
    path = folder / entry.file
    digest = _fetch_checked(entry, path, timeout=timeout, tries=tries, pause=pause)
    record = folder / f"{name}.json"
    unpacked = None
    if entry.unpack is not None:
        before = read_json(record) if record.exists() else {}
        count = unpack_archive(
            path,
            folder / entry.unpack.into,
            kind=entry.unpack.kind,
            wanted=entry.unpack.wanted,
            strip=entry.unpack.strip,
            most_files=entry.unpack.files,
            most_bytes=int(entry.unpack.gigabytes * 1e9),
            keep=before.get("sha256") == digest,
        )
        unpacked = {"folder": (folder / entry.unpack.into).as_posix(), "files": count}
        LOG.info("%s: %d files in %s", name, count, unpacked["folder"])
    write_json(
        record,
        {
            "name": name,
            "url": entry.url,
            "file": entry.file,
            "size": path.stat().st_size,
            "sha256": digest,
            "checked": entry.digest_from or "against the first download alone",
            "licence": entry.licence,
            "terms": entry.terms,
            "unpacked": unpacked,
        },
    )
    return record


def _fetch_checked(entry: Download, path: Path, *, timeout: float, tries: int, pause: float) -> str:
    """Have the file of `entry` at `path`, as published or as it was first; its SHA-256."""
    noted = path.with_name(f"{path.name}.sha256")
    first = _read_noted(noted) if not entry.pinned and noted.exists() else None
    if first and not first.startswith(entry.sha256 or ""):
        raise RecoError(
            f"{noted}: {first} is not the published {entry.sha256}: delete {noted} and {path}"
        )
    wanted = first or entry.sha256
    remedy = (
        f"put it at {path} yourself (its address is from {entry.source}, its terms: {entry.terms})"
    )
    if first:
        remedy = (
            f"the digest expected is that of the first download: delete {noted} and {path} if you "
            f"know that its publisher replaced the file ({entry.terms})"
        )
    if path.exists():
        made, size = digests(path), path.stat().st_size
        wrong = mismatch(made, wanted, entry.md5)
        if entry.size is not None and size != entry.size:
            wrong = f"has {size} bytes, expected {entry.size}"
        if wrong:
            raise RecoError(f"{path}: {wrong}: {remedy if first else 'delete it and run again'}")
        digest = made["SHA-256"]
    else:
        LOG.info("%s: %s (%s, %s)", entry.name, entry.title, entry.licence, entry.terms)
        digest = download(
            entry.url,
            path,
            size=entry.size,
            sha256=wanted,
            md5=entry.md5,
            remedy=remedy,
            timeout=timeout,
            tries=tries,
            pause=pause,
        )
    if not entry.pinned and first is None:
        write_text(noted, f"{digest}  {path.name}\n")
        LOG.warning(
            "%s: its publisher gives no %s: the SHA-256 of this first copy is now in %s, and later "
            "copies are checked against it; compare it with a colleague's",
            path,
            "whole checksum" if entry.digest_from else "checksum",
            noted,
        )
    return digest


def _read_noted(path: Path) -> str:
    """The digest in a file as sha256sum writes it."""
    digest = path.read_text(encoding="utf-8", errors="replace").split(" ", 1)[0].strip()
    if not re.fullmatch(r"[0-9a-f]{64}", digest):
        raise RecoError(f"{path}: holds no SHA-256: delete it and run again")
    return digest
