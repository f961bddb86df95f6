"""The page: what it says of a photograph, and a real browser that uses it as a person would."""

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
import torch
import yaml
from conftest import ROOT
from PIL import Image, ImageOps

from reco.app import answer, build, open_photo, table
from reco.cli import commands
from reco.concepts import parse_concepts
from reco.errors import RecoError
from reco.pictures import read_image
from reco.segmentation import Segmentation
from reco.segmenter import Archived, Learned
from reco.sheets import archive_picture, archive_pictures

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
                torch.zeros(1),
                torch.zeros(1),
                self.archive,
                0.5,
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


@pytest.fixture
def archive(tmp_path):
    """Two grey images whose left and right ends are red; the support is larger on the right."""
    pixels = np.full((100, 300, 3), 128, np.uint8)
    pixels[:, :100] = pixels[:, 200:] = (255, 0, 0)
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    support = np.tile(np.linspace(0, 1, 8, dtype=np.float32), (8, 1))
    return tuple(
        Archived(tmp_path / "wide.png", similarity, (0.75, 0.25), support)
        for similarity in (0.912, 0.3)
    )


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
    assert "wide.png: not a readable image" in answer(Fake(archive), photo, "zebra").trouble


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


def test_without_gradio_the_command_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(RecoError, match=r"pip install 'reco\[app\]'"):
        commands(["app"], standalone_mode=False)


def test_a_port_that_is_taken_is_an_error_before_anything_is_loaded(tmp_path, monkeypatch):
    pytest.importorskip("gradio")
    monkeypatch.chdir(tmp_path)  # no experiment here: loading would fail otherwise
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(RecoError, match=f"port {port} of 127.0.0.1: .*--port"):
            commands(["app", "--port", str(port)], standalone_mode=False)


def test_the_page_segments_one_photo_at_a_time_and_sends_no_statistics(archive):
    pytest.importorskip("gradio")
    page = build(Fake(archive))
    renders = [function for function in page.fns.values() if function.name != "look"]
    assert [function.concurrency_limit for function in renders] == [1]
    assert page.analytics_enabled is False


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


class Server:
    """`reco app` as a user starts it, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.photos = folder, folder / "photos"
        write_photographs(self.photos)
        if (ROOT / "data/models").is_dir():  # what takes half a minute to compute
            (folder / "data").mkdir()
            (folder / "data/models").symlink_to(ROOT / "data/models")
        config = {
            "experiment": "tiny",
            "device": "cpu",
            "index": {"kind": "folder", "root": "photos"},
            "benchmark": None,
            "train": None,
            "concepts": ["cheetah"],
            "sizes": {"retrieval": 128, "archive": 128, "benchmark": 128},
            "archive_size": 4,
        }
        (folder / "tiny.yaml").write_text(yaml.safe_dump(config))
        (folder / "temporary").mkdir()
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.address = f"http://127.0.0.1:{self.port}/"
        self.log = folder / "log"
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(self.command, stderr=log, stdout=log, **self.place)

    @property
    def command(self) -> list[str]:
        options = ["--index", "photos", "--config", "tiny.yaml", "--port", str(self.port)]
        return [sys.executable, "-m", "reco.cli", "app", *options]

    @property
    def place(self) -> dict:
        """Folder and environment: as if behind a proxy that does not answer."""
        proxies = dict.fromkeys(["http_proxy", "https_proxy"], "http://127.0.0.1:9")
        temporary = {"TMPDIR": str(self.folder / "temporary")}
        variables = {**os.environ, **proxies, **temporary, "PYTHONPATH": str(ROOT / "src")}
        return {"cwd": self.folder, "env": variables}

    def wait(self, seconds: float = 240) -> None:
        until = time.monotonic() + seconds
        while f"open {self.address[:-1]} " not in self.log.read_text():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < until, self.log.read_text()
            time.sleep(0.2)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    require_chromium()
    started = Server(tmp_path_factory.mktemp("app"))
    try:
        started.wait()
        yield started
    finally:
        started.process.kill()
        started.process.wait()


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
    assert list((server.folder / "temporary").glob("reco-app-*")) == []
    assert "Traceback" not in server.log.read_text()
