"""A page to play with: a photograph and words in; the masks and what they come from out.

It is served to this machine alone and fetches nothing from any other. What a person typed or
uploaded goes through `Segmenter` and `read_image` like anything else, and is shown as plain text.
"""

import os
import signal
import socket
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import TYPE_CHECKING

from PIL import Image

from reco.errors import RecoError
from reco.pictures import read_image
from reco.progress import LOG
from reco.segmenter import Learned, Segmenter, load
from reco.sheets import archive_pictures

if TYPE_CHECKING:
    from gradio import Blocks

HOST = "127.0.0.1"
NAMES = [HOST, "localhost"]  # a page of another name may not talk to this one through the browser
POLICY = "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:"  # browsers keep to it
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
    """The page of a segmenter, to be served with `serve` or by Gradio's own means.

    One photograph is segmented at a time, whoever asks.

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
    gr = _gradio()
    import uvicorn
    from fastapi import FastAPI
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    with _listen(port) as listener, TemporaryDirectory(prefix="reco-app-") as folder:
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends like Ctrl-C
        os.environ["GRADIO_TEMP_DIR"] = folder
        page = build(load(experiment, index=index, config=config))
        outer = FastAPI(openapi_url=None)
        outer.add_middleware(TrustedHostMiddleware, allowed_hosts=NAMES)
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
            theme=gr.themes.Default(font=FONTS, font_mono=FONTS),
            css=CSS,
        )
        settings = uvicorn.Config(
            outer,
            log_level="warning",
            timeout_graceful_shutdown=1,  # open pages hold connections for ever
            headers=[("Content-Security-Policy", POLICY)],
        )
        LOG.info("open http://%s:%d in a browser; Ctrl-C ends it", HOST, port)
        uvicorn.Server(settings).run(sockets=[listener])


def _listen(port: int) -> socket.socket:
    try:
        return socket.create_server((HOST, port))
    except OSError as error:
        raise RecoError(
            f"port {port} of {HOST}: {os.strerror(error.errno or 0)}: end what uses it, or name "
            "another with --port"
        ) from None


def _gradio() -> ModuleType:
    """Gradio, told to keep quiet before it is imported."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    try:
        import gradio
    except ImportError:
        raise RecoError(
            "app: the package gradio is not installed: pip install 'reco[app]'"
        ) from None
    return gradio
