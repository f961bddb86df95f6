"""What the page looks like, in Gradio."""

import os
from types import ModuleType
from typing import TYPE_CHECKING

from reco.errors import RecoError
from reco.photos.page.answer import NONE, Answer, answer, open_photo
from reco.photos.segmenter import Segmenter

if TYPE_CHECKING:
    from gradio import Blocks

PREVIEW = 640  # pixels of the longer side
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


def build(segmenter: Segmenter) -> "Blocks":
    """The page of a segmenter.

    `serve` guards it; served by Gradio's own means, it keeps to Gradio's rules alone. One
    photograph is segmented at a time, whoever asks.

    Raises:
        RecoError: Gradio is not installed.
    """
    gr = load_gradio()
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
    for number, word in enumerate(found.words):
        with gr.Row(elem_id=f"word-{number}"):
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


def load_gradio(folder: str | None = None) -> ModuleType:
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
