"""A page to play with: a photograph and words in; the masks and what they come from out.

It is served to this machine alone and fetches nothing from any other. What a person typed or
uploaded goes through `Segmenter` and `read_image` like anything else, and is shown as plain text.
Others on this machine can open it, too, and so can any web page try to: Gradio, which knows how to
read files and addresses that it is told of, gets only requests that have passed `Gate`.
"""

import os
import signal
import socket
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Literal

from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from reco.data.images import read_image
from reco.errors import RecoError
from reco.photos.segmenter import Learned, Segmenter, load
from reco.photos.sheets import archive_pictures
from reco.progress import LOG

if TYPE_CHECKING:
    from gradio import Blocks
    from starlette.datastructures import Headers
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

HOST = "127.0.0.1"
NAMES = [HOST, "localhost"]  # a page of another name may not talk to this one through the browser
POLICY = (  # browsers keep to it: no other host is asked, no other page may frame this one
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; form-action 'self'; "
    "frame-ancestors 'none'"
)
PHOTO_BYTES = 100 * 2**20  # of an uploaded file
WORDS_LENGTH = 2000  # characters of all words
FORM_BYTES = 100_000  # of a request, besides a photograph
PREVIEW = 640  # pixels of the longer side
NONE = "none of these"
HEADERS = ["word", "share of pixels", "doubt"]
TITLE = "ReCo: words in, masks out"
INTRO = (
    f"# {TITLE}\nReCo looks up photographs of each word in an index without labels, finds what "
    "they have in common, and finds that in your photograph. Nothing leaves this machine."
)
HINT = (
    "Below: where each word may be, and the photographs it was learned from, the nearest first, "
    "with the similarity of photograph and word. Yellow: what they have in common. Circle: the "
    "seed; the mean of all seeds stands for the word."
)
FONTS = ["system-ui", "sans-serif"]  # those of the machine
CSS = """
.trouble textarea { font-weight: 600; }
#asked { position: sticky; top: 1rem; align-self: flex-start; }
.archive .grid-wrap { padding-top: 1.6rem; max-height: none; }
"""


@dataclass(frozen=True)
class Shown:
    """What the page shows of one word.

    Attributes:
        name: the word.
        map: its saliency over the photograph; None where nothing was segmented.
        archive: the images it was learned from, as squares with seed and support, and a caption.
    """

    name: str
    map: Image.Image | None
    archive: list[tuple[Image.Image, str]]


@dataclass(frozen=True)
class Answer:
    """What the page shows once the button was pressed.

    Attributes:
        trouble: why there is no overlay, or "".
        overlay: the photograph in colour, with a legend.
        table: word, share of the pixels and doubt, as text; below, what is none of the words.
        words: what there is to see of every word; a word in doubt has an archive, too.
    """

    trouble: str
    overlay: Image.Image | None
    table: list[tuple[str, str, str]]
    words: list[Shown]


def answer(
    segmenter: Segmenter,
    photo: str | None,
    words: str,
    *,
    background: bool = True,
    doubtful: bool = False,
) -> Answer:
    """Segment an uploaded photograph; what a person can mend becomes `trouble`, no error.

    Args:
        photo: path of the file; None = none was uploaded.
        words: text with commas between the words.
        background, doubtful: see `Segmenter.segment`.
    """
    learned: list[Learned] = []
    try:
        picture = open_photo(photo)
        if len(words) > WORDS_LENGTH:
            raise RecoError(f"words of {len(words)} characters: at most {WORDS_LENGTH} in all")
        learned = segmenter.learn(words)
        archives = [archive_pictures(item.archive) for item in learned]
        if not doubtful and all(item.doubt for item in learned):
            shown = [
                Shown(item.concept.name, None, archive)
                for item, archive in zip(learned, archives, strict=True)
            ]
            return Answer("\n".join(item.doubt for item in learned), None, [], shown)
        found = segmenter.segment(picture, words, background=background, doubtful=doubtful)
        shown = [
            Shown(name, found.map_picture(name), archive)
            for name, archive in zip(found.names, archives, strict=True)
        ]
        return Answer("", found.overlay(), table(found.shares, found.remarks, doubtful), shown)
    except RecoError as error:
        return Answer(str(error), None, [], [])


def open_photo(photo: str | None) -> Image.Image:
    """An uploaded photograph, decoded as everywhere.

    Raises:
        RecoError: there is none, or it is no image; the message has the file's name alone.
    """
    if not photo:
        raise RecoError("no photo was given: drop one into the box")
    try:
        return read_image(photo)
    except RecoError as error:
        raise RecoError(str(error).replace(f"{Path(photo).parent}{os.sep}", "")) from None


def table(
    shares: dict[str, float], remarks: dict[str, str], doubtful: bool
) -> list[tuple[str, str, str]]:
    """Rows of HEADERS, as text."""
    rows = [
        (
            name,
            "not looked for" if name in remarks and not doubtful else f"{share:.1%}",
            remarks.get(name, "none"),
        )
        for name, share in shares.items()
    ]
    rest = 1 - sum(shares.values())
    return [*rows, (NONE, f"{rest:.1%}", "")] if rest > 1e-9 else rows


# ---- the page ---------------------------------------------------------------------------------


def build(segmenter: Segmenter) -> "Blocks":
    """The page of a segmenter.

    `serve` guards it; served by Gradio's own means, it keeps to Gradio's rules alone. One
    photograph is segmented at a time, whoever asks.

    Raises:
        RecoError: Gradio is not installed.
    """
    gr = _gradio()
    with gr.Blocks(title=TITLE, analytics_enabled=False, fill_width=True) as page:
        gr.Markdown(INTRO)
        with gr.Row():
            with gr.Column(scale=1, min_width=280, elem_id="asked"):
                # Not gr.Image: it would decode the file itself, and fail its own way.
                photo = gr.File(label="Photo", height=140, elem_id="photo")
                preview = gr.Image(
                    label="As ReCo sees it",
                    visible=False,
                    height=260,
                    buttons=[],
                    elem_id="preview",
                )
                unread = _trouble(gr, "", visible=False)
                words = gr.Textbox(
                    label="Words, with commas between them",
                    placeholder="zebra, fire truck",
                    elem_id="words",
                )
                background = gr.Checkbox(True, label=f"a pixel may be {NONE}", elem_id="background")
                doubtful = gr.Checkbox(
                    False, label="look for words in doubt, too", elem_id="doubtful"
                )
                button = gr.Button("Segment", variant="primary", elem_id="segment")
            with gr.Column(scale=3, min_width=320, elem_id="answer"):

                @gr.render(
                    inputs=[photo, words, background, doubtful],
                    triggers=[button.click, words.submit],
                    trigger_mode="always_last",
                    concurrency_limit=1,
                )
                def show(photo: str | None, words: str, background: bool, doubtful: bool) -> None:
                    _show(
                        gr,
                        answer(segmenter, photo, words, background=background, doubtful=doubtful),
                    )

        def look(photo: str | None) -> tuple[dict, dict]:
            try:
                picture = open_photo(photo) if photo else None
                if picture:
                    picture.thumbnail((PREVIEW, PREVIEW))
            except RecoError as error:
                return gr.update(visible=False), gr.update(value=str(error), visible=True)
            return gr.update(value=picture, visible=bool(photo)), gr.update(visible=False)

        photo.change(look, photo, [preview, unread], api_visibility="private")
    return page


def _show(gr: ModuleType, found: Answer) -> None:
    """Lay out an answer.

    Every answer has the same parts in the same order, those that it lacks unseen: Gradio's script
    gives a part the place, and for a moment the value, of the one that was there before, and stops
    where their kinds differ.
    """
    some = found.overlay is not None
    _trouble(gr, found.trouble, visible=bool(found.trouble))
    with gr.Row(visible=some):
        gr.Image(
            found.overlay,
            label="Found",
            format="png",
            height=400,
            scale=1,
            min_width=320,
            buttons=["download", "fullscreen"],
            elem_id="overlay",
        )
        with gr.Column(scale=1, min_width=320):
            gr.Dataframe(
                [list(row) for row in found.table],
                headers=HEADERS,
                datatype="str",
                interactive=False,
                wrap=True,
                column_widths=["24%", "22%", "54%"],
                buttons=[],
                elem_id="table",
            )
            gr.Markdown(HINT)
    for place, word in enumerate(found.words):
        with gr.Row(elem_id=f"word-{place}"):
            gr.Image(
                word.map,
                label=f"Saliency of {word.name}",
                visible=word.map is not None,
                scale=1,
                min_width=200,
                buttons=["fullscreen"],
                elem_classes="map",
            )
            gr.Gallery(
                word.archive,
                label=f"Archive of {word.name}",
                scale=3,
                columns=6,
                interactive=False,
                buttons=["fullscreen"],
                elem_classes="archive",
            )


def _trouble(gr: ModuleType, text: str, *, visible: bool) -> object:
    """A sentence in a field of text: nothing in it is taken for HTML or Markdown."""
    return gr.Textbox(
        text,
        label="That did not work",
        interactive=False,
        visible=visible,
        lines=1,
        max_lines=8,
        elem_classes="trouble",
    )


# ---- what the page may be asked ---------------------------------------------------------------

API = "/gradio_api/"
FILE, UPLOAD, JOIN = f"{API}file=", f"{API}upload", f"{API}queue/join"
READ = {"/", "/favicon.ico", "/manifest.json", "/theme.css"} | {
    f"{API}{name}" for name in ("app_id", "queue/data", "upload_progress")
}
READ_BELOW = ("/assets/", "/static/")  # files of Gradio's package


class Photo(BaseModel):
    """An uploaded file, as the page names it. Its address is left out: it might be fetched."""

    path: str
    meta: Annotated[dict[Literal["_type"], Literal["gradio.FileData"]], Field(min_length=1)]


class Asked(BaseModel):
    """What the page sends once something in it was pressed or changed."""

    model_config = ConfigDict(strict=True)

    data: tuple[Photo | None] | tuple[Photo | None, str, bool, bool]
    fn_index: int
    trigger_id: int | None = None
    session_hash: Annotated[str, Field(max_length=100)]


class RefusedError(Exception):
    """Status and sentence that answer a request which the page does not make."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class Gate:
    """ASGI middleware that lets through what the page itself asks for, and nothing else.

    Args:
        app: what is behind it.
        folder: holds what was uploaded or drawn; no other file is read or shown.
        inputs: how many values each function of the page takes, by its number.
    """

    def __init__(self, app: "ASGIApp", folder: Path, inputs: dict[int, int]) -> None:
        self.app, self.folder, self.inputs = app, folder.resolve(), inputs

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        from starlette.responses import JSONResponse

        try:
            passed = await self._check(scope, receive) if scope["type"] == "http" else receive
        except RefusedError as refused:
            await JSONResponse({"detail": str(refused)}, refused.status)(scope, receive, send)
        else:
            await self.app(scope, passed, send)

    async def _check(self, scope: "Scope", receive: "Receive") -> "Receive":
        """What gives the body of a request to those behind.

        Raises:
            RefusedError: the page would not ask this.
        """
        from starlette.datastructures import Headers
        from starlette.formparsers import MultiPartException

        method, path = scope["method"], scope["path"]
        if is_foreign(method, Headers(scope=scope)):
            raise RefusedError(403, "this page answers no other page")
        if method in ("GET", "HEAD"):
            shown = path.startswith(FILE) and self._holds(path.removeprefix(FILE))
            if shown or path in READ or path.startswith(READ_BELOW):
                return receive
        if method == "POST" and path == UPLOAD:
            # Gradio counts the bytes of each file, but not those of all. This error is one that it
            # expects: it takes away what it has written.
            most = f"more than the maximum allowed size of {PHOTO_BYTES} bytes"
            return bounded(receive, PHOTO_BYTES + FORM_BYTES, MultiPartException(most))
        if method == "POST" and path == JOIN:
            long = RefusedError(413, f"too many words: at most {WORDS_LENGTH} characters in all")
            return replayed(self._asked(await body(bounded(receive, FORM_BYTES, long))), receive)
        raise RefusedError(403, "this page has no such place, or no such file")

    def _asked(self, text: bytes) -> bytes:
        """The same written anew, so that nobody reads in it what was not checked here."""
        try:
            asked = Asked.model_validate_json(text)
        except ValidationError:
            raise RefusedError(400, "this page does not ask that") from None
        if self.inputs.get(asked.fn_index) != len(asked.data):
            raise RefusedError(400, "this page has no such function")
        photo = asked.data[0]
        if photo and not self._holds(photo.path):
            raise RefusedError(400, "no such photo was uploaded: drop it into the box again")
        return asked.model_dump_json().encode()

    def _holds(self, path: str) -> bool:
        """Whether a file was uploaded or drawn. Of others, not even whether they exist is told."""
        try:
            found = Path(path).resolve()
            return found.is_relative_to(self.folder) and found.is_file()
        except (OSError, ValueError):  # names that no file can have
            return False


def is_foreign(method: str, headers: "Headers") -> bool:
    """Whether a browser asks in the name of another page, other than by following a link to ours.

    A page at another port of this machine is another page. What sends neither header is no browser
    that uploads, or reads, for a page.
    """
    origin = headers.get("origin")
    if origin is not None:
        return origin != f"http://{headers.get('host')}"
    followed = method in ("GET", "HEAD") and headers.get("sec-fetch-dest") == "document"
    return headers.get("sec-fetch-site", "none") not in ("none", "same-origin") and not followed


def bounded(receive: "Receive", most: int, error: Exception) -> "Receive":
    """A body that ends with an error once it has more bytes, whatever its headers say."""
    count = 0

    async def counted() -> "Message":
        nonlocal count
        message = await receive()
        count += len(message.get("body", b""))
        if count > most:
            raise error
        return message

    return counted


async def body(receive: "Receive") -> bytes:
    """All of a body; less where the client is gone."""
    found, more = b"", True
    while more:
        message = await receive()
        found, more = found + message.get("body", b""), message.get("more_body", False)
    return found


def replayed(text: bytes, receive: "Receive") -> "Receive":
    """A body that was read already, and then whatever comes after it."""
    waiting = [text]

    async def replay() -> "Message":
        if waiting:
            return {"type": "http.request", "body": waiting.pop(), "more_body": False}
        return await receive()

    return replay


def serve(
    experiment: str = "stamps",
    *,
    index: Path | None = None,
    config: Path | None = None,
    port: int = 7860,
) -> None:
    """Serve the page at http://127.0.0.1:<port> until Ctrl-C.

    What is uploaded or drawn lies in a temporary folder, which goes when this ends.

    Args:
        experiment, index, config: see `reco.load`.

    Raises:
        RecoError: Gradio is not installed, the port is taken, or what `reco.load` raises.
    """
    with TemporaryDirectory(prefix="reco-app-") as folder:
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends like Ctrl-C
        if signal.getsignal(signal.SIGHUP) == signal.SIG_DFL:  # a closed terminal; not with nohup
            signal.signal(signal.SIGHUP, lambda *_: signal.raise_signal(signal.SIGTERM))
        _gradio(folder)
        import uvicorn

        with _listen(port) as listener:
            page = build(load(experiment, index=index, config=config))
            settings = uvicorn.Config(
                _guarded(page, Path(folder), port),
                ws="none",
                log_level="warning",
                timeout_graceful_shutdown=1,  # open pages hold connections for ever
                headers=[
                    ("Content-Security-Policy", POLICY),
                    ("X-Content-Type-Options", "nosniff"),
                ],
            )
            LOG.info("open http://%s:%d in a browser; Ctrl-C ends it", HOST, port)
            uvicorn.Server(settings).run(sockets=[listener])


def _guarded(page: "Blocks", folder: Path, port: int) -> "ASGIApp":
    """The page as a web application that reads files of `folder` alone."""
    gr = _gradio()
    from fastapi import FastAPI
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    outer = FastAPI(openapi_url=None)
    inputs = {number: len(function.inputs) for number, function in page.fns.items()}
    outer.add_middleware(Gate, folder=folder, inputs=inputs)
    outer.add_middleware(TrustedHostMiddleware, allowed_hosts=NAMES)  # added last: asked first
    # Not page.launch(): it knows how to open tunnels, and goes through proxies to itself.
    gr.mount_gradio_app(
        outer,
        page,
        path="/",
        server_name=HOST,
        server_port=port,
        root_path="",
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        mcp_server=False,
        enable_monitoring=False,
        max_file_size=PHOTO_BYTES,
        theme=gr.themes.Default(font=FONTS, font_mono=FONTS),
        css=CSS,
    )
    page.has_launched = True  # else Gradio takes every file for one of the page's own
    return outer


def _listen(port: int) -> socket.socket:
    try:
        return socket.create_server((HOST, port))
    except OSError as error:
        raise RecoError(
            f"port {port} of {HOST}: {os.strerror(error.errno or 0)}: end what uses it, or name "
            "another with --port"
        ) from None


def _gradio(folder: str | None = None) -> ModuleType:
    """Gradio, told before it is imported to keep quiet, and its files in `folder`."""
    if folder:
        os.environ["GRADIO_TEMP_DIR"] = os.environ["GRADIO_EXAMPLES_CACHE"] = folder
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    try:
        import gradio
    except ImportError:
        raise RecoError(
            "app: the package gradio is not installed: pip install 'reco[app]'"
        ) from None
    return gradio
