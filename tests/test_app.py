"""The page: what it says of a photograph, and a real browser that uses it as a person would."""

import functools
import http.server
import importlib.util
import io
import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
import yaml
from conftest import ROOT
from PIL import Image, ImageOps

from reco.cli import commands
from reco.concepts import parse_concepts
from reco.data.images import read_image
from reco.errors import RecoError
from reco.photos.learned import Archived, Learned
from reco.photos.page import gate, serve
from reco.photos.page.answer import answer, open_photo, table
from reco.photos.page.view import build
from reco.photos.result import Segmentation
from reco.photos.sheets import archive_picture, archive_pictures

DOUBT = "no image of this index looks like {name!r}"


class Fake:
    """A segmenter that knows all words but those with "odd" in them, and finds them in stripes."""

    def __init__(self, archive):
        self.archive, self.asked = archive, []

    def learn(self, words):
        return [
            Learned(
                concept,
                "mark",
                {0: np.zeros(1, np.float32)},
                np.zeros(1, np.float32),
                self.archive,
                0.5,
                0.0,
                DOUBT.format(name=concept.name) if "odd" in concept.name else "",
            )
            for concept in parse_concepts(words)
        ]

    def segment(self, picture, words, *, background, doubtful):
        self.asked.append((picture.size, background, doubtful))
        learned = self.learn(words)
        picture = np.asarray(picture)
        labels = np.full(picture.shape[:2], -1, np.int32)
        for place, item in enumerate(learned):
            if doubtful or not item.doubt:
                labels[:, place::4] = place
        return Segmentation(
            picture,
            tuple(item.concept.name for item in learned),
            labels,
            np.random.default_rng(0).random((len(learned), 8, 8), np.float32),
            {item.concept.name: item.doubt for item in learned if item.doubt},
        )


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    Image.new("RGB", (80, 40), (90, 120, 150)).save(path)
    return str(path)


def write_archive(folder: Path) -> tuple[Archived, ...]:
    """Two grey images whose left and right ends are red; the support is larger on the right."""
    pixels = np.full((100, 300, 3), 128, np.uint8)
    pixels[:, :100] = pixels[:, 200:] = (255, 0, 0)
    Image.fromarray(pixels).save(folder / "wide.png")
    support = np.tile(np.linspace(0, 1, 8, dtype=np.float32), (8, 1))
    return tuple(
        Archived(folder / "wide.png", similarity, (0.75, 0.25), support)
        for similarity in (0.912, 0.3)
    )


@pytest.fixture
def archive(tmp_path):
    return write_archive(tmp_path)


# ---- what it shows ----------------------------------------------------------------------------


def test_an_answer_has_the_overlay_and_what_is_known_of_every_word(photo, archive):
    fake = Fake(archive)
    found = answer(fake, photo, "zebra, odd one", background=True)
    assert found.trouble == "" and found.overlay.width == 80
    assert found.table == [
        ("zebra", "25.0%", "none"),
        ("odd one", "not looked for", DOUBT.format(name="odd one")),
        ("none of these", "75.0%", ""),
    ]
    assert [word.name for word in found.words] == ["zebra", "odd one"]
    assert all(word.map.size == (8, 8) for word in found.words)
    assert [caption for _, caption in found.words[1].archive] == ["0.91", "0.30"]
    assert fake.asked == [((80, 40), True, False)]
    every = answer(fake, photo, "zebra, odd one", background=False, doubtful=True)
    assert every.table[1] == ("odd one", "25.0%", DOUBT.format(name="odd one"))
    assert fake.asked[1:] == [((80, 40), False, True)]


def test_no_row_for_the_rest_where_there_is_none():
    assert table({"a": 0.1, "b": 0.2, "c": 0.7}, {}, False)[-1] == ("c", "70.0%", "none")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("", "no concept was given"),
        (" , ,", "no concept was given"),
        ("x" * 500, "at most 200 characters"),
        ("zebra, " * 500, "words of 3500 characters: at most 2000 in all"),
        ("fire truck, fire-truck", "both shorten to"),
        ("odd", DOUBT.format(name="odd")),
    ],
)
def test_words_that_do_not_work_are_one_sentence(photo, archive, words, said):
    found = answer(Fake(archive), photo, words)
    assert said in found.trouble and "\n" not in found.trouble and len(found.trouble) < 300
    assert found.overlay is None and found.table == []


def test_words_that_are_all_in_doubt_still_show_their_archives(photo, archive):
    fake = Fake(archive)
    found = answer(fake, photo, "odd, oddity")
    assert found.trouble.splitlines() == [DOUBT.format(name=name) for name in ("odd", "oddity")]
    assert [(word.map, len(word.archive)) for word in found.words] == [(None, 2), (None, 2)]
    assert answer(fake, photo, "odd, oddity", doubtful=True).overlay is not None


def test_a_photo_that_is_missing_or_broken_is_a_sentence_without_folders(tmp_path, archive):
    assert answer(Fake(archive), None, "zebra").trouble.startswith("no photo was given")
    Path(tmp_path, "holiday.jpg").write_bytes(b"no image at all")
    trouble = answer(Fake(archive), str(tmp_path / "holiday.jpg"), "zebra").trouble
    assert trouble.startswith("holiday.jpg: not a readable image")
    assert str(tmp_path) not in trouble


def test_an_archive_image_that_is_gone_is_named(photo, archive, tmp_path):
    (tmp_path / "wide.png").unlink()
    assert "wide.png: no such file" in answer(Fake(archive), photo, "zebra").trouble


def test_photos_are_decoded_as_everywhere(tmp_path):
    ramp = np.linspace(0, 65535, 30 * 20).reshape(30, 20).astype(np.uint16)
    Image.fromarray(ramp).save(tmp_path / "deep.png")
    Image.new("CMYK", (30, 20), (0, 255, 255, 0)).save(tmp_path / "ink.jpg")
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.new("RGB", (30, 20), "blue").save(tmp_path / "turned.jpg", exif=turned)
    sizes = {}
    for name in ("deep.png", "ink.jpg", "turned.jpg"):
        decoded = open_photo(str(tmp_path / name))
        sizes[name] = decoded.size
        np.testing.assert_array_equal(decoded, read_image(tmp_path / name))
    assert sizes == {"deep.png": (20, 30), "ink.jpg": (30, 20), "turned.jpg": (20, 30)}


def test_an_archive_image_is_its_centre_square_with_heat_and_a_ring_at_the_seed(archive):
    picture = np.asarray(archive_picture(archive[0], 0, 1)).astype(int)
    side = len(picture)
    assert picture.shape == (side, side, 3)
    cold, hot = picture[side // 8, side // 20], picture[side // 8, -side // 20]
    assert np.ptp(cold) < 8  # grey: nothing of the red ends, no heat
    assert hot[0] > hot[2] + 60  # yellow
    white = np.argwhere((picture > 250).all(axis=2)).mean(axis=0) / side
    assert white == pytest.approx([0.75, 0.25], abs=0.01)


def test_equal_support_and_an_empty_archive_are_drawn(archive, tmp_path):
    flat = Archived(tmp_path / "wide.png", 1.0, (0, 1), np.ones((3, 3), np.float32))
    [(picture, caption)] = archive_pictures([flat])
    assert caption == "1.00" and picture.size[0] == picture.size[1]
    assert archive_pictures([]) == []


# ---- the page without a browser ---------------------------------------------------------------


@pytest.fixture
def here(monkeypatch):
    """What `reco app` changes in its process does not stay in that of the tests."""
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    for name in ("GRADIO_TEMP_DIR", "GRADIO_EXAMPLES_CACHE"):
        monkeypatch.setenv(name, "")


@pytest.fixture
def uploads(monkeypatch, here, tmp_path):
    """The folder of a page that is made in this process."""
    pytest.importorskip("gradio")
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))
    monkeypatch.setattr("gradio.routes.DEFAULT_TEMP_DIR", str(tmp_path / "uploads"))
    return tmp_path / "uploads"


def test_without_gradio_the_command_says_what_to_install(monkeypatch, here):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(RecoError, match=r"pip install 'reco\[app\]'"):
        commands(["app"], standalone_mode=False)


def test_a_port_that_is_taken_is_an_error_before_anything_is_loaded(tmp_path, monkeypatch, here):
    pytest.importorskip("gradio")
    monkeypatch.chdir(tmp_path)  # no experiment here: loading would fail otherwise
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(RecoError, match=f"port {port} of 127.0.0.1: .*--port"):
            commands(["app", "--port", str(port)], standalone_mode=False)


def test_the_page_segments_one_photo_at_a_time_and_sends_no_statistics(archive, uploads):
    page = build(Fake(archive))
    renders = [function for function in page.fns.values() if function.name != "look"]
    assert [function.concurrency_limit for function in renders] == [1]
    assert page.analytics_enabled is False


# ---- a page that runs -------------------------------------------------------------------------


class Served:
    """A page in a process of its own; its segmenter is the fake one, so it is there in seconds."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.prepare()
        (folder / "temporary").mkdir()
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.address = f"http://127.0.0.1:{self.port}/"
        self.log = folder / "log"
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(self.command, stderr=log, stdout=log, **self.place)

    def prepare(self) -> None:
        """Write what it needs."""

    @property
    def command(self) -> list[str]:
        return [sys.executable, "-c", f"import test_app; test_app.serve_fake({self.port})"]

    @property
    def place(self) -> dict:
        """Folder and environment: as if behind a proxy that does not answer."""
        proxies = dict.fromkeys(["http_proxy", "https_proxy"], "http://127.0.0.1:9")
        temporary = {"TMPDIR": str(self.folder / "temporary")}
        path = {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT / "tests")])}
        return {"cwd": self.folder, "env": {**os.environ, **proxies, **temporary, **path}}

    def run(self, seconds: float = 240) -> "Iterator[Served]":
        """Itself, once it answers; it ends afterwards."""
        try:
            until = time.monotonic() + seconds
            while f"open {self.address[:-1]} " not in self.log.read_text():
                assert self.process.poll() is None, self.log.read_text()
                assert time.monotonic() < until, self.log.read_text()
                time.sleep(0.2)
            yield self
        finally:
            self.process.kill()
            self.process.wait()

    def files(self, name: str = "*") -> set[str]:
        """What lies in its temporary folder."""
        found = (self.folder / "temporary").rglob(name)
        return {str(path) for path in found if path.is_file() and path.stat().st_size}


def serve_fake(port: int) -> None:
    """What the process of `Served` runs, in its folder."""
    logging.basicConfig(level=logging.INFO)
    serve.load = lambda *_, **__: Fake(write_archive(Path.cwd()))
    gate.PHOTO_BYTES = serve.PHOTO_BYTES = LIMIT
    serve.serve(port=port)


LIMIT = 1_000_000  # bytes of a photo: less than there really may be, to send less here
LOOK, SHOW = 1, 0  # the page's functions: preview of a photo, answer to the button


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    pytest.importorskip("gradio")
    yield from Served(tmp_path_factory.mktemp("served")).run()


@pytest.fixture
def client(served):
    import httpx

    with httpx.Client(base_url=served.address, trust_env=False, timeout=60) as found:
        yield found


@pytest.fixture
def secret(tmp_path):
    """A picture in a folder that is its owner's alone."""
    folder = tmp_path / "private"
    folder.mkdir(mode=0o700)
    Image.new("RGB", (30, 20), "red").save(folder / "secret.png")
    return folder / "secret.png"


def upload(client, photo: str | Path, **headers: str):
    return client.post(
        "gradio_api/upload",
        files={"files": (Path(photo).name, Path(photo).read_bytes())},
        headers=headers,
    )


def file_data(path: object, **more: object) -> dict:
    """How Gradio's script names a file."""
    return {"path": str(path), "meta": {"_type": "gradio.FileData"}, **more}


def join(client, data: object, function: int = LOOK, **headers: str):
    """Ask for a function of the page."""
    sent = {"data": data, "fn_index": function, "session_hash": "visit", "event_data": None}
    return client.post("gradio_api/queue/join", content=json.dumps(sent), headers=JSON | headers)


JSON = {"Content-Type": "application/json"}


def result(client, asked) -> str:
    """What came of `join`, as Gradio writes it."""
    assert asked.status_code == 200, asked.text
    with client.stream("GET", "gradio_api/queue/data?session_hash=visit") as stream:
        return next(line for line in stream.iter_lines() if "process_completed" in line)


def test_an_uploaded_photo_is_shown_and_segmented(client, photo, served):
    [path] = upload(client, photo).json()
    assert Path(path).is_relative_to(served.folder / "temporary")
    [folder] = (served.folder / "temporary").iterdir()  # and nothing beside it
    assert folder.stat().st_mode & 0o777 == 0o700
    told = file_data(path, url=f"{served.address}gradio_api/file={path}", size=1, mime_type="x")
    preview = json.loads(result(client, join(client, [told])).removeprefix("data:"))
    shown = preview["output"]["data"][0]["value"]["path"]
    assert client.get(f"gradio_api/file={shown}").status_code == 200
    found = result(client, join(client, [told, "zebra, odd one", True, False], SHOW))
    assert "Saliency of zebra" in found and '"success":true' in found.replace(" ", "")


def test_files_that_were_not_uploaded_are_neither_read_nor_told_from_missing_ones(
    client, secret, photo, served
):
    [path] = upload(client, photo).json()
    up = "/".join([".."] * 20)
    missing = secret.with_name("missing.png")
    answers = set()
    for place in (
        *(secret, missing, secret.parent, "/etc/passwd", "/proc/self/environ", "", ".", "\0"),
        *("wide.png", "log", served.folder / "wide.png", "x" * 5000, Path(path).parent),
        *(f"{Path(path).parent}/{up}{secret}", f"{path}/{up}{secret}", f"file://{secret}"),
        *(f"{served.address}favicon.ico", "http://127.0.0.1:9/x.png", "https://example.org/x.png"),
    ):
        for data, function in (
            ([file_data(place)], LOOK),
            ([file_data(place, is_stream=True)], LOOK),
            ([file_data(place), "zebra", True, False], SHOW),
        ):
            asked = join(client, data, function)
            answers.add((asked.status_code, asked.text))
        shown = client.get(f"gradio_api/file={str(place).replace(chr(0), '%00')}")
        assert shown.status_code == 403 and b"PNG" not in shown.content, place
    [(status, text)] = answers
    assert status == 400 and "no such photo was uploaded" in text
    assert not served.files("secret*")


def test_a_link_in_the_folder_of_uploads_leads_nowhere(client, photo, secret):
    [path] = upload(client, photo).json()
    link = Path(path).with_name("link.png")
    link.symlink_to(secret)
    assert join(client, [file_data(link)]).status_code == 400
    assert client.get(f"gradio_api/file={link}").status_code == 403


@pytest.mark.parametrize(
    "words", [None, 5, True, ["zebra"], {"a": 1}, "file", "http", "surrogate", "nested"]
)
def test_words_are_text_and_nothing_else(client, photo, secret, served, words):
    [path] = upload(client, photo).json()
    odd = {
        "file": file_data(secret),
        "http": file_data("https://example.org/x.png"),
        "surrogate": "\ud800",
        "nested": [[file_data(secret)]],
    }
    words = odd.get(words, words) if isinstance(words, str) else words
    asked = join(client, [file_data(path), words, True, False], SHOW)
    assert asked.status_code == 400 and asked.json() == {"detail": "this page does not ask that"}
    assert not served.files("secret*")


@pytest.mark.parametrize(
    ("data", "function"),
    [
        ([None, "zebra", "yes", False], SHOW),
        ([None, "zebra", 1, False], SHOW),
        ([None, "zebra", True, None], SHOW),
        ([None, "zebra", True, file_data("/etc/passwd")], SHOW),
        ([None, "zebra", True], SHOW),
        ([None, "zebra", True, False, 1], SHOW),
        ([None, "zebra", True, False], LOOK),
        ([[file_data("/etc/passwd")]], LOOK),
        (["/etc/passwd"], LOOK),
        ([{"path": "/etc/passwd"}], LOOK),
        ([], LOOK),
        (None, LOOK),
        ([None], SHOW),
        ([None], 77),
        ([None], -1),
        ([None], None),
    ],
)
def test_what_the_page_would_not_ask_is_a_sentence(client, served, data, function):
    asked = join(client, data, function)
    assert asked.status_code == 400 and asked.json()["detail"].startswith("this page ")
    assert "Traceback" not in served.log.read_text()


def test_what_is_read_is_what_was_checked(client, photo, secret):
    """A key may come twice, and one reader alone may take a text for JSON."""
    [path] = upload(client, photo).json()
    good, bad = (json.dumps([file_data(found)]) for found in (path, secret))
    rest = f'"fn_index": {LOOK}, "session_hash": "visit"'

    def post(text: str, encoding: str = "utf-8"):
        sent = f"{{{text}, {rest}}}".encode(encoding)
        return client.post("gradio_api/queue/join", content=sent, headers=JSON)

    assert post(f'"data": {good}, "data": {bad}').status_code == 400
    assert post(f'"data": {bad}', "utf-16").status_code == 400
    found = result(client, post(f'"data": {bad}, "data": {good}'))
    shown = json.loads(found.removeprefix("data:"))["output"]["data"][0]["value"]["path"]
    with Image.open(io.BytesIO(client.get(f"gradio_api/file={shown}").content)) as preview:
        assert preview.size == (80, 40)  # not the secret's


@pytest.mark.parametrize(
    ("method", "place"),
    [
        *(("POST", f"gradio_api/{name}/{function}") for name in ("run", "api", "call", "call/v2")
          for function in ("look", "show", "answer")),
        *(("POST", f"gradio_api/{name}") for name in (
            "component_server", "cancel", "reset", "stream/x", "stream/x/close",
            "process_recording", "vibe-edit", "undo-vibe-edit", "vibe-code", "queue/join/",
            "upload/", "run-history/connect", "profiling/clear",
        )),
        *(("GET", f"gradio_api/{name}") for name in (
            "info", "openapi.json", "heartbeat/visit", "startup-events", "token", "user", "runs",
            "queue/status", "dev/reload", "deep_link?session_hash=visit", "vibe-code",
            "proxy=https://x.hf.space/", "proxy=http://127.0.0.1:9/", "file=https://example.org/",
            "file=http://127.0.0.1:9/", "file//etc/passwd", "file=/etc/passwd", "file=", "mcp/sse",
            "custom_component/x/client/component/x", "stream/a/b/1/playlist-file", "call/look/x",
            "profiling/traces", "theme.css", "login_check",
        )),
        *(("GET", name) for name in (
            "config", "config/", "monitoring", "monitoring/summary", "docs", "openapi.json",
            "svelte/x", "pwa_icon", "login", "logout", "robots.txt",
        )),
        *(("GET", f"{name}/..%2f..%2f..%2fpackage.json") for name in ("assets", "static")),
        *(("GET", f"{name}/%2fetc/passwd") for name in ("assets", "static")),
        *((method, "") for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE")),
        *((method, "gradio_api/upload") for method in ("GET", "PUT", "OPTIONS")),
    ],
)  # fmt: skip
def test_other_places_are_refused(client, method, place):
    sent = {"content": b'{"data": [null]}', "headers": JSON} if method == "POST" else {}
    with client.stream(method, place, **sent) as answered:  # some of Gradio's never end
        assert answered.status_code == 403


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": ""},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "http://localhost"},
        {"Origin": "http://127.0.0.1"},
        {"Origin": "https://OURS"},
        {"Origin": "http://OURS.evil.example"},
        {"Origin": "http://evil.example", "Sec-Fetch-Site": "same-origin"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},  # another port of this machine
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"},
    ],
)
def test_pages_of_others_can_neither_read_nor_upload(client, served, photo, tmp_path, headers):
    ours = f"127.0.0.1:{served.port}"
    headers = {name: value.replace("OURS", ours) for name, value in headers.items()}
    (tmp_path / "foreign.png").write_bytes(Path(photo).read_bytes())
    [path] = upload(client, photo).json()
    preflight = {"Access-Control-Request-Method": "POST", **headers}
    for asked in (
        client.get("", headers=headers),
        client.head("", headers=headers),
        client.get("theme.css", headers=headers),
        client.get(f"gradio_api/file={path}", headers=headers),
        client.get("gradio_api/app_id", headers=headers),
        client.options("gradio_api/upload", headers=preflight),
        join(client, [None], **headers),
        upload(client, tmp_path / "foreign.png", **headers),
    ):
        assert asked.status_code == 403, asked.request
        assert "access-control-allow-origin" not in asked.headers
    assert not served.files("foreign.png")


def test_its_own_page_links_to_it_and_programs_are_answered(client, served, photo):
    carried = "127.0.0.1:80"  # by SSH, from another port
    for own in (f"127.0.0.1:{served.port}", f"localhost:{served.port}", carried):
        headers = {"Host": own, "Origin": f"http://{own}", "Sec-Fetch-Site": "same-origin"}
        assert upload(client, photo, **headers).status_code == 200
    link = {"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    for site in ("cross-site", "same-site", "none"):
        opened = client.get("", headers={"Sec-Fetch-Site": site, **link})
        assert opened.status_code == 200
        assert "frame-ancestors 'none'" in opened.headers["Content-Security-Policy"]
        posted = client.post("gradio_api/upload", headers={"Sec-Fetch-Site": site, **link})
        assert posted.status_code == (400 if site == "none" else 403)
    assert upload(client, photo).status_code == 200  # as curl does


def test_what_is_uploaded_is_no_page_of_ours_and_keeps_to_its_folder(client, tmp_path, served):
    (tmp_path / "page.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'><script/></svg>")
    [path] = upload(client, tmp_path / "page.svg").json()
    for _ in range(2):  # Gradio takes an SVG that went through a function for one of its own
        shown = client.get(f"gradio_api/file={path}")
        assert shown.headers["Content-Disposition"].startswith("attachment")
        assert shown.headers["X-Content-Type-Options"] == "nosniff"
        assert "not a readable image" in result(client, join(client, [file_data(path)]))
    for name in ("../../climbed.png", "/climbed.png", "..", "a/../../climbed.png"):
        sent = client.post("gradio_api/upload", files={"files": (name, b"x")})
        assert sent.status_code == 400 or Path(sent.json()[0]).parents[2].name == "temporary"
    assert all(Path(found).parents[2].name == "temporary" for found in served.files("climbed*"))


def parts(*sizes: int, filename: str = '; filename="big.png"') -> Iterator[bytes]:
    """A form of files, piece by piece: it has no length before."""
    for size in sizes:
        head = f'--end\r\nContent-Disposition: form-data; name="files"{filename}\r\n\r\n'
        yield head.encode()
        yield from (bytes(min(60_000, size - at)) for at in range(0, size, 60_000))
        yield b"\r\n"
    yield b"--end--\r\n"


@pytest.mark.parametrize(
    "form",
    [
        functools.partial(parts, LIMIT + 1),
        functools.partial(parts, 3 * LIMIT),
        functools.partial(parts, *[LIMIT // 2] * 5),  # each is small enough
        functools.partial(parts, 3 * LIMIT, filename=""),  # no file, but kept in memory
    ],
)
@pytest.mark.parametrize("length", [True, False])
def test_an_upload_that_is_too_large_ends_with_a_sentence_and_leaves_nothing(
    client, served, form, length
):
    before = served.files()
    content = b"".join(form()) if length else form()
    headers = {"Content-Type": "multipart/form-data; boundary=end"}
    sent = client.post("gradio_api/upload", content=content, headers=headers)
    assert sent.status_code == 413
    assert f"maximum allowed size of {LIMIT} bytes" in sent.text
    assert served.files() == before


def test_a_photo_just_small_enough_is_taken(client):
    headers = {"Content-Type": "multipart/form-data; boundary=end"}
    sent = client.post("gradio_api/upload", content=parts(LIMIT), headers=headers)
    assert Path(sent.json()[0]).stat().st_size == LIMIT


def test_requests_for_anything_else_are_short(client):
    endless = (b" " * 50_000 for _ in range(20))
    asked = client.post("gradio_api/queue/join", content=endless, headers=JSON)
    assert asked.status_code == 413 and "too many words" in asked.text
    long = join(client, [None, "x" * 200_000, True, False], SHOW)
    assert long.status_code == 413 and "at most 2000 characters" in long.json()["detail"]


def test_the_page_tells_no_folder_of_this_machine(client, served):
    for place in ("", "theme.css", "manifest.json"):
        text = client.get(place).text
        assert str(served.folder) not in text and str(ROOT) not in text and sys.prefix not in text


def test_gradio_itself_refuses_files_too(archive, secret, uploads):
    """Should anything get past what stands before it."""
    from starlette.testclient import TestClient

    inner = serve._guarded(build(Fake(archive)), uploads, 1).routes[-1].app
    with TestClient(inner) as client:
        asked = client.post("/gradio_api/run/look", json={"data": [file_data(secret)]})
        assert asked.status_code == 500 and "was not uploaded by a user" in asked.text


def test_it_ends_with_its_terminal_having_left_no_file_and_no_traceback(client, photo, served):
    """Last: after all that was asked of it above."""
    upload(client, photo)
    assert "Traceback" not in served.log.read_text()
    served.process.send_signal(signal.SIGHUP)
    assert served.process.wait(timeout=15)
    assert list((served.folder / "temporary").iterdir()) == []


# ---- a real browser ---------------------------------------------------------------------------

browser_test = pytest.mark.browser


def require_chromium() -> str:
    """Chromium's path; installed from Debian's package where it is missing, or skip."""
    pytest.importorskip("gradio")
    pytest.importorskip("playwright")
    if not shutil.which("chromium"):
        if os.geteuid() != 0 or not shutil.which("apt-get"):
            pytest.skip("Chromium is not installed, and without root and apt-get it cannot be")
        install = ["apt-get", "install", "--yes", "--no-install-recommends", "chromium"]
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        for command in (["apt-get", "update"], install):
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, check=False
            )
        if done.returncode or not shutil.which("chromium"):
            pytest.skip(f"apt-get does not install Chromium: {done.stderr.strip()[-300:]}")
    found = shutil.which("chromium")
    assert found
    return found


def write_photographs(folder: Path) -> None:
    """Photographs that come with packages, and their mirror images: a dozen or more."""
    folder.mkdir(parents=True)
    for package, inside in (("gradio", "media_assets/images"), ("sklearn", "datasets/images")):
        spec = importlib.util.find_spec(package)
        assert spec and spec.origin
        for path in sorted(Path(spec.origin).parent.joinpath(inside).glob("*.jp*g")):
            picture = read_image(path)
            picture.thumbnail((320, 320))
            picture.save(folder / f"{path.stem}.jpg")
            ImageOps.mirror(picture).save(folder / f"{path.stem} mirrored.jpg")
    assert len(list(folder.iterdir())) >= 12, "these packages no longer bring photographs"


class Server(Served):
    """`reco app` as a user starts it."""

    def prepare(self) -> None:
        self.photos = self.folder / "photos"
        write_photographs(self.photos)
        if (ROOT / "data/models").is_dir():  # what takes half a minute to compute
            (self.folder / "data").mkdir()
            (self.folder / "data/models").symlink_to(ROOT / "data/models")
        config = {
            "experiment": "tiny",
            "device": "cpu",
            "index": {"kind": "folder", "root": "photos"},
            "benchmark": None,
            "train": None,
            "concepts": ["cheetah"],
            "recipe": "paper",
            "sizes": {"retrieval": 128, "archive": 128, "benchmark": 128},
            "archive_size": 4,
        }
        (self.folder / "tiny.yaml").write_text(yaml.safe_dump(config))

    @property
    def command(self) -> list[str]:
        options = ["--index", "photos", "--config", "tiny.yaml", "--port", str(self.port)]
        return [sys.executable, "-m", "reco.cli", "app", *options]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    require_chromium()
    yield from Server(tmp_path_factory.mktemp("app")).run()


@pytest.fixture(scope="module")
def chromium():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(
            executable_path=require_chromium(), args=["--no-sandbox"]
        )
        yield running
        running.close()


class Visitor:
    """A person at the page, who notes which hosts it asks."""

    def __init__(self, chromium, server: Server) -> None:
        self.page = chromium.new_page()
        self.hosts, self.complaints, self.broken = set(), [], []
        self.page.on("request", lambda sent: self.hosts.add(urlsplit(sent.url).hostname))
        self.page.on("console", lambda said: self.complaints.append(said.text))
        self.page.on("pageerror", lambda error: self.broken.append(str(error)))
        self.page.on("dialog", lambda dialog: self.complaints.append(dialog.message))
        self.page.goto(server.address)
        self.page.wait_for_selector("#segment")

    def upload(self, path: Path, sign: str = "#preview img") -> None:
        """Its name is there before the file is; what is made of it, after."""
        self.page.set_input_files("#photo input[type=file]", path)
        self.page.wait_for_selector(f"#photo :text({path.stem!r})")
        self.page.wait_for_selector(sign)

    def press(self, words: str) -> None:
        self.page.fill("#words textarea", words)
        self.page.click("#segment")

    def trouble(self) -> str:
        """The sentence in the column of answers."""
        self.page.wait_for_selector("#answer .trouble textarea", timeout=60_000)
        return self.page.input_value("#answer .trouble textarea")

    def check(self) -> None:
        """It asked this machine alone, the browser had nothing to forbid, and no script stopped."""
        assert self.hosts <= {"127.0.0.1", None}, self.hosts  # None: data within the page
        found = [text for text in self.complaints if "Content Security" in text or "xss" in text]
        assert not found and not self.broken


@pytest.fixture
def visitor(chromium, server):
    found = Visitor(chromium, server)
    yield found
    found.check()
    found.page.close()


@browser_test
def test_a_person_sees_overlay_table_maps_and_archives(visitor, server):
    page = visitor.page
    visitor.upload(server.photos / "cheetah1.jpg")
    visitor.press("cheetah, toucan")
    page.wait_for_selector("#overlay img", timeout=90_000)
    page.wait_for_function(
        "document.querySelectorAll('#answer .map img').length == 2 && "
        "document.querySelectorAll('#answer .archive .thumbnail-lg img').length == 8"
    )
    cell = "#table [role=gridcell]"
    page.wait_for_selector(f"{cell}:has-text('toucan')")
    cells = [text.strip() for text in page.locator(cell).all_inner_texts()]
    rows = [cells[at : at + 3] for at in range(0, len(cells), 3)]
    found = {row[0]: row[1:] for row in rows}
    assert list(found)[:2] == ["cheetah", "toucan"], rows
    assert float(found["cheetah"][0].rstrip("%")) > 20 and found["cheetah"][1] == "none"
    assert found["toucan"][0] == "not looked for"
    assert found["toucan"][1].startswith("no image of this index looks like 'toucan'")
    captions = page.locator("#word-0 .caption-label").all_inner_texts()
    values = [float(caption) for caption in captions]
    assert len(values) == 4 and values == sorted(values, reverse=True) and values[0] > 0.2
    assert page.locator("#word-1 .map label").inner_text().strip() == "Saliency of toucan"
    for image in page.locator("#answer img").all():
        image.scroll_into_view_if_needed()
        page.wait_for_function("image => image.naturalWidth > 20", arg=image.element_handle())


@browser_test
def test_mistakes_are_sentences_and_the_server_goes_on(visitor, server, tmp_path):
    visitor.press("cheetah")
    assert visitor.trouble().startswith("no photo was given")
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    visitor.upload(tmp_path / "broken.jpg", "#asked .trouble textarea")
    early = visitor.page.input_value("#asked .trouble textarea")
    assert early.startswith("broken.jpg: not a readable image")
    visitor.press("cheetah")
    visitor.page.wait_for_function(
        "document.querySelector('#answer .trouble textarea')?.value.startsWith('broken.jpg')"
    )
    visitor.page.click("#photo button[aria-label='Remove this file'], #photo [aria-label=Clear]")
    visitor.upload(server.photos / "lion.jpg")
    for words, said in [
        (" , ", "no concept was given"),
        ("x" * 500, "at most 200 characters"),
        ("toucan", "no image of this index looks like 'toucan'"),
    ]:
        visitor.press(words)
        visitor.page.wait_for_function(
            "said => document.querySelector('#answer .trouble textarea')?.value.includes(said)",
            arg=said,
            timeout=60_000,
        )
    visitor.press("lion")
    visitor.page.wait_for_selector("#overlay img", timeout=60_000)
    assert not visitor.page.query_selector(".trouble textarea:visible")
    assert "Traceback" not in server.log.read_text()


@browser_test
def test_what_is_typed_is_shown_as_it_was_typed(visitor, server):
    word = "<img src=//evil.example/x.png onerror=alert('xss')> ![](http://evil.example/y.png)"
    visitor.upload(server.photos / "cheetah1.jpg")
    visitor.page.check("#doubtful input")
    visitor.press(f"{word}, cheetah")
    visitor.page.wait_for_selector("#overlay img", timeout=60_000)
    visitor.page.wait_for_selector("#word-1 .archive img")
    assert word in visitor.page.inner_text("#table")
    assert word in visitor.page.inner_text("#word-0")
    assert not visitor.page.query_selector("img[src*=evil]")


@browser_test
def test_two_pages_at_once_both_get_their_answer(chromium, server, visitor):
    other = Visitor(chromium, server)
    for person, photo, word in ((visitor, "cheetah1", "cheetah"), (other, "lion", "lion")):
        person.upload(server.photos / f"{photo}.jpg")
        person.press(word)
    for person, word in ((visitor, "cheetah"), (other, "lion")):
        person.page.wait_for_selector("#overlay img", timeout=60_000)
        person.page.wait_for_selector(f"#word-0 :text('Archive of {word}')")
    other.check()
    other.page.close()


@browser_test
def test_a_photo_that_is_too_large_is_a_sentence(visitor, tmp_path):
    with open(tmp_path / "large.jpg", "wb") as file:
        file.truncate(gate.PHOTO_BYTES + 1)
    visitor.page.set_input_files("#photo input[type=file]", tmp_path / "large.jpg")
    visitor.page.wait_for_selector(":text('exceed the maximum allowed size of 100')")


@pytest.fixture
def stranger(tmp_path):
    """The address of an empty page at another port of this machine."""
    (tmp_path / "index.html").write_text("<title>another page</title>")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}/"
        running.shutdown()


READ = "address => fetch(address).then(found => found.text()).catch(error => 'refused')"
SEND = """async ([address, mode]) => {
    const form = new FormData();
    form.append("files", new Blob(["x"]), "foreign.png");
    await fetch(address, {method: "POST", body: form, mode: mode}).catch(error => null);
}"""
SHOW_PICTURE = """address => new Promise(done => {
    const picture = new Image();
    picture.onload = () => done("shown");
    picture.onerror = () => done("refused");
    picture.src = address;
})"""


@browser_test
def test_a_page_at_another_port_can_neither_read_nor_upload_but_link(
    chromium, server, visitor, stranger
):
    visitor.upload(server.photos / "lion.jpg")
    preview = visitor.page.get_attribute("#preview img", "src")
    page = chromium.new_page()
    page.goto(stranger)
    assert page.evaluate(READ, server.address) == "refused"
    assert page.evaluate(READ, f"{server.address}gradio_api/app_id") == "refused"
    assert page.evaluate(SHOW_PICTURE, preview) == "refused"
    for mode in ("cors", "no-cors"):
        page.evaluate(SEND, [f"{server.address}gradio_api/upload", mode])
    assert not server.files("foreign.png")
    page.set_content(f"<iframe src={server.address}></iframe><a href={server.address}>a page</a>")
    page.wait_for_timeout(500)
    assert not page.frames[1].query_selector("#segment")
    page.click("a")
    page.wait_for_selector("#segment")
    page.close()


@browser_test
def test_it_answers_this_machine_alone_and_gives_no_other_files(server):
    import httpx

    with httpx.Client(trust_env=False) as client:
        assert client.get(server.address).status_code == 200
        assert client.get(server.address, headers={"Host": "evil.example"}).status_code == 400
        for path in ("/etc/hostname", server.folder / "tiny.yaml"):
            assert client.get(f"{server.address}gradio_api/file={path}").status_code == 403
    listening = Path("/proc/net/tcp").read_text() + Path("/proc/net/tcp6").read_text()
    sockets = [line.split() for line in listening.splitlines()]
    port, waiting = f":{server.port:04X}", "0A"  # as the kernel writes them
    places = {found[1] for found in sockets if found[1].endswith(port) and found[3] == waiting}
    assert places == {f"0100007F{port}"}  # 127.0.0.1


@browser_test
def test_a_second_one_on_the_port_is_told_so_in_one_line(server):
    done = subprocess.run(
        server.command, **server.place, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and "--port" in done.stderr


@browser_test
def test_it_ends_at_once_and_leaves_no_file(server, visitor):
    """Last: with a page open."""
    visitor.upload(server.photos / "lion.jpg")
    assert list((server.folder / "temporary").glob("reco-app-*/**/lion.jpg"))
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(timeout=15) == 130
    assert list((server.folder / "temporary").iterdir()) == []
    assert "Traceback" not in server.log.read_text()
