"""Names that people type, and what may come of them in files and shells."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reco.concepts import Concept, check_slugs, parse_concepts, slugify
from reco.errors import RecoError
from reco.method.prompts import sentences

SLUG = r"[a-z0-9]+(?:-[a-z0-9]+)*"


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("zebra", "zebra"),
        ("Fire Truck", "fire-truck"),
        ("crème brûlée", "creme-brulee"),
        ("a/b\\c", "a-b-c"),
        ("it's $(rm -rf ~) `x`; & | > <", "it-s-rm-rf-x"),
        ("../../etc/passwd", "etc-passwd"),
    ],
)
def test_slugs_of_ordinary_and_hostile_names(name, slug):
    assert slugify(name) == slug


@pytest.mark.parametrize(
    "names", [("зебра", "лев"), ("🦓", "🦁"), ("a" * 80, "a" * 81), ("猫", "犬")]
)
def test_names_without_an_ascii_form_stay_different(names):
    slugs = {slugify(name) for name in names}
    assert len(slugs) == 2
    assert all(re.fullmatch(SLUG, slug) and len(slug) <= 60 for slug in slugs)


@given(st.text(min_size=1, max_size=200))
def test_any_text_gives_a_safe_slug(name):
    slug = slugify(name)
    assert re.fullmatch(SLUG, slug)
    assert len(slug) <= 60


def test_sentences_come_from_templates_aliases_and_prompts():
    concept = Concept(name="bus", aliases=["coach"])
    assert sentences(concept, ["a {}.", "the {}."]) == [
        "a bus.",
        "the bus.",
        "a coach.",
        "the coach.",
    ]
    assert sentences(Concept(name="bus", prompts=["city bus"]), ["a {}."]) == ["city bus"]
    assert sentences(Concept(name="{0.__class__}"), ["a {}."]) == ["a {0.__class__}."]


def test_shared_slugs_are_refused():
    with pytest.raises(RecoError, match="fire-truck"):
        check_slugs([Concept(name="fire truck"), Concept(name="Fire-Truck")])
    with pytest.raises(RecoError, match="twice: zebra"):
        check_slugs([Concept(name="zebra"), Concept(name="zebra")])


@given(st.text(min_size=1, max_size=200))
def test_a_slug_is_its_own_slug(name):
    assert slugify(slugify(name)) == slugify(name)


@pytest.mark.parametrize(
    "name",
    ["", "  ", "a\nb", "a\u2028b", "x" * 201, "\u200b", "\ufeff \u00ad", "\ue000", None, 7, b"a"],
)
def test_unusable_names_are_refused(name):
    with pytest.raises(ValueError, match="name"):
        Concept(name=name)
    with pytest.raises(ValueError, match="aliases"):
        Concept(name="bus", aliases=[name] if name != "x" * 201 else [""])


def test_a_joiner_within_a_name_is_no_fault():
    assert Concept(name="नेत्र\u200dका").name and Concept(name="👩\u200d🚒").name


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (None, "a concept is text, not NoneType"),
        (7, "a concept is text, not int"),
        (b"zebra", "a concept is text, not bytes"),
        ([None], "a concept is text, not NoneType"),
        (["zebra", b"bus"], "a concept is text, not bytes"),
        ("zebra, \u200b", "one line of text that can be seen"),
        ("a" * 201, "at most 200"),
        (" , ", "no concept was given"),
        ([], "no concept was given"),
    ],
)
def test_words_that_are_no_concepts(words, message):
    with pytest.raises(RecoError) as error:
        parse_concepts(words)
    assert message in str(error.value) and "\n" not in str(error.value)
