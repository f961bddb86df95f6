"""Debian packages of photographs: from apt-get, a folder of .deb files or a mirror; unpacked.

No address is built in here: apt-get knows the ones that the system is set up with, and a person
names any other mirror.
"""

import lzma
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import zstandard
from debian.arfile import ArError, ArFile

from reco.data.downloads.archives import leads_out
from reco.data.downloads.listing import Package, read_packages
from reco.data.downloads.transfer import download
from reco.errors import RecoError
from reco.files import atomic, sha256

MIRROR = "RECO_DEBIAN_MIRROR"


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


def unpack(deb: str | Path, folder: str | Path, wanted: Iterable[str]) -> list[Path]:
    """Extract the wanted regular files of a .deb to `folder`/<path>, each atomically.

    Args:
        wanted: paths within the package, such as `usr/share/backgrounds/x.jpg`.

    Raises:
        RecoError: no .deb, broken, a wanted path is missing, is a link, or leads out of `folder`.
    """
    wanted = set(wanted)
    for path in sorted(wanted):
        if leads_out(path):
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
