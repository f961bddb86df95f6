"""Fetch what experiments start from, verify it, and unpack the files that are wanted.

Debian packages of photographs come from the system's own apt-get, a folder of .deb files, or a
mirror; data sets and weights of the paper from the addresses in config/downloads.yaml. Nothing is
used before its length and digest were checked. No address is built in here: apt-get knows the ones
that the system is set up with, and a person names any other mirror.
"""

import difflib
import fnmatch
import hashlib
import http.client
import lzma
import os
import re
import shutil
import stat
import subprocess
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any, BinaryIO, Literal

import yaml
import zstandard
from debian.arfile import ArError, ArFile
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from reco.errors import RecoError
from reco.files import (
    MAKE_ROOM,
    atomic,
    disk_full,
    read_json,
    sha256,
    write_json,
    write_text,
)
from reco.progress import LOG, track

MIRROR = "RECO_DEBIAN_MIRROR"
DOWNLOADS = "config/downloads.yaml"
CHUNK = 1 << 20
NAME = r"^[a-z0-9][a-z0-9-]*$"
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


class Package(BaseModel):
    """A Debian package, pinned.

    Attributes:
        path: where a Debian mirror keeps the file, relative to the mirror's address.
        size: length in bytes.
        sha256: of the whole file, in hexadecimal.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9+.-]*$")
    version: str = Field(pattern=r"^[0-9][A-Za-z0-9.+:~-]*$")
    path: str = Field(pattern=r"^pool/[A-Za-z0-9+./_~-]+\.deb$")
    size: int = Field(gt=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    licence: str = ""

    @property
    def file(self) -> str:
        """Name of the .deb."""
        return PurePosixPath(self.path).name


def read_packages(path: str | Path) -> list[Package]:
    """Read config/stamps/packages.yaml.

    Raises:
        RecoError: the file does not list packages, or an entry is wrong.
    """
    try:
        entries = yaml.safe_load(Path(path).read_text(encoding="utf-8"))["packages"]
        return [Package.model_validate(entry) for entry in entries]
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValidationError) as error:
        raise RecoError(f"{path}: not a list of packages: {error}") from None


# ---- fetch ------------------------------------------------------------------------------------


def fetch(
    packages_file: str | Path,
    folder: str | Path,
    *,
    source: str | None = None,
    timeout: float = 30.0,
    tries: int = 5,
    pause: float = 2.0,
) -> dict[str, Path]:
    """Put the verified .deb of every package into `folder`; those there are not fetched again.

    Args:
        source: None = the environment variable RECO_DEBIAN_MIRROR, and where that is not set,
            apt-get; else a folder that holds the .deb files, or the http(s) address of a mirror
            (below which `pool/` lies).
        timeout: seconds without a byte after which a connection is given up.
        tries: how often a mirror is asked before giving up; a broken download is resumed.
        pause: seconds before the second try, doubled for each further one.

    Returns:
        the file of each package, by the package's name.

    Raises:
        RecoError: a package cannot be had, or has the wrong length or checksum.
    """
    packages = read_packages(packages_file)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    files = {package.name: folder / package.file for package in packages}
    missing = []
    for package in packages:
        if files[package.name].exists():
            _check(files[package.name], package)
        else:
            missing.append(package)
    source = source or os.environ.get(MIRROR) or None
    if not missing:
        pass
    elif source is None:
        _from_apt(missing, folder)
    elif source.startswith(("http://", "https://")):
        for package in missing:
            download(
                f"{source.rstrip('/')}/{package.path}",
                files[package.name],
                size=package.size,
                sha256=package.sha256,
                remedy=_remedy([package]),
                timeout=timeout,
                tries=tries,
                pause=pause,
            )
    else:
        for package in missing:
            _from_folder(package, Path(source).expanduser(), folder)
    return files


def _check(path: Path, package: Package) -> None:
    """Raise RecoError unless `path` has the length and the SHA-256 of the package."""
    size = path.stat().st_size
    if size != package.size:
        wrong = f"has {size} bytes, expected {package.size}"
    elif (digest := sha256(path)) != package.sha256:
        wrong = f"has SHA-256 {digest}, expected {package.sha256}"
    else:
        return
    raise RecoError(
        f"{path}: {wrong} ({package.name} {package.version}): delete it, or point 'stamps.source' "
        "at a folder or mirror that has this version"
    )


def _remedy(packages: Iterable[Package]) -> str:
    """What a person without a fitting apt-get can do."""
    return (
        f"set 'stamps.source' (or the environment variable {MIRROR}) to the address of a Debian "
        "mirror, or 'stamps.source' to a folder that holds: "
        + ", ".join(package.file for package in packages)
    )


def _from_folder(package: Package, source: Path, folder: Path) -> None:
    """Copy a .deb from a folder; accept the file name that apt gives it, too."""
    version = package.version.replace(":", "%3a")
    architecture = package.file.rsplit("_", 1)[-1]
    names = (package.file, f"{package.name}_{version}_{architecture}")
    found = next((source / name for name in names if (source / name).is_file()), None)
    if found is None:
        raise RecoError(f"{source}: no {' or '.join(dict.fromkeys(names))}: {_remedy([package])}")
    _check(found, package)
    with atomic(folder / package.file) as temporary:
        shutil.copyfile(found, temporary)


def _from_apt(packages: list[Package], folder: Path) -> None:
    """Have apt-get download the packages; its state is private to this call, so needs no root."""
    apt = shutil.which("apt-get")
    if apt is None:
        raise RecoError(f"no apt-get on this system: {_remedy(packages)}")
    with tempfile.TemporaryDirectory(prefix=".apt.", dir=folder) as private:
        state = Path(private).absolute()
        for name in ("lists/partial", "cache/archives/partial", "debs"):
            (state / name).mkdir(parents=True)
        command = [
            apt,
            "-q",
            f"-oDir::State::Lists={state / 'lists'}",
            f"-oDir::Cache={state / 'cache'}",
            "-oAPT::Sandbox::User=root",  # as root: do not change to a user who may not write here
            "-oAcquire::Retries=3",
            "-oAcquire::http::Timeout=30",
            "-oAcquire::https::Timeout=30",
        ]
        wanted = [f"{package.name}={package.version}" for package in packages]
        for arguments in (["update"], ["download", *wanted]):
            done = subprocess.run(
                [*command, *arguments],
                cwd=state / "debs",
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
            )
            if done.returncode:
                said = " / ".join((done.stderr or done.stdout).strip().splitlines()[-3:])
                raise RecoError(f"apt-get {' '.join(arguments)}: {said}: {_remedy(packages)}")
        for package in packages:
            _from_folder(package, state / "debs", folder)


# ---- http -------------------------------------------------------------------------------------


def download(
    url: str,
    path: str | Path,
    *,
    size: int | None = None,
    sha256: str | None = None,
    md5: str | None = None,
    remedy: str = "see whether the address still holds what it did",
    timeout: float = 30.0,
    tries: int = 5,
    pause: float = 2.0,
) -> str:
    """Fetch `url` to `path`, which appears once its length and digests were checked.

    Bytes go to `path`.part, which a break, or the end of the program, leaves for the next try.

    Args:
        size: length in bytes; None = what the server says.
        sha256, md5: digests in hexadecimal, or their first digits where no more was published.
        remedy: what a person can do, for messages.
        timeout: seconds without a byte after which a connection is given up.
        tries: how often the server is asked; a broken download is resumed.
        pause: seconds before the second try, doubled for each further one.

    Returns:
        the SHA-256 of the file.

    Raises:
        RecoError: it cannot be had, or has the wrong length or digest.
    """
    if not url.startswith(("http://", "https://")):
        raise RecoError(f"{url}: not a web address: {remedy}")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    known = sha256 is not None or md5 is not None
    resumed = part.exists()
    for attempt in range(1, tries + 1):
        try:
            expected = _stream(url, part, size, known, timeout, remedy)
        except urllib.error.HTTPError as error:
            if error.code == 416:  # the server has less than lies here, so has something else
                _forget(part)
            elif error.code < 500 and error.code not in (408, 429):
                raise RecoError(f"{url}: {error}: {remedy}") from None
            broken: object = error
        except (OSError, http.client.HTTPException) as error:
            if disk_full(error):
                raise RecoError(f"{part}: {MAKE_ROOM}") from None
            broken = error
        else:
            got = part.stat().st_size
            if expected is not None and got < expected:
                broken = f"broke off at {got} of {expected} bytes"
            else:
                made = _digests(part)
                wrong = _mismatch(made, sha256, md5)
                if expected is not None and got > expected:
                    wrong = f"sends more than the {expected} bytes expected"
                if wrong is None:
                    part.replace(path)
                    _forget(part)
                    return made["SHA-256"]
                _forget(part)
                if not resumed:  # else the first bytes may be an older run's: once from the start
                    raise RecoError(f"{url}: {wrong}: {remedy}")
                resumed = False
                broken = f"the resumed file {wrong}"
        if attempt < tries:
            time.sleep(pause * 2 ** (attempt - 1))
    raise RecoError(f"{url}: {broken}, after {tries} tries: run again, or {remedy}")


def _stream(
    url: str, part: Path, size: int | None, known: bool, timeout: float, remedy: str
) -> int | None:
    """Append to `part` what it lacks; rewrite it where the server cannot resume.

    Args:
        known: there is a digest that will find out if the rest belongs to another file.

    Returns:
        the length that the whole must have; None = the server does not say.
    """
    start = part.stat().st_size if part.exists() else 0
    tag = _tag(part).read_text(encoding="utf-8") if start and _tag(part).exists() else ""
    if (size is not None and start > size) or (start and not known and not tag):
        _forget(part)
        start, tag = 0, ""
    if start and start == size:
        return size
    headers = {"User-Agent": "reco"}
    if start:
        headers["Range"] = f"bytes={start}-"
        if tag:
            headers["If-Range"] = tag  # the whole anew if the file is another by now
    opener = urllib.request.build_opener(_Redirects)
    with opener.open(urllib.request.Request(url, headers=headers), timeout=timeout) as response:
        length = response.headers.get("Content-Length")
        total = int(length) if length and length.isdigit() else None
        if response.status == 206:
            given = response.headers.get("Content-Range", "")
            match = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", given.strip())
            if not start or match is None or int(match[1]) != start:
                _forget(part)
                raise OSError(f"asked for bytes from {start}, got {given[:60] or 'others'}")
            total = int(match[3]) if match[3] != "*" else int(match[2]) + 1
        elif response.status == 200:
            start = 0
        else:
            raise OSError(f"answers with status {response.status}")
        if size is not None and total is not None and total != size:
            raise RecoError(f"{url}: has {total} bytes, expected {size}: {remedy}")
        total = total if size is None else size
        if not start:
            _remember(part, response.headers)
        free = shutil.disk_usage(part.parent).free
        if total is not None and total - start > free:
            raise RecoError(
                f"{part.parent}: {url} needs {total - start} bytes, {free} are free: make room"
            )
        most = total - start if total is not None else 1 << 62
        with open(part, "ab" if start else "wb") as file:
            for chunk in track(
                _chunks(response, most),
                f"fetch {part.name.removesuffix('.part')}",
                total=-(-most // CHUNK) if total is not None else None,
                unit="megabyte",
            ):
                file.write(chunk)
    return total


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follow a redirect unless it gives up encryption or leaves the web."""

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        allowed = ("https://",) if req.full_url.startswith("https:") else ("http://", "https://")
        if not newurl.lower().startswith(allowed):
            raise RecoError(
                f"{req.full_url}: redirects to {newurl}, which is less safe: fetch it by hand"
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _tag(part: Path) -> Path:
    """Where the mark of the version that `part` is a part of is kept."""
    return part.with_name(f"{part.name}.tag")


def _remember(part: Path, headers: Any) -> None:
    """Keep the server's mark of this version, if it has one that promises equal bytes."""
    etag = headers.get("ETag") or ""
    mark = etag if etag.startswith('"') else headers.get("Last-Modified") or ""
    _tag(part).unlink(missing_ok=True)
    if mark:
        write_text(_tag(part), mark)


def _forget(part: Path) -> None:
    for path in (part, _tag(part)):
        path.unlink(missing_ok=True)


def _chunks(stream: BinaryIO, most: int) -> Iterator[bytes]:
    """Read to the end, but no more than `most` bytes and one (which tells that there are more)."""
    left = most + 1
    while left and (chunk := stream.read(min(CHUNK, left))):
        left -= len(chunk)
        yield chunk


def _digests(path: Path) -> dict[str, str]:
    """SHA-256 and MD5 of a file, read once."""
    made = {"SHA-256": hashlib.sha256(), "MD5": hashlib.md5(usedforsecurity=False)}
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            for digest in made.values():
                digest.update(chunk)
    return {name: digest.hexdigest() for name, digest in made.items()}


def _mismatch(made: dict[str, str], sha256: str | None, md5: str | None) -> str | None:
    """What is wrong with the digests of a file, in words; None = nothing."""
    for name, wanted in (("SHA-256", sha256), ("MD5", md5)):
        if wanted is not None and not made[name].startswith(wanted):
            return f"has {name} {made[name]}, expected {wanted}"
    return None


# ---- data sets and weights --------------------------------------------------------------------


class Section(BaseModel):
    """A part of config/downloads.yaml; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Unpack(Section):
    """Which members of an archive are wanted, and where they go.

    Attributes:
        into: folder below that of the downloads.
        wanted: patterns of members' names; `*` matches `/`, too.
        strip: leading folders that are left off.
        files, gigabytes: at most so many; an archive that claims more is refused.
    """

    kind: Literal["zip", "tar"]
    into: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*(/[A-Za-z0-9][A-Za-z0-9_-]*)*$")
    wanted: list[str] = Field(default=["*"], min_length=1)
    strip: int = Field(default=0, ge=0)
    files: int = Field(gt=0)
    gigabytes: float = Field(gt=0)


class Named(Section):
    """An entry of the list."""

    name: str = Field(pattern=NAME)
    title: str
    licence: str


class Download(Named):
    """A file that may be fetched.

    Attributes:
        file: its name among the downloads.
        size: length in bytes, where it is known; `about` says it for people where it is not.
        sha256, md5: in hexadecimal; the first digits where the publisher gives no more.
        digest_from: who published these digests.
        terms: the page that states the licence.
        source: the page, file or package that gives the address.
    """

    url: str = Field(pattern=r"^https?://[^\s]+$")
    file: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    size: int | None = Field(default=None, gt=0)
    about: str = ""
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{8,64}$")
    md5: str | None = Field(default=None, pattern=r"^[0-9a-f]{8,32}$")
    digest_from: str = ""
    terms: str = Field(pattern=r"^https?://[^\s]+$")
    source: str
    unpack: Unpack | None = None

    @model_validator(mode="after")
    def _names_who_gave_the_digest(self) -> "Download":
        if bool(self.digest_from) != bool(self.sha256 or self.md5):
            raise ValueError("digest_from goes with sha256 or md5")
        return self

    @property
    def pinned(self) -> bool:
        """Whether a published digest is whole."""
        return len(self.sha256 or "") == 64 or len(self.md5 or "") == 32


class Layout(Section):
    """Files that a data set must have: a pattern below its root, and how many there are."""

    path: str = Field(pattern=r"^[^/\s][^\s]*$")
    count: int = Field(gt=0)


class Gated(Named):
    """A data set that its owners give only to those who sign up.

    Attributes:
        page: where to sign up.
        get: what to get there and what to do with it: follows "sign at <page>, ".
    """

    page: str = Field(pattern=r"^https?://[^\s]+$")
    get: str
    layout: list[Layout] = Field(min_length=1)


class Downloads(Section):
    """config/downloads.yaml."""

    downloads: list[Download]
    gated: list[Gated]

    @model_validator(mode="after")
    def _no_name_twice(self) -> "Downloads":
        every: list[Named] = [*self.downloads, *self.gated]
        names = [entry.name for entry in every]
        files = [f"{entry.name}.json" for entry in self.downloads]
        files += [entry.file for entry in self.downloads]
        for kind in (names, files):
            twice = sorted({name for name in kind if kind.count(name) > 1})
            if twice:
                raise ValueError(f"listed twice: {', '.join(twice)}")
        return self


def read_downloads(path: str | Path = DOWNLOADS) -> Downloads:
    """Read config/downloads.yaml.

    Raises:
        RecoError: the file does not list downloads, or an entry is wrong.
    """
    try:
        return Downloads.model_validate(yaml.safe_load(Path(path).read_text(encoding="utf-8")))
    except ValidationError as error:
        wrong = "; ".join(
            f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in error.errors()
        )
        raise RecoError(f"{path}: not a list of downloads: {wrong}: mend these entries") from None
    except (OSError, yaml.YAMLError) as error:
        said = " ".join(str(error).split())
        raise RecoError(f"{path}: not a list of downloads ({said}): mend the file") from None


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
        root: where a data set lies that must be signed for; None = `folder`/<name>.

    Returns:
        the record that was written, `folder`/<name>.json; None for a data set that must be signed
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
        made, size = _digests(path), path.stat().st_size
        wrong = _mismatch(made, wanted, entry.md5)
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


def check_layout(name: str, root: str | Path, *, listing: str | Path = DOWNLOADS) -> None:
    """See that a data set that must be signed for lies complete below `root`.

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


# ---- unpack -----------------------------------------------------------------------------------


def unpack(deb: str | Path, folder: str | Path, wanted: Iterable[str]) -> list[Path]:
    """Extract the wanted regular files of a .deb to `folder`/<path>, each atomically.

    Args:
        wanted: paths within the package, such as `usr/share/backgrounds/x.jpg`.

    Raises:
        RecoError: no .deb, broken, a wanted path is missing, is a link, or leads out of `folder`.
    """
    wanted = set(wanted)
    for path in sorted(wanted):
        if _leads_out(path):
            raise RecoError(f"{path!r}: not a path within a package")
    left = set(wanted)
    written = []
    try:
        with _data(Path(deb)) as archive:
            for member in archive:
                name = member.name.removeprefix("./")
                if name not in left:
                    continue
                source = archive.extractfile(member) if member.isreg() else None
                if source is None:
                    raise RecoError(f"{deb}: {name} is a link or a folder: name the file itself")
                with source, atomic(Path(folder, name)) as temporary:
                    with open(temporary, "wb") as file:
                        shutil.copyfileobj(source, file)
                left.discard(name)
                written.append(Path(folder, name))
                if not left:
                    break
    except (OSError, ArError, tarfile.TarError, lzma.LZMAError, zstandard.ZstdError) as error:
        raise RecoError(f"{deb}: not a readable Debian package ({error}): fetch it again") from None
    if left:
        raise RecoError(f"{deb}: has no {', '.join(sorted(left)[:3])}: another version?")
    return written


@contextmanager
def _data(deb: Path) -> Iterator[tarfile.TarFile]:
    """The data.tar of a .deb, as a stream of members.

    python-debian can open it too, but needs the program unzstd for .zst, and then holds all of it
    in memory.
    """
    with open(deb, "rb") as file:
        archive = ArFile(fileobj=file)
        # Any: an ArMember reads like a file, but its types do not say so.
        member: Any = next((m for m in archive if m.name.startswith("data.tar")), None)
        if member is None:
            raise ArError("no data.tar")
        if member.name.endswith(".zst"):
            stream = zstandard.ZstdDecompressor().stream_reader(member)
            with tarfile.open(fileobj=stream, mode="r|") as data:
                yield data
        else:
            with tarfile.open(fileobj=member, mode="r|*") as data:
                yield data


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
                if _leads_out(name):
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


def _leads_out(name: str) -> bool:
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
