"""Kin: the ImageNet classes that WordNet puts under a word, or that it puts the word under.

ImageNet's classes are noun senses of WordNet 3.0 (Miller, 1995, WordNet: a lexical database for
English), so WordNet itself says which of them are dogs or buses, that an omnibus is a bus, and that
a woodlouse is an isopod. `reco.models.packaged` adds what this module gives to the similarity of a
text and a class. The rule:

* A word is looked up as a whole among those that have kin, first as it is, then in the singular.
* Of its senses those count that are physical things, and neither persons nor the human body, which
  ImageNet hardly has: a "chef" would be sent to the scuba diver.
* A sense has as kin the classes at or below it. If there is none, those at most two steps
  (hypernyms) above it.
* Kin of the first sense get 0.2, of the next 0.15, 0.1, 0.05 and nothing, since WordNet lists
  common senses first; a class that is kin of several senses gets the most. docs/model_card.md has
  what this gains.

WordNet itself is not needed: `kin.csv` (170 kB, 5,464 words) has what follows from it, under the
licence in `WORDNET_LICENSE`. It was made from Debian's package wordnet-base 1:3.0-37
(wordnet-base_3.0-37_all.deb, SHA-256
61060d960f9ada8fa120872312eccd3ecebfbab8c4579e4f5a74e1cf67620752), whose data.noun and index.noun
are known by `SOURCES`, and can be made again:

    apt-get download wordnet-base && dpkg-deb -x wordnet-base_*.deb wordnet
    python -m reco.models.kin wordnet/usr/share/wordnet
"""

import csv
import hashlib
import io
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib import resources
from pathlib import Path

import numpy as np

from reco.data.imagenet import read_classes
from reco.errors import RecoError
from reco.files import read_text, sha256, write_text

TABLE = "kin.csv"
TABLE_SHA256 = "f71d805e71b90efbd615f26b9413e6d610fec795d82003cd4addfad492e86306"
"""Of kin.csv, so that whatever covers this module's text covers the table."""

SOURCES = {
    "data.noun": "fea17d2f9656611334eac790e5d69e47645fa180c4aa481fb4cd9b3520754ca2",
    "index.noun": "a490d99d93d017bf4822fe2f0ffa51fd73911ce271dc7535fade21f8814b5a04",
}
"""SHA-256 of WordNet's files."""

PHYSICAL = 1930  # offset of the synset "physical_entity" in data.noun
LEFT_OUT = (7846, 5217168)  # person; human body
ABOVE = 2  # steps

FIRST, STEP = 0.2, 0.05
CLASSES = 1000

# Plural endings and what they stand for: those of WordNet's own Morphy, and tomatoes.
ENDINGS = {
    **{"s": "", "ses": "s", "xes": "x", "zes": "z"},
    **{"ches": "ch", "shes": "sh", "ies": "y", "oes": "o"},
}

Kin = dict[str, list[tuple[int, list[int]]]]
"""Senses of a word that have kin: the number of the sense, from 0, and its classes, ascending."""


def kin_bonus(text: str) -> np.ndarray:
    """What is added to the similarity of a text and each class; zeros for a word without kin.

    Args:
        text: a name; case, and whether its parts are joined by spaces, hyphens or nothing, do not
            matter.

    Returns:
        (1000,) float32, 0 to 0.2.

    Raises:
        RecoError: the table is missing or damaged.
    """
    kin, bonus = read_kin(), np.zeros(CLASSES, np.float32)
    found = next((kin[form] for form in forms(text) if form in kin), [])
    for sense, classes in found:
        bonus[classes] = np.maximum(bonus[classes], FIRST - STEP * sense)
    return bonus


def forms(text: str) -> Iterator[str]:
    """How WordNet may write a name: first as it is, then in the singular; as a_b, a-b, ab."""
    name = "_".join(text.lower().split())
    yield from _joined(name)
    for plural, singular in ENDINGS.items():
        stem = name.removesuffix(plural) + singular
        if name.endswith(plural) and len(stem) > 2:  # "gas" and "bus" are no plurals
            yield from _joined(stem)


def _joined(name: str) -> Iterator[str]:
    yield from (name, name.replace("_", "-"), name.replace("_", ""), name.replace("-", "_"))


@cache
def read_kin() -> Kin:
    """The table `kin.csv` that comes with this module.

    Raises:
        RecoError: it is missing, or not the one known by SHA-256.
    """
    path = resources.files("reco.models") / TABLE
    try:
        content = path.read_bytes()
    except OSError:
        raise RecoError(f"{path}: missing: install reco again") from None
    if hashlib.sha256(content).hexdigest() != TABLE_SHA256:
        raise RecoError(f"{path}: damaged: its SHA-256 is not {TABLE_SHA256}: install reco again")
    kin: Kin = {}
    for row in csv.DictReader(io.StringIO(content.decode())):
        classes = [int(number) for number in row["classes"].split()]
        kin.setdefault(row["lemma"], []).append((int(row["sense"]), classes))
    return kin


# ---- how the table is made --------------------------------------------------------------------


def make_kin(
    hypernyms: Mapping[int, Sequence[int]],
    senses: Mapping[str, Sequence[int]],
    classes: Sequence[int],
) -> Kin:
    """Kin of every word that has any, by the rule above.

    Args:
        hypernyms: of each synset, by offset; an instance's class is one.
        senses: synsets of each word, common ones first.
        classes: synset of each class.
    """
    number = {synset: i for i, synset in enumerate(classes)}
    below = defaultdict(list)
    for synset in classes:
        for ancestor in steps_up(synset, hypernyms):
            below[ancestor].append(number[synset])
    kin: Kin = {}
    for lemma in sorted(senses):
        for sense, synset in enumerate(senses[lemma]):
            steps = steps_up(synset, hypernyms)
            if PHYSICAL not in steps or any(synset in steps for synset in LEFT_OUT):
                continue
            near = [number[up] for up, far in steps.items() if far <= ABOVE and up in number]
            if found := below.get(synset) or sorted(near):
                kin.setdefault(lemma, []).append((sense, found))
    return kin


def steps_up(synset: int, hypernyms: Mapping[int, Sequence[int]]) -> dict[int, int]:
    """Fewest steps from a synset to itself (0) and to everything above it."""
    steps, queue = {synset: 0}, [synset]
    for lower in queue:
        for upper in hypernyms[lower]:
            if upper not in steps:
                steps[upper] = steps[lower] + 1
                queue.append(upper)
    return steps


def read_nouns(folder: str | Path) -> tuple[dict[int, list[int]], dict[str, list[int]]]:
    """Hypernyms and senses out of WordNet's data.noun and index.noun, as `make_kin` takes them.

    The formats are described in WordNet's wndb(5). The licence at their head is indented.

    Raises:
        RecoError: a file cannot be read.
    """
    hypernyms, senses = {}, {}
    for line in _lines(Path(folder, "data.noun")):
        # offset file type words(hex) (word id)... pointers (symbol offset part source/target)...
        fields = line.partition("|")[0].split()
        pointers = fields[4 + 2 * int(fields[3], 16) + 1 :]
        hypernyms[int(fields[0])] = [
            int(upper)
            for symbol, upper in zip(pointers[::4], pointers[1::4], strict=True)
            if symbol in ("@", "@i")
        ]
    for line in _lines(Path(folder, "index.noun")):
        # lemma type senses ... offset...
        fields = line.split()
        senses[fields[0]] = [int(synset) for synset in fields[-int(fields[2]) :]]
    return hypernyms, senses


def _lines(path: Path) -> Iterator[str]:
    return (line for line in read_text(path).splitlines() if not line.startswith(" "))


def imagenet_synsets() -> list[int]:
    """The offset in data.noun of each of the 1,000 classes."""
    return [int(entry.wnid.removeprefix("n")) for entry in read_classes()]


def write_kin(path: str | Path, kin: Kin) -> None:
    """Write a table: a row for each sense, its classes as numbers with spaces between."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["lemma", "sense", "classes"])
    for lemma, found in kin.items():
        writer.writerows([lemma, sense, " ".join(map(str, classes))] for sense, classes in found)
    write_text(path, text.getvalue())


def main(folder: str) -> None:
    """Make `kin.csv` beside this module again, out of WordNet's files in a folder.

    Raises:
        RecoError: they are missing, or not those known by SHA-256.
    """
    nouns = read_nouns(folder)
    for name, wanted in SOURCES.items():
        if sha256(Path(folder, name)) != wanted:
            raise RecoError(f"{folder}/{name}: not the file with SHA-256 {wanted}")
    path = Path(__file__).with_name(TABLE)
    write_kin(path, make_kin(*nouns, imagenet_synsets()))
    print(f"{sha256(path)}  {path}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m reco.models.kin <folder with data.noun and index.noun>")
    try:
        main(sys.argv[1])
    except RecoError as error:
        sys.exit(f"error: {error}")
