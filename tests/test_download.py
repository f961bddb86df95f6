"""Fetching and unpacking, against a local server that misbehaves and a fake apt-get."""

import hashlib
import io
import json
import random
import re
import shutil
import stat
import struct
import sys
import tarfile
import threading
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml
import zstandard

from reco.cli import commands, main
from reco.data.downloads.archives import unpack_archive
from reco.data.downloads.debian import MIRROR, fetch, unpack
from reco.data.downloads.gated import check_layout
from reco.data.downloads.listing import read_downloads, read_packages
from reco.data.downloads.published import fetch_download
from reco.data.downloads.transfer import _Redirects, download
from reco.errors import RecoError

ROOT = Path(__file__).parents[1]
PATH = "pool/main/f/fake/fake_1.0-1_all.deb"


def make_deb(
    members: dict[str, bytes], *, compression: str = "xz", links: dict[str, str] | None = None
) -> bytes:
    """A .deb (an ar archive) whose data.tar holds these files and symbolic links."""
    buffer = io.BytesIO()
    mode = "w" if compression == "zst" else f"w:{compression}"
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        for name, target in (links or {}).items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            archive.addfile(info)
    data = buffer.getvalue()
    if compression == "zst":
        data = zstandard.ZstdCompressor().compress(data)
    deb = b"!<arch>\n"
    for name, content in (("debian-binary", b"2.0\n"), (f"data.tar.{compression}", data)):
        deb += f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode()
        deb += content + b"\n" * (len(content) % 2)
    return deb


NOISE = random.Random(0).randbytes(300_000)  # does not compress
DEB = make_deb({"./usr/share/a.png": b"a" * 4000, "./usr/share/b.png": NOISE})


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    """A packages.yaml that pins DEB."""
    path = tmp_path / "packages.yaml"
    entry = {
        "name": "fake",
        "version": "1:1.0-1",
        "path": PATH,
        "size": len(DEB),
        "sha256": hashlib.sha256(DEB).hexdigest(),
    }
    path.write_text(yaml.safe_dump({"packages": [entry]}))
    return path


Answer = Callable[[BaseHTTPRequestHandler, int], None]


@pytest.fixture
def serve(monkeypatch) -> Iterator[Callable[..., tuple[str, list[str | None]]]]:
    """Serve a list of answers, one a request (the last one again); give address and log."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    servers = []

    def start(*answers: Answer) -> tuple[str, list[str | None]]:
        ranges: list[str | None] = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked = self.headers.get("Range")
                ranges.append(asked)
                first = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
                answers[min(len(ranges), len(answers)) - 1](self, first)

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}/debian/", ranges

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def answer(
    content: bytes = DEB,
    *,
    sent: int | None = None,
    status: int | None = None,
    length: int | None = None,
    ranges: bool = True,
    said: str | None = None,
    mark: str | None = None,
    then: Callable[[], object] = lambda: None,
) -> Answer:
    """Answer with `content`, of which only `sent` bytes are sent before `then` happens.

    `length` 0 says none, `said` replaces Content-Range, and `mark` is sent as ETag.
    """

    def reply(handler: BaseHTTPRequestHandler, first: int) -> None:
        first = first if ranges and handler.headers.get("If-Range", mark) == mark else 0
        handler.send_response(status or (206 if first else 200))
        if first:
            span = f"bytes {first}-{len(content) - 1}/{len(content)}"
            handler.send_header("Content-Range", said or span)
        if length != 0:
            handler.send_header("Content-Length", str(length or len(content) - first))
        if mark:
            handler.send_header("ETag", mark)
        handler.end_headers()
        handler.wfile.write(content[first:sent])
        handler.wfile.flush()
        then()

    return reply


def get(listed: Path, folder: Path, source: str, **kwargs: float) -> Path:
    return fetch(listed, folder, source=source, **{"timeout": 5, "pause": 0.01} | kwargs)["fake"]


def test_the_committed_list_is_complete_and_names_no_server() -> None:
    path = ROOT / "config/stamps/packages.yaml"
    packages = read_packages(path)
    assert len({package.name for package in packages}) == len(packages)
    for file in (path, *(ROOT / "src/reco/data/downloads").glob("*.py")):
        assert not re.search(r"://\w", file.read_text())


def test_list_with_a_typo_is_refused(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text("packages: [{name: x, verison: 1}]")
    with pytest.raises(RecoError, match="verison"):
        read_packages(tmp_path / "p.yaml")


def test_mirror(listed: Path, tmp_path: Path, serve) -> None:
    address, asked = serve(answer())
    assert get(listed, tmp_path / "out", address).read_bytes() == DEB
    assert get(listed, tmp_path / "out", address).read_bytes() == DEB
    assert asked == [None]  # what is there is not fetched again
    assert [p.name for p in (tmp_path / "out").iterdir()] == [Path(PATH).name]


def test_mirror_from_the_environment(listed: Path, tmp_path: Path, serve, monkeypatch) -> None:
    address, _ = serve(answer())
    monkeypatch.setenv(MIRROR, address)
    assert fetch(listed, tmp_path / "out")["fake"].read_bytes() == DEB


def test_broken_download_is_resumed(listed: Path, tmp_path: Path, serve) -> None:
    address, asked = serve(answer(sent=1000), answer())
    assert get(listed, tmp_path / "out", address).read_bytes() == DEB
    assert asked == [None, "bytes=1000-"]


def test_broken_download_restarts_where_the_server_cannot_resume(
    listed: Path, tmp_path: Path, serve
) -> None:
    address, asked = serve(answer(sent=1000), answer(ranges=False))
    assert get(listed, tmp_path / "out", address).read_bytes() == DEB
    assert len(asked) == 2


def test_stalled_download_is_resumed(listed: Path, tmp_path: Path, serve) -> None:
    release = threading.Event()
    address, asked = serve(answer(sent=1000, then=lambda: release.wait(10)), answer())
    assert get(listed, tmp_path / "out", address, timeout=0.3).read_bytes() == DEB
    release.set()
    assert len(asked) == 2


def test_next_run_resumes(listed: Path, tmp_path: Path, serve) -> None:
    address, asked = serve(answer(sent=1000), answer())
    with pytest.raises(RecoError, match="broke off at 1000 of"):
        get(listed, tmp_path / "out", address, tries=1)
    assert not (tmp_path / "out" / Path(PATH).name).exists()
    get(listed, tmp_path / "out", address)
    assert asked == [None, "bytes=1000-"]


def test_part_of_something_else_is_started_again(listed: Path, tmp_path: Path, serve) -> None:
    address, asked = serve(answer())
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / f"{Path(PATH).name}.part").write_bytes(b"x" * 500)
    assert get(listed, tmp_path / "out", address).read_bytes() == DEB
    assert asked == ["bytes=500-", None]


def test_server_error_is_tried_again_and_missing_file_is_not(
    listed: Path, tmp_path: Path, serve
) -> None:
    address, asked = serve(answer(status=503), answer())
    assert get(listed, tmp_path / "out", address).read_bytes() == DEB
    assert len(asked) == 2
    address, asked = serve(answer(status=404))
    with pytest.raises(RecoError, match=r"404.*stamps\.source.*fake_1\.0-1_all\.deb"):
        get(listed, tmp_path / "other", address)
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("content", "length", "message"),
    [
        (DEB[:-1] + b"?", None, "SHA-256 .*, expected"),
        (DEB + b"?", None, f"has {len(DEB) + 1} bytes, expected {len(DEB)}"),
        (DEB[:-1], None, f"has {len(DEB) - 1} bytes"),
        (DEB, len(DEB) - 7, f"has {len(DEB) - 7} bytes"),
        (DEB[:-7], len(DEB), "broke off at"),
    ],
)
def test_wrong_bytes_and_lengths(
    listed: Path, tmp_path: Path, serve, content: bytes, length: int | None, message: str
) -> None:
    address, _ = serve(answer(content, length=length))
    with pytest.raises(RecoError, match=message):
        get(listed, tmp_path / "out", address, tries=1)
    assert not (tmp_path / "out" / Path(PATH).name).exists()


@pytest.mark.parametrize("name", [Path(PATH).name, "fake_1%3a1.0-1_all.deb"])
def test_folder(listed: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "debs").mkdir()
    (tmp_path / "debs" / name).write_bytes(DEB)
    assert get(listed, tmp_path / "out", str(tmp_path / "debs")).read_bytes() == DEB


def test_folder_without_the_file(listed: Path, tmp_path: Path) -> None:
    with pytest.raises(RecoError, match=r"no fake_1\.0-1_all\.deb or fake_1%3a1\.0-1_all\.deb"):
        get(listed, tmp_path / "out", str(tmp_path / "nowhere"))


def test_wrong_file_that_is_there_already(listed: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / Path(PATH).name).write_bytes(DEB[:-1] + b"?")
    with pytest.raises(RecoError, match=r"SHA-256 \w+, expected \w+.*delete it.*stamps\.source"):
        get(listed, tmp_path / "out", str(tmp_path))


@pytest.fixture
def apt(tmp_path: Path, monkeypatch) -> Path:
    """A fake apt-get, alone on PATH, that offers version 1:1.0-1 of the package fake."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "offered.deb").write_bytes(DEB)
    script = tmp_path / "bin" / "apt-get"
    script.write_text(
        f"#!{sys.executable}\n"
        "import pathlib, shutil, sys\n"
        f"here = pathlib.Path({str(tmp_path)!r})\n"
        "arguments = [a for a in sys.argv[1:] if not a.startswith('-')]\n"
        "private = [a.split('=')[1] for a in sys.argv if a.startswith('-oDir')]\n"
        "assert len(private) == 2 and all(pathlib.Path(p).is_dir() for p in private)\n"
        "with open(here / 'calls', 'a') as file: print(*arguments, file=file)\n"
        "if arguments[0] == 'download':\n"
        "    if arguments[1:] != ['fake=1:1.0-1']:\n"
        "        sys.exit(f'E: Version {arguments[1:]} was not found')\n"
        "    shutil.copy(here / 'offered.deb', 'fake_1%3a1.0-1_all.deb')\n"
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.delenv(MIRROR, raising=False)
    return tmp_path


def test_apt(listed: Path, apt: Path) -> None:
    assert fetch(listed, apt / "out")["fake"].read_bytes() == DEB
    assert (apt / "calls").read_text().splitlines() == ["update", "download fake=1:1.0-1"]
    assert [p.name for p in (apt / "out").iterdir()] == [Path(PATH).name]


def test_apt_with_another_version(listed: Path, apt: Path) -> None:
    listed.write_text(listed.read_text().replace("1:1.0-1", "1:1.0-2"))
    remedy = rf"was not found.*stamps\.source.*{MIRROR}.*fake_1\.0-1_all\.deb"
    with pytest.raises(RecoError, match=remedy):
        fetch(listed, apt / "out")
    assert list((apt / "out").iterdir()) == []


def test_apt_with_other_bytes(listed: Path, apt: Path) -> None:
    (apt / "offered.deb").write_bytes(DEB[:-1] + b"?")
    with pytest.raises(RecoError, match="SHA-256"):
        fetch(listed, apt / "out")
    assert list((apt / "out").iterdir()) == []


def test_no_apt(listed: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv(MIRROR, raising=False)
    with pytest.raises(RecoError, match=rf"no apt-get.*stamps\.source.*{MIRROR}.*fake_1\.0"):
        fetch(listed, tmp_path / "out")


@pytest.mark.parametrize("compression", ["xz", "gz", "zst"])
def test_unpack(tmp_path: Path, compression: str) -> None:
    (tmp_path / "x.deb").write_bytes(
        make_deb({"./a/b.png": b"1", "./a/c.png": b"22", "a/d.png": b"3"}, compression=compression)
    )
    written = unpack(tmp_path / "x.deb", tmp_path / "out", ["a/c.png", "a/d.png"])
    assert [path.read_bytes() for path in written] == [b"22", b"3"]
    assert sorted(p.name for p in (tmp_path / "out/a").iterdir()) == ["c.png", "d.png"]


def test_unpack_refuses_paths_that_lead_out(tmp_path: Path) -> None:
    deb = tmp_path / "x.deb"
    deb.write_bytes(make_deb({"./../evil": b"1", "/abs": b"1", "./ok": b"1"}, links={"l": "ok"}))
    for path in ("../evil", "a/../../evil", "/abs", "", ".", "..\\evil"):
        with pytest.raises(RecoError, match="not a path within"):
            unpack(deb, tmp_path / "out", [path])
    with pytest.raises(RecoError, match="l is a link"):
        unpack(deb, tmp_path / "out", ["l"])
    unpack(deb, tmp_path / "out", ["ok"])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "x.deb"]
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["ok"]


def test_unpack_names_what_is_wrong(tmp_path: Path) -> None:
    deb = tmp_path / "x.deb"
    deb.write_bytes(DEB)
    with pytest.raises(RecoError, match=r"has no usr/share/c\.png"):
        unpack(deb, tmp_path, ["usr/share/c.png"])
    for broken in (b"", b"hello", DEB[:100], DEB[:-200], DEB[:200] + b"?" * 50 + DEB[250:]):
        deb.write_bytes(broken)
        with pytest.raises(RecoError, match=r"x\.deb"):
            unpack(deb, tmp_path / "out", ["usr/share/b.png"])
    assert not [p for p in tmp_path.rglob("*") if p.name.endswith(".png")]


# ---- http -------------------------------------------------------------------------------------

BODY = NOISE[:5000]
SHA256, MD5 = hashlib.sha256(BODY).hexdigest(), hashlib.md5(BODY).hexdigest()


def take(url: str, path: Path, **options: object) -> bytes:
    """Download without waiting; the bytes, once it was seen that nothing else is left behind."""
    given = {"timeout": 5, "pause": 0.01, "remedy": "ask Ann", **options}
    assert download(url, path, **given) == hashlib.sha256(path.read_bytes()).hexdigest()
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    return path.read_bytes()


@pytest.mark.parametrize(
    "known", [{}, {"sha256": SHA256}, {"md5": MD5}, {"sha256": SHA256[:8]}, {"size": len(BODY)}]
)
def test_download(tmp_path: Path, serve, known: dict) -> None:
    url, asked = serve(answer(BODY))
    assert take(f"{url}x", tmp_path / "new/x.bin", **known) == BODY
    assert asked == [None]


def test_download_without_a_length(tmp_path: Path, serve) -> None:
    url, _ = serve(answer(BODY, length=0))
    assert take(url, tmp_path / "x.bin") == BODY


def test_download_goes_on_only_where_the_rest_is_sure_to_fit(tmp_path: Path, serve) -> None:
    url, asked = serve(answer(BODY, sent=1000, mark='"1"'), answer(BODY, mark='"1"'))
    assert take(url, tmp_path / "x.bin") == BODY
    assert asked == [None, "bytes=1000-"]
    # no mark and no digest: nothing would tell if the rest is another file's
    url, asked = serve(answer(BODY, sent=1000), answer(BODY))
    assert take(url, tmp_path / "a/x.bin") == BODY
    assert asked == [None, None]
    url, asked = serve(answer(BODY, sent=1000), answer(BODY))
    assert take(url, tmp_path / "b/x.bin", md5=MD5) == BODY
    assert asked == [None, "bytes=1000-"]


def test_download_of_a_file_that_changed_meanwhile(tmp_path: Path, serve) -> None:
    other = BODY[::-1]
    url, asked = serve(answer(other, sent=1000, mark='"1"'), answer(BODY, mark='"2"'))
    assert take(url, tmp_path / "x.bin") == BODY
    assert asked == [None, "bytes=1000-"]


def test_download_that_stalls(tmp_path: Path, serve) -> None:
    release = threading.Event()
    stalls = answer(BODY, sent=1000, mark='"1"', then=lambda: release.wait(10))
    url, _ = serve(stalls, answer(BODY, mark='"1"'))
    assert take(url, tmp_path / "x.bin", timeout=0.2) == BODY
    release.set()


@pytest.mark.parametrize("said", ["bytes 999-4999/5000", "bytes 0-4999/5000", "nonsense", ""])
def test_download_with_another_range_than_asked_for(tmp_path: Path, serve, said: str) -> None:
    wrong = answer(BODY, said=said or "bytes */5000")
    url, asked = serve(answer(BODY, sent=1000), wrong, answer(BODY))
    assert take(url, tmp_path / "x.bin", sha256=SHA256) == BODY
    assert asked == [None, "bytes=1000-", None]


def test_download_when_more_is_there_than_the_server_has(tmp_path: Path, serve) -> None:
    url, asked = serve(answer(status=416), answer(BODY))
    (tmp_path / "x.bin.part").write_bytes(b"?" * 6000)
    assert take(url, tmp_path / "x.bin", sha256=SHA256) == BODY
    assert asked == ["bytes=6000-", None]


def test_download_waits_longer_and_longer(tmp_path: Path, serve, monkeypatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr("time.sleep", waited.append)
    url, asked = serve(answer(status=500), answer(status=503), answer(status=429), answer(BODY))
    assert take(url, tmp_path / "x.bin", pause=2.0) == BODY
    assert waited == [2, 4, 8] and len(asked) == 4


@pytest.mark.parametrize(
    ("server", "known", "message"),
    [
        (answer(status=404), {}, "404"),
        (answer(status=403), {}, "403"),
        (answer(status=500), {}, "500.*after 2 tries"),
        (answer(status=204), {}, "status 204"),
        (answer(BODY, length=6000), {}, "broke off at 5000 of 6000 bytes, after 2 tries"),
        (answer(BODY, length=4000), {"md5": MD5}, "has MD5"),
        (answer(BODY, length=4000), {"size": 5000}, "has 4000 bytes, expected 5000"),
        (answer(BODY, length=0), {"size": 4000}, "sends more than the 4000 bytes"),
        (answer(BODY[::-1]), {"sha256": SHA256}, f"has SHA-256 .*, expected {SHA256}"),
        (answer(BODY[::-1]), {"sha256": SHA256[:8]}, f"has SHA-256 .*, expected {SHA256[:8]}"),
        (answer(BODY[::-1]), {"md5": MD5}, f"has MD5 .*, expected {MD5}"),
    ],
)
def test_download_that_fails_says_why(tmp_path, serve, server, known, message) -> None:
    url, _ = serve(server)
    with pytest.raises(RecoError, match=f"^{re.escape(url)}: .*{message}.*: .*ask Ann$") as caught:
        take(url, tmp_path / "x.bin", tries=2, **known)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "x.bin").exists()


def test_download_that_nobody_answers(tmp_path: Path, serve) -> None:
    with pytest.raises(RecoError, match=r"refused.*after 2 tries: run again, or ask Ann"):
        take("http://127.0.0.1:9/", tmp_path / "x.bin", tries=2)
    for url in ("file:///etc/hosts", "ftp://127.0.0.1/x", "x"):
        with pytest.raises(RecoError, match="not a web address"):
            take(url, tmp_path / "x.bin")


def test_download_needs_room(tmp_path: Path, serve, monkeypatch) -> None:
    url, _ = serve(answer(BODY))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, 100))
    with pytest.raises(RecoError, match="needs 5000 bytes, 100 are free: make room"):
        take(url, tmp_path / "x.bin")


def test_redirects_stay_safe() -> None:
    follow = _Redirects().redirect_request
    request = urllib.request.Request("https://example.org/a")
    assert follow(request, None, 302, "", {}, "https://example.org/b") is not None
    for url in ("http://example.org/b", "ftp://example.org/b"):
        with pytest.raises(RecoError, match="less safe"):
            follow(request, None, 302, "", {}, url)


# ---- the list of downloads --------------------------------------------------------------------


def entry(address: str, **changes: object) -> dict:
    return {
        "name": "thing",
        "title": "A thing",
        "url": address,
        "file": "thing.bin",
        "licence": "none",
        "terms": "https://example.org/terms",
        "source": "README of the thing",
        **changes,
    }


GATED = {
    "name": "gated-set",
    "title": "Gated Set",
    "page": "https://example.org/sign",
    "licence": "by form",
    "get": "unpack a.zip",
    "layout": [{"path": "val/*/*.png", "count": 2}, {"path": "labels/*.png", "count": 1}],
}


@pytest.fixture
def listing(tmp_path: Path) -> Callable[..., Path]:
    """Write a list of downloads."""

    def write(*entries: dict, gated: list[dict] | None = None) -> Path:
        path = tmp_path / "downloads.yaml"
        value = {"downloads": list(entries), "gated": [GATED] if gated is None else gated}
        path.write_text(yaml.safe_dump(value))
        return path

    return write


def test_the_committed_downloads_are_those_that_others_publish() -> None:
    import open_clip.pretrained
    from torchvision.datasets.voc import DATASET_YEAR_DICT
    from torchvision.models import ResNet101_Weights

    listed = read_downloads(ROOT / "config/downloads.yaml")
    entries = {entry.name: entry for entry in listed.downloads}
    for name, model in (
        ("clip-vit-l-14-336", "ViT-L-14-336"),
        ("clip-rn50x16", "RN50x16"),
        ("clip-rn50", "RN50"),
    ):
        published = open_clip.pretrained.get_pretrained_cfg(model, "openai")["url"]
        assert entries[name].url == published and f"/{entries[name].sha256}/" in published
        assert entries[name].pinned
    voc = DATASET_YEAR_DICT["2010"]
    assert (entries["voc-2010"].url, entries["voc-2010"].md5) == (voc["url"], voc["md5"])
    resnet = entries["resnet101-imagenet"]
    assert resnet.url == ResNet101_Weights.IMAGENET1K_V1.url and not resnet.pinned
    assert {entry.name for entry in listed.gated} == {"cityscapes", "imagenet", "kitti-step"}
    for entry in listed.downloads:  # without encryption only where there is none
        assert entry.url.startswith(
            ("https://", "http://images.cocodataset.org/", "http://calvin.inf.ed.ac.uk/")
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shasum": "0"}, r"downloads\.0\.shasum: Extra inputs"),
        ({"name": "a b"}, "String should match"),
        ({"name": "../x"}, "String should match"),
        ({"file": "../x"}, "String should match"),
        ({"file": ".x"}, "String should match"),
        ({"url": "file:///x"}, "String should match"),
        ({"sha256": "0" * 63 + "x", "digest_from": "x"}, "String should match"),
        ({"sha256": "0" * 64}, "digest_from goes with"),
        ({"digest_from": "x"}, "digest_from goes with"),
        ({"file": "thing.json"}, "listed twice: thing.json"),
        ({"name": "gated-set"}, "listed twice: gated-set"),
        ({"unpack": {"kind": "zip", "into": "x"}}, "unpack.files: Field required"),
        (
            {"unpack": {"kind": "zip", "into": "../x", "files": 1, "gigabytes": 1}},
            "String should match",
        ),
    ],
)
def test_a_list_with_a_mistake_is_refused(listing, change: dict, message: str) -> None:
    with pytest.raises(RecoError, match=rf"downloads\.yaml: not a list of downloads: .*{message}"):
        read_downloads(listing(entry("https://example.org/x", **change)))


def test_no_list(tmp_path: Path) -> None:
    for text in ("[", "3", "downloads: []"):
        (tmp_path / "downloads.yaml").write_text(text)
        with pytest.raises(RecoError, match="not a list of downloads"):
            read_downloads(tmp_path / "downloads.yaml")
    with pytest.raises(RecoError, match="not a list of downloads"):
        read_downloads(tmp_path / "none.yaml")


def test_unknown_name(listing, tmp_path: Path) -> None:
    path = listing(entry("https://example.org/x"))
    for name, message in (("thin", "did you mean thing"), ("qqq", "known: thing, gated-set")):
        with pytest.raises(RecoError, match=f"{name}: not listed in .*: {message}"):
            fetch_download(name, tmp_path / "out", listing=path)


def obtain(path: Path, folder: Path, name: str = "thing") -> dict:
    record = fetch_download(name, folder, listing=path, timeout=5, tries=2, pause=0.01)
    assert record == folder / f"{name}.json"
    return json.loads(record.read_text())


def test_a_published_digest(listing, tmp_path: Path, serve) -> None:
    url, asked = serve(answer(BODY))
    path = listing(entry(url, sha256=SHA256, digest_from="its author", size=len(BODY)))
    record = obtain(path, tmp_path / "out")
    assert record["sha256"] == SHA256 and record["checked"] == "its author"
    assert (record["file"], record["url"], record["size"]) == ("thing.bin", url, len(BODY))
    assert obtain(path, tmp_path / "out") == record
    assert len(asked) == 1
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["thing.bin", "thing.json"]
    (tmp_path / "out/thing.bin").write_bytes(BODY[::-1])
    with pytest.raises(RecoError, match=r"thing\.bin: has SHA-256 .*: delete it and run again"):
        obtain(path, tmp_path / "out")
    (tmp_path / "out/thing.bin").write_bytes(BODY[:-1])
    with pytest.raises(RecoError, match=r"thing\.bin: has 4999 bytes, expected 5000"):
        obtain(path, tmp_path / "out")


@pytest.mark.parametrize("known", [{}, {"sha256": SHA256[:8], "digest_from": "its name"}])
def test_without_a_whole_digest_the_first_copy_counts(
    listing, tmp_path: Path, serve, caplog, known: dict
) -> None:
    url, _ = serve(answer(BODY))
    out = tmp_path / "out"
    record = obtain(listing(entry(url, **known)), out)
    note = out / "thing.bin.sha256"
    assert note.read_text() == f"{SHA256}  thing.bin\n"  # as sha256sum -c reads it
    assert str(note) in caplog.text and "first copy" in caplog.text
    assert record["checked"] == known.get("digest_from", "against the first download alone")
    caplog.clear()
    obtain(listing(entry(url, **known)), out)
    assert "first copy" not in caplog.text

    (out / "thing.bin").write_bytes(BODY[::-1])
    with pytest.raises(RecoError, match=r"thing\.bin: has SHA-256 .*first download: delete .*256 "):
        obtain(listing(entry(url)), out)
    (out / "thing.bin").unlink()
    url, _ = serve(answer(BODY[::-1]))
    with pytest.raises(RecoError, match=f"^{re.escape(url)}: has SHA-256 .*that of the first"):
        obtain(listing(entry(url)), out)
    assert not (out / "thing.bin").exists()
    note.write_text("hello")
    with pytest.raises(RecoError, match="holds no SHA-256"):
        obtain(listing(entry(url)), out)


def test_a_note_against_what_was_published(listing, tmp_path: Path, serve) -> None:
    url, _ = serve(answer(BODY))
    (tmp_path / "out").mkdir()
    (tmp_path / "out/thing.bin.sha256").write_text(f"{'0' * 64}  thing.bin\n")
    with pytest.raises(RecoError, match="is not the published"):
        obtain(listing(entry(url, sha256=SHA256[:8], digest_from="x")), tmp_path / "out")


def test_what_must_be_signed_for(listing, tmp_path: Path) -> None:
    path, out = listing(), tmp_path / "out"
    told = (
        "Gated Set is given only to those who sign up .*: sign at https://example.org/sign, unpack "
        r"a\.zip, so that .*gated-set holds val/\*/\*\.png \(2 files\), labels/\*\.png \(1 files\)"
    )
    with pytest.raises(RecoError, match=f"gated-set: there is no folder .*gated-set: {told}"):
        fetch_download("gated-set", out, listing=path)
    (out / "gated-set/val/a").mkdir(parents=True)
    (out / "gated-set/val/a/1.png").write_bytes(b"")
    with pytest.raises(RecoError, match=rf"gated-set: 1 of 2 files val/\*/\*\.png: {told}"):
        fetch_download("gated-set", out, listing=path)
    (out / "gated-set/val/a/2.png").write_bytes(b"")
    (out / "gated-set/labels").mkdir()
    with pytest.raises(RecoError, match=r"0 of 1 files labels"):
        check_layout("gated-set", out / "gated-set", listing=path)
    (out / "gated-set/labels/1.png").write_bytes(b"")
    check_layout("gated-set", out / "gated-set", listing=path)
    assert fetch_download("gated-set", out, listing=path) is None
    assert fetch_download("gated-set", "x", listing=path, root=out / "gated-set") is None
    with pytest.raises(RecoError, match="thing: not listed"):
        check_layout("thing", out, listing=path)


# ---- zip and tar ------------------------------------------------------------------------------


def make_zip(path: Path, members: dict[str, bytes], *, link: str = "") -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            info = zipfile.ZipInfo(name)
            if name == link:
                info.external_attr = (stat.S_IFLNK | 0o777) << 16
            archive.writestr(info, content, zipfile.ZIP_DEFLATED)
    return path


def make_tar(path: Path, members: dict[str, bytes], *, link: str = "", kind: bytes = b"2") -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            if name == link:
                info.type, info.linkname, info.size = kind, "/etc/passwd", 0
            if name.endswith("/"):
                info.type = tarfile.DIRTYPE
            archive.addfile(info, io.BytesIO(content))
    return path


MAKE = {"zip": make_zip, "tar": make_tar}
both = pytest.mark.parametrize("kind", ["zip", "tar"])


def extract(archive: Path, kind: str, **options: object) -> int:
    limits = {"most_files": 10, "most_bytes": 10_000_000, **options}
    return unpack_archive(archive, archive.parent / "out", kind=kind, **limits)


def listed_files(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


@both
def test_unpack_archive(tmp_path: Path, kind: str) -> None:
    members = {"top/": b"", "top/a/1.png": BODY, "top/a/2.png": b"2", "top/readme": b"r"}
    members |= {"./top/b/3.png": b"3", "__MACOSX/top/a/._1.png": b"m", "top/a/._1.png": b"m"}
    archive = MAKE[kind](tmp_path / "x", members)
    assert extract(archive, kind, wanted=["top/*.png"], strip=1) == 3
    assert listed_files(tmp_path / "out") == ["a/1.png", "a/2.png", "b/3.png"]
    assert (tmp_path / "out/a/1.png").read_bytes() == BODY
    # what is there is kept if asked for, and mended where its length is wrong
    (tmp_path / "out/a/1.png").write_bytes(BODY[::-1])
    (tmp_path / "out/a/2.png").write_bytes(b"")
    assert extract(archive, kind, wanted=["top/*.png"], strip=1, keep=True) == 3
    assert (tmp_path / "out/a/1.png").read_bytes() == BODY[::-1]
    assert (tmp_path / "out/a/2.png").read_bytes() == b"2"
    assert extract(archive, kind, wanted=["top/*.png"], strip=1) == 3
    assert (tmp_path / "out/a/1.png").read_bytes() == BODY


@both
@pytest.mark.parametrize(
    "name", ["../evil", "a/../../evil", "/evil", "//evil", "C:/evil", "a\\..\\evil", "a\nb", ".."]
)
def test_archives_that_lead_out_are_refused_whole(tmp_path: Path, kind: str, name: str) -> None:
    archive = MAKE[kind](tmp_path / "x", {"good": b"1", name: b"2"})
    with pytest.raises(RecoError, match="leads out of it"):
        extract(archive, kind)
    assert listed_files(tmp_path) == ["x"]
    assert extract(archive, kind, wanted=["good"]) == 1  # what is not wanted is not looked at


@both
def test_archives_with_links_are_refused_whole(tmp_path: Path, kind: str) -> None:
    archive = MAKE[kind](tmp_path / "x", {"good": b"1", "l": b"/etc", "l/passwd": b"2"}, link="l")
    with pytest.raises(RecoError, match="l is a link or a device"):
        extract(archive, kind)
    assert listed_files(tmp_path) == ["x"]


@pytest.mark.parametrize("kind", [b"1", b"2", b"3", b"4", b"6"])
def test_tar_with_links_devices_and_pipes(tmp_path: Path, kind: bytes) -> None:
    archive = make_tar(tmp_path / "x", {"good": b"1", "l": b""}, link="l", kind=kind)
    with pytest.raises(RecoError, match="l is a link or a device"):
        extract(archive, "tar")


@both
def test_archives_beyond_their_limits(tmp_path: Path, kind: str) -> None:
    archive = MAKE[kind](tmp_path / "x", {str(i): b"\0" * 100_000 for i in range(10)})
    for limits in ({"most_files": 9}, {"most_bytes": 999_999}):
        with pytest.raises(RecoError, match="more than"):
            extract(archive, kind, **limits)
    assert listed_files(tmp_path) == ["x"]
    assert extract(archive, kind, most_files=10, most_bytes=1_000_000) == 10


@both
def test_archives_whose_members_collide(tmp_path: Path, kind: str) -> None:
    archive = MAKE[kind](tmp_path / "x", {"a/1": b"1", "b/1": b"2"})
    with pytest.raises(RecoError, match="no place of its own with 1 folders"):
        extract(archive, kind, strip=1)
    with pytest.raises(RecoError, match="no place of its own"):
        extract(archive, kind, strip=2)
    with pytest.raises(RecoError, match=r"has no \*\.png"):
        extract(archive, kind, wanted=["*.png"])
    archive = MAKE[kind](tmp_path / "y", {"a": b"1", "a/b": b"2"})
    with pytest.raises(RecoError, match="cannot be unpacked"):
        extract(archive, kind)


@both
def test_damaged_archives(tmp_path: Path, kind: str) -> None:
    good = MAKE[kind](tmp_path / "x", {"a": NOISE, "b": BODY}).read_bytes()
    for broken in (b"", b"hello", good[:1000], good[:-3000], good[:500] + b"?" * 50 + good[550:]):
        (tmp_path / "x").write_bytes(broken)
        with pytest.raises(RecoError, match="x: cannot be unpacked"):
            extract(tmp_path / "x", kind)
    assert not (tmp_path / "out/a").exists()


def test_zip_that_lies_about_a_length(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "x", {"a": b"\0" * 1_000_000})
    content = archive.read_bytes()
    length = struct.pack("<I", 1_000_000)
    assert content.count(length) == 2  # before the member, and in the list at the end
    archive.write_bytes(content.replace(length, struct.pack("<I", 10)))
    with pytest.raises(RecoError, match="cannot be unpacked"):
        extract(archive, "zip")
    assert listed_files(tmp_path) == ["x"]


def test_fetch_and_unpack(listing, tmp_path: Path, serve, capsys) -> None:
    content = make_zip(tmp_path / "x.zip", {"t/a.png": b"1", "t/b.png": b"2"}).read_bytes()
    url, asked = serve(answer(content))
    how = {"kind": "zip", "into": "set/images", "strip": 1, "files": 2, "gigabytes": 0.001}
    path = listing(entry(url, file="x.zip", unpack=how))
    out = tmp_path / "out"
    record = obtain(path, out)
    assert record["unpacked"] == {"folder": f"{out.as_posix()}/set/images", "files": 2}
    assert listed_files(out / "set") == ["images/a.png", "images/b.png"]
    (out / "set/images/a.png").unlink()
    assert obtain(path, out) == record and len(asked) == 1
    assert listed_files(out / "set") == ["images/a.png", "images/b.png"]


def test_command(listing, tmp_path: Path, serve, monkeypatch, capsys) -> None:
    url, _ = serve(answer(BODY))
    path = listing(entry(url), entry(url, name="other", file="other.bin"))
    out = tmp_path / "out"
    options = ["--folder", str(out), "--listing", str(path)]
    commands(["download", "thing", "other", *options], standalone_mode=False)
    assert {p.name for p in out.iterdir() if p.suffix == ".json"} == {"thing.json", "other.json"}
    monkeypatch.setattr(sys, "argv", ["reco", "download", "gated-set", *options])
    with pytest.raises(SystemExit):
        main()
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert len(said) == 1 and "sign at https://example.org/sign" in said[0]


def test_without_a_name_the_command_lists_all(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    commands(["download"], standalone_mode=False)
    said = capsys.readouterr().out
    assert "deit-s-16-sin" in said and "sign up at https://www.cityscapes-dataset.com" in said
