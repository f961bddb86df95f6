"""Fetching and unpacking packages, against a local server that misbehaves and a fake apt-get."""

import hashlib
import io
import random
import re
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml
import zstandard

from reco.download import MIRROR, fetch, read_packages, unpack
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
    then: Callable[[], object] = lambda: None,
) -> Answer:
    """Answer with `content`, of which only `sent` bytes are sent before `then` happens."""

    def reply(handler: BaseHTTPRequestHandler, first: int) -> None:
        first = first if ranges else 0
        handler.send_response(status or (206 if first else 200))
        if first:
            handler.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
        handler.send_header("Content-Length", str(length or len(content) - first))
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
    for file in (path, ROOT / "src/reco/download.py"):
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
