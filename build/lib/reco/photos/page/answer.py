"""What the page answers: a photograph and words in; masks and what they come from out."""

import os
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from reco.data.images import read_image
from reco.errors import RecoError
from reco.photos.learned import Learned
from reco.photos.segmenter import Segmenter
from reco.photos.sheets import archive_pictures

WORDS_LENGTH = 2000  # characters of all words
NONE = "none of these"


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
    """Rows of word, share of pixels and doubt, as text; below, what is none of the words."""
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
