"""Concepts: what a person types, and the safe name that stands for it in files and jobs."""

import re
import unicodedata
from collections.abc import Iterable, Sequence

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from reco.errors import RecoError
from reco.files import fingerprint
from reco.prompts import concept_prompts

SLUG = r"[a-z0-9]+(?:-[a-z0-9]+)*"


class Concept(BaseModel):
    """A name to find and segment; a bare string in a config file stands for its name.

    Attributes:
        name: what the concept is called, in tables and figures too.
        aliases: other names of the same thing; their prompts are averaged with the name's.
        prompts: sentences to embed instead of the templates of the language-image model.
        reference: slug of a context concept whose reference embedding it takes over, as the paper
            has vegetation take that of tree; "" = it is co-segmented itself.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1, max_length=200)
    aliases: tuple[str, ...] = ()
    prompts: tuple[str, ...] = ()
    reference: str = ""

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: object) -> object:
        return {"name": value} if isinstance(value, str) else value

    @field_validator("name")
    @classmethod
    def _one_line(cls, name: str) -> str:
        name = unicodedata.normalize("NFC", name).strip()
        if not name or any(unicodedata.category(character) == "Cc" for character in name):
            raise ValueError("a concept's name is one line of text and not blank")
        return name

    @property
    def slug(self) -> str:
        """The name in [a-z0-9-]: the only form that reaches file names and the shell."""
        return slugify(self.name)

    def sentences(self, templates: Sequence[str]) -> list[str]:
        """The texts to embed: `prompts` if given, else every template filled with every name."""
        return list(self.prompts) or concept_prompts((self.name, *self.aliases), templates)


def parse_concepts(words: str | Concept | Iterable[str | Concept]) -> list[Concept]:
    """The concepts that words stand for, in order; what is given twice stands once.

    Args:
        words: names, or text with commas between names.

    Raises:
        RecoError: none, a name that is too long or not one line, or two that would share files.
    """
    given = [words] if isinstance(words, str | Concept) else list(words)
    found: dict[str, Concept] = {}
    for word in given:
        for part in word.split(",") if isinstance(word, str) else [word]:
            if isinstance(part, str) and not part.strip():
                continue
            try:
                concept = part if isinstance(part, Concept) else Concept(name=part)
            except ValidationError as error:
                reason = error.errors()[0]["msg"].removeprefix("Value error, ")
                raise RecoError(f"concept {str(part)[:40]!r}...: {reason}") from None
            found.setdefault(concept.name.casefold(), concept)
    if not found:
        raise RecoError('no concept was given: name at least one, as in "zebra, fire truck"')
    concepts = list(found.values())
    check_slugs(concepts)
    return concepts


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
