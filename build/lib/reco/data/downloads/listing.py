"""The lists of what may be fetched, as models: config/downloads.yaml and stamps/packages.yaml."""

from pathlib import Path, PurePosixPath
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from reco.errors import RecoError

DOWNLOADS = "config/downloads.yaml"
NAME = r"^[a-z0-9][a-z0-9-]*$"


class Part(BaseModel):
    """A part of these lists; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Package(Part):
    """A Debian package, pinned.

    Attributes:
        path: where a Debian mirror keeps the file, relative to the mirror's address.
        size: length in bytes.
        sha256: of the whole file, in hexadecimal.
    """

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


class Unpack(Part):
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


class Named(Part):
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


class Layout(Part):
    """Files that a dataset must have: a pattern below its root, and how many there are."""

    path: str = Field(pattern=r"^[^/\s][^\s]*$")
    count: int = Field(gt=0)


class Gated(Named):
    """A dataset that its owners give only to those who sign up.

    Attributes:
        page: where to sign up.
        get: what to get there and what to do with it: follows "sign at <page>, ".
    """

    page: str = Field(pattern=r"^https?://[^\s]+$")
    get: str
    layout: list[Layout] = Field(min_length=1)


class Downloads(Part):
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
