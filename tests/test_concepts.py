"""Names that people type, and what may come of them in files and shells."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reco.concepts import SLUG, Concept, check_slugs, slugify
from reco.errors import RecoError


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
    assert concept.sentences(["a {}.", "the {}."]) == [
        "a bus.",
        "the bus.",
        "a coach.",
        "the coach.",
    ]
    assert Concept(name="bus", prompts=["city bus"]).sentences(["a {}."]) == ["city bus"]
    assert Concept(name="{0.__class__}").sentences(["a {}."]) == ["a {0.__class__}."]


def test_shared_slugs_are_refused():
    with pytest.raises(RecoError, match="fire-truck"):
        check_slugs([Concept(name="fire truck"), Concept(name="Fire-Truck")])
    with pytest.raises(RecoError, match="twice: zebra"):
        check_slugs([Concept(name="zebra"), Concept(name="zebra")])


@pytest.mark.parametrize("name", ["", "  ", "a\nb", "x" * 201])
def test_unusable_names_are_refused(name):
    with pytest.raises(ValueError, match="name"):
        Concept(name=name)
