"""WordNet's bridge from words to ImageNet's classes: the rule, the table, its files."""

from pathlib import Path

import numpy as np
import pytest

from reco.errors import RecoError
from reco.models import kin, packaged

# Offset: words, what is above it, how ("@" a kind, "@i" an instance). The classes are 10, 11, 20,
# 30 and 5.
SYNSETS = {
    1740: (["entity"], [], ""),
    1930: (["physical_entity"], [1740], "@"),
    2137: (["abstraction"], [1740], "@"),
    7846: (["person"], [1930], "@"),
    5217168: (["human_body"], [1930], "@"),
    2: (["animal", "beast"], [1930], "@"),
    3: (["dog", "domestic_dog"], [2], "@"),
    10: (["poodle"], [3], "@"),
    11: (["hound"], [3, 4], "@"),
    4: (["hunter"], [2], "@"),
    5: (["horse"], [2], "@"),
    6: (["racehorse"], [5], "@"),
    7: (["black_beauty"], [6], "@i"),
    8: (["foal-of-beauty"], [7], "@"),
    20: (["baseball_player"], [7846], "@"),
    21: (["hunter"], [7846], "@"),
    30: (["torso"], [5217168], "@"),
    31: (["dog"], [2137], "@"),
    32: (["dog"], [6], "@"),
}
WORDS = {word for words, _, _ in SYNSETS.values() for word in words}
SENSES = {word: [n for n, (words, _, _) in SYNSETS.items() if word in words] for word in WORDS}
CLASSES = [10, 11, 20, 30, 5]


@pytest.fixture
def wordnet(tmp_path: Path) -> Path:
    """The synsets above in WordNet's own format."""
    data, index = ["  1 A licence, indented.  "], ["  1 A licence, indented.  "]
    for number, (words, above, how) in SYNSETS.items():
        named = " ".join(f"{word} 0" for word in words)
        # pointers to other words, and to verbs, are none to what is above
        pointers = [f"{how} {upper:08d} n 0000" for upper in above]
        pointers = ["~ 00000099 n 0000", *pointers, "+ 00000098 v 0101"]
        joined = f"{len(words):02x} {named} {len(pointers):03d} {' '.join(pointers)}"
        data.append(f"{number:08d} 05 n {joined} | a thing @ 00000002 n; a gloss  ")
    for word, found in sorted(SENSES.items()):
        offsets = " ".join(f"{number:08d}" for number in found)
        index.append(f"{word} n {len(found)} 2 @ ~ {len(found)} 1 {offsets}  ")
    (tmp_path / "data.noun").write_text("\n".join(data) + "\n")
    (tmp_path / "index.noun").write_text("\n".join(index) + "\n")
    return tmp_path


def restated(word: str) -> list[tuple[int, list[int]]]:
    """The rule as the docstring says it, a class at a time."""

    def paths(synset: int) -> list[list[int]]:
        above = SYNSETS[synset][1]
        return [[synset, *path] for up in above for path in paths(up)] or [[synset]]

    def is_below(lower: int, upper: int) -> bool:
        return any(upper in path for path in paths(lower))

    rows = []
    for sense, synset in enumerate(SENSES[word]):
        if not is_below(synset, 1930) or is_below(synset, 7846) or is_below(synset, 5217168):
            continue
        found = [i for i, one in enumerate(CLASSES) if is_below(one, synset)]
        if not found:
            near = {up for path in paths(synset) for up in path[:3]}
            found = [i for i, one in enumerate(CLASSES) if one in near]
        rows += [(sense, found)] if found else []
    return rows


def test_the_table_is_the_rule_restated(wordnet: Path) -> None:
    made = kin.make_kin(*kin.read_nouns(wordnet), CLASSES)
    assert made == {word: rows for word in sorted(WORDS) if (rows := restated(word))}
    assert made["dog"] == [(0, [0, 1]), (2, [4])]  # kinds of dogs; a race horse's kin is above it
    assert made["black_beauty"] == [(0, [4])]
    assert made["hunter"] == [(0, [1])]  # not the person
    for word in ("foal-of-beauty", "person", "baseball_player", "torso", "abstraction"):
        assert word not in made


def test_the_table_comes_back_as_it_was_written(
    wordnet: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = kin.make_kin(*kin.read_nouns(wordnet), CLASSES)
    kin.write_kin(wordnet / kin.TABLE, made)
    monkeypatch.setattr(kin, "TABLE_SHA256", kin.sha256(wordnet / kin.TABLE))
    monkeypatch.setattr(kin.resources, "files", lambda package: wordnet)
    assert kin.read_kin.__wrapped__() == made


def test_other_files_are_not_wordnet(wordnet: Path) -> None:
    with pytest.raises(RecoError, match=r"data\.noun: not the file with SHA-256"):
        kin.main(str(wordnet))
    (wordnet / "index.noun").unlink()
    with pytest.raises(RecoError, match=r"index\.noun: no such file"):
        kin.main(str(wordnet))


@pytest.mark.parametrize("content", [None, b"", b"lemma,sense,classes\ndog,0,1\n"])
def test_a_damaged_table_is_one_sentence(
    content: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if content is not None:
        (tmp_path / kin.TABLE).write_bytes(content)
    monkeypatch.setattr(kin.resources, "files", lambda package: tmp_path)
    with pytest.raises(RecoError, match=r"kin\.csv: (missing|damaged).*: install reco again$"):
        kin.read_kin.__wrapped__()


# ---- the table that comes with the package ----------------------------------------------------


def test_the_table_has_words_and_classes_that_there_are() -> None:
    table = kin.read_kin()
    assert len(table) == 5464 and list(table) == sorted(table)
    for rows in table.values():
        senses = [sense for sense, _ in rows]
        assert senses == sorted(set(senses))
        for _, classes in rows:
            assert classes and classes == sorted(set(classes))
            assert 0 <= classes[0] and classes[-1] < 1000
    licence = Path(kin.__file__).with_name("WORDNET_LICENSE").read_text()
    assert "WordNet 3.0 Copyright 2006 by Princeton University." in licence


@pytest.mark.parametrize(
    "text, name, value",
    [
        ("dog", "Chihuahua", 0.2),
        ("bus", "minibus", 0.2),
        ("omnibus", "trolleybus", 0.15),  # first of all a book
        ("owl", "great grey owl", 0.2),
        ("foxes", "red fox", 0.2),
        ("buses", "school bus", 0.2),
        ("Great  White Shark", "great white shark", 0.2),
        ("sea lions", "sea lion", 0.2),
        ("sea-lion", "sea lion", 0.2),
        ("sail boat", "trimaran", 0.2),
        ("stallion", "sorrel", 0.0),  # brothers under horse
        ("woodlouse", "isopod", 0.2),  # above it
        ("cow", "ox", 0.0),
    ],
)
def test_kin_bonus(text: str, name: str, value: float) -> None:
    names = [group[0] for group in packaged.imagenet_names()]
    bonus = kin.kin_bonus(text)
    assert bonus.shape == (1000,) and bonus.dtype == np.float32
    assert bonus[names.index(name)] == pytest.approx(value)


def test_kinds_are_all_of_them_and_nothing_else() -> None:
    assert np.flatnonzero(kin.kin_bonus("dog")).tolist() == list(range(151, 269))
    assert np.flatnonzero(kin.kin_bonus("foxes")).tolist() == list(range(277, 281))


@pytest.mark.parametrize("text", ["person", "chef", "xqzt", "", "???", "love", "gas", "a" * 5000])
def test_words_without_kin(text: str) -> None:
    assert not kin.kin_bonus(text).any()


def test_a_mixture_goes_to_kin(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing else is known, as here, a word's kinds share all of it."""
    monkeypatch.setattr(packaged, "embed_sentences", lambda texts: np.zeros((len(texts), 384)))
    found = packaged.class_mixture(["canine", "xqzt", "foxes"], np.zeros((1000, 384)))
    assert found.shape == (3, 1000) and found.dtype == np.float32
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)
    assert found[0, 151:269].min() > 10 * found[0, 300]
    np.testing.assert_allclose(found[1], 1e-3, atol=1e-6)
    assert set(found[2].argsort()[-4:]) == {277, 278, 279, 280}
