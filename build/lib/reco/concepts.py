"""Concepts: what a person types, and the safe name that stands for it in files and jobs."""

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from reco.errors import RecoError
from reco.explain import explain, not_text, shown
from reco.files import fingerprint


def _one_line(text: str) -> str:
    """Text as it is kept, NFC and without blanks around it."""
    text = unicodedata.normalize("NFC", text).strip()
    kinds = {unicodedata.category(character) for character in text}
    if kinds & {"Cc", "Zl", "Zp"} or all(kind[0] in "CZ" for kind in kinds):
        raise ValueError("must be one line of text that can be seen")
    return text


# Strict: else bytes would pass for text.
Name = Annotated[str, Field(strict=True, min_length=1, max_length=200), AfterValidator(_one_line)]
Line = Annotated[str, Field(strict=True, min_length=1), AfterValidator(_one_line)]


class Concept(BaseModel):
    """A name to find and segment; bare text in a config file stands for its name.

    Attributes:
        name: what the concept is called, in tables and figures too.
        aliases: other names of the same thing; their prompts are averaged with the name's.
        prompts: sentences to embed instead of the templates of the language-image model.
        reference: slug of a context concept whose reference embedding it takes over, as the paper
            has vegetation take that of tree; "" = it is co-segmented itself.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Name
    aliases: tuple[Line, ...] = ()
    prompts: tuple[Line, ...] = ()
    reference: str = ""

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: object) -> object:
        return {"name": value} if isinstance(value, str) else value

    @field_validator("reference")
    @classmethod
    def _as_slug(cls, reference: str) -> str:
        return reference and slugify(reference)

    @property
    def slug(self) -> str:
        """The name in [a-z0-9-]: the only form that reaches file names and the shell."""
        return slugify(self.name)


def parse_concepts(words: str | Concept | Iterable[str | Concept]) -> list[Concept]:
    """The concepts that words stand for, in order; what is given twice stands once.

    Args:
        words: names, or text with commas between names.

    Raises:
        RecoError: none, a name that is no text, too long or not one line, or two that would share
            files.
    """
    one = isinstance(words, str | bytes | Concept) or not isinstance(words, Iterable)
    found: dict[str, Concept] = {}
    for word in [words] if one else words:
        for part in word.split(",") if isinstance(word, str) else [word]:
            if isinstance(part, str) and not part.strip():
                continue
            if not isinstance(part, str | Concept):
                raise RecoError(f"a concept is text, not {type(part).__name__}")
            try:
                concept = part if isinstance(part, Concept) else Concept(name=part)
            except ValidationError as error:
                reason = explain(error.errors()[0], Concept).removeprefix("name: ")
                raise RecoError(f"concept {str(part)[:40]!r}...: {reason}") from None
            found.setdefault(concept.name.casefold(), concept)
    if not found:
        raise RecoError('no concept was given: name at least one, as in "zebra, fire truck"')
    concepts = list(found.values())
    check_slugs(concepts)
    return concepts


def check_concepts(entries: object) -> list[Concept]:
    """The concepts of a list in a config or a file, whose entries are names or mappings.

    Raises:
        RecoError: no list, an entry that is no concept, or two that would share files.
    """
    if not isinstance(entries, list | tuple):
        raise RecoError(f"a list of names is wanted, as in [zebra, bus], not {shown(entries)}")
    concepts = [_check_concept(entry, number) for number, entry in enumerate(entries, 1)]
    check_slugs(concepts)
    return concepts


def _check_concept(entry: object, number: int) -> Concept:
    if not isinstance(entry, str | Mapping | Concept):
        raise RecoError(f"concept {number}: {not_text(entry)}")
    try:
        return Concept.model_validate(entry)
    except ValidationError as error:
        raise RecoError(f"concept {number}: {explain(error.errors()[0], Concept)}") from None


def slugify(name: str) -> str:
    """Reduce `name` to lower-case ASCII words joined by hyphens, at most 60 characters.

    Accents are dropped. What has no ASCII form at all (another script, an emoji) and what is cut
    short gets a digest of the whole name, so that different names stay different.
    """
    ascii_name = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    slug = "-".join(re.findall(r"[a-z0-9]+", ascii_name))
    lost = sum(character.isalnum() for character in name) > 2 * len(re.sub("-", "", slug))
    if not slug or lost or len(slug) > 60:
        slug = f"{slug[:48].rstrip('-') or 'concept'}-{fingerprint(name, 8)}"
    return slug


def check_slugs(concepts: Sequence[Concept]) -> None:
    """Raise RecoError where two concepts would share a slug, and so their files."""
    seen: dict[str, str] = {}
    for concept in concepts:
        other = seen.setdefault(concept.slug, concept.name)
        if other != concept.name:
            raise RecoError(
                f"concepts {other!r} and {concept.name!r} both shorten to {concept.slug!r}, which "
                "names their files: rename one, or make one an alias of the other"
            )
    if len(seen) < len(concepts):
        names = [concept.name for concept in concepts]
        twice = sorted({name for name in names if names.count(name) > 1})
        raise RecoError(f"concepts listed twice: {', '.join(twice)}: leave one of each")
