"""One file from a web address: resumed where it broke off, used once its digest was checked."""

import hashlib
import http.client
import re
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from reco.errors import RecoError
from reco.files import MAKE_ROOM, disk_full, write_text
from reco.progress import track

CHUNK = 1 << 20


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
                made = digests(part)
                wrong = mismatch(made, sha256, md5)
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


def digests(path: Path) -> dict[str, str]:
    """SHA-256 and MD5 of a file, read once."""
    made = {"SHA-256": hashlib.sha256(), "MD5": hashlib.md5(usedforsecurity=False)}
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            for digest in made.values():
                digest.update(chunk)
    return {name: digest.hexdigest() for name, digest in made.items()}


def mismatch(made: dict[str, str], sha256: str | None, md5: str | None) -> str | None:
    """What is wrong with the digests of a file, in words; None = nothing."""
    for name, wanted in (("SHA-256", sha256), ("MD5", md5)):
        if wanted is not None and not made[name].startswith(wanted):
            return f"has {name} {made[name]}, expected {wanted}"
    return None
