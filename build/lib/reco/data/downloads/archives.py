"""Archives from elsewhere, zip or tar: looked through before anything is written."""

import fnmatch
import lzma
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Literal

from reco.errors import RecoError
from reco.files import atomic
from reco.progress import track

CHUNK = 1 << 20
# What a damaged archive, or a full disk, brings up; RuntimeError: one that asks for a password.
UNREADABLE = (
    OSError,
    EOFError,
    RuntimeError,
    ValueError,
    lzma.LZMAError,
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
)


@dataclass(frozen=True)
class _Member:
    """A member of an archive: how it is named, how long it says it is, how to read it."""

    name: str
    size: int
    regular: bool
    open: Callable[[], IO[bytes] | None]


def unpack_archive(
    archive: str | Path,
    folder: str | Path,
    *,
    kind: Literal["zip", "tar"],
    most_files: int,
    most_bytes: int,
    wanted: Iterable[str] = ("*",),
    strip: int = 0,
    keep: bool = False,
) -> int:
    """Extract the wanted files of a zip or tar archive, each atomically.

    All wanted members are looked at before the first is written: one that is absolute, leads out
    of `folder`, is a link or a device, or goes where another goes, spoils the archive, and so do
    more files or bytes than allowed. What a Mac adds (`__MACOSX`, `._*`) is left out.

    Args:
        wanted: patterns of names; `*` matches `/`, too.
        strip: leading folders to leave off.
        keep: leave a file that is there with the right length.

    Returns:
        how many files the archive holds that were wanted.

    Raises:
        RecoError: naming what is wrong.
    """
    archive, folder, patterns = Path(archive), Path(folder), list(wanted)
    plan: dict[PurePosixPath, _Member] = {}
    total = 0
    try:
        with _members(archive, kind) as members:
            for member in members:
                name = member.name.removeprefix("./")
                parts = PurePosixPath(name).parts
                if not any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns):
                    continue
                if any(part == "__MACOSX" or part.startswith("._") for part in parts):
                    continue
                if leads_out(name):
                    raise RecoError(f"{archive}: member {name!r} leads out of it: do not use it")
                if not member.regular:
                    raise RecoError(f"{archive}: {name} is a link or a device: do not use it")
                target = PurePosixPath(*parts[strip:])
                if not target.parts or target in plan:
                    raise RecoError(
                        f"{archive}: {name} has no place of its own with {strip} folders left off"
                    )
                plan[target] = member
                total += member.size
                if len(plan) > most_files or total > most_bytes:
                    raise RecoError(
                        f"{archive}: more than {most_files} files or {most_bytes} bytes: not what "
                        "it was when it was listed; delete it and fetch it again"
                    )
            if not plan:
                raise RecoError(f"{archive}: has no {' or '.join(patterns[:3])}: another version?")
            folder.mkdir(parents=True, exist_ok=True)
            if (free := shutil.disk_usage(folder).free) < total and not keep:
                raise RecoError(f"{folder}: {archive} needs {total} bytes, {free} are free")
            for target, member in track(plan.items(), f"unpack {archive.name}", unit="file"):
                path = folder / target
                if keep and path.is_file() and path.stat().st_size == member.size:
                    continue
                _extract(member, path)
    except UNREADABLE as error:
        raise RecoError(
            f"{archive}: cannot be unpacked into {folder} ({error}): make room if the disk is "
            "full, else delete the archive and fetch it again"
        ) from None
    return len(plan)


def _extract(member: _Member, path: Path) -> None:
    source = member.open()
    if source is None:
        raise EOFError(f"{member.name} cannot be read")
    with source, atomic(path) as temporary:
        with open(temporary, "wb") as file:
            shutil.copyfileobj(source, file, CHUNK)
        if temporary.stat().st_size != member.size:
            raise EOFError(f"{member.name} has not the length that it says")


def leads_out(name: str) -> bool:
    """Whether a name in an archive is not plainly below the folder that it is unpacked to."""
    parts = PurePosixPath(name).parts
    return (
        not parts
        or name.startswith("/")
        or ".." in parts
        or "\\" in name
        or ":" in parts[0]
        or not name.isprintable()
    )


@contextmanager
def _members(archive: Path, kind: Literal["zip", "tar"]) -> Iterator[Iterator[_Member]]:
    """Members of an archive but for folders; they can be opened while the archive is."""
    if kind == "zip":
        with zipfile.ZipFile(archive) as zipped:
            yield (
                _Member(
                    info.filename,
                    info.file_size,
                    stat.S_IFMT(info.external_attr >> 16) in (0, stat.S_IFREG),
                    partial(zipped.open, info),
                )
                for info in zipped.infolist()
                if not info.is_dir()
            )
    else:
        with tarfile.open(archive, "r:*") as tarred:
            yield _of_tar(tarred)


def _of_tar(tarred: tarfile.TarFile) -> Iterator[_Member]:
    for info in tarred:
        if not info.isdir():
            yield _Member(info.name, info.size, info.isreg(), partial(tarred.extractfile, info))
    if tarred.fileobj is not None:  # a compressed archive has its checksum at its end
        while tarred.fileobj.read(CHUNK):
            pass
