"""Prompts: the sentences that stand for a concept's name (paper, section 3.1; CLIP's release).

Plain data and a little NumPy, so that a stage that only needs sentences does not wait for torch.
"""

from collections.abc import Sequence

import numpy as np

from reco.concepts import Concept

IMAGENET_TEMPLATES: tuple[str, ...] = (
    "a bad photo of a {}.",
    "a photo of many {}.",
    "a sculpture of a {}.",
    "a photo of the hard to see {}.",
    "a low resolution photo of the {}.",
    "a rendering of a {}.",
    "graffiti of a {}.",
    "a bad photo of the {}.",
    "a cropped photo of the {}.",
    "a tattoo of a {}.",
    "the embroidered {}.",
    "a photo of a hard to see {}.",
    "a bright photo of a {}.",
    "a photo of a clean {}.",
    "a photo of a dirty {}.",
    "a dark photo of the {}.",
    "a drawing of a {}.",
    "a photo of my {}.",
    "the plastic {}.",
    "a photo of the cool {}.",
    "a close-up photo of a {}.",
    "a black and white photo of the {}.",
    "a painting of the {}.",
    "a painting of a {}.",
    "a pixelated photo of the {}.",
    "a sculpture of the {}.",
    "a bright photo of the {}.",
    "a cropped photo of a {}.",
    "a plastic {}.",
    "a photo of the dirty {}.",
    "a jpeg corrupted photo of a {}.",
    "a blurry photo of the {}.",
    "a photo of the {}.",
    "a good photo of the {}.",
    "a rendering of the {}.",
    "a {} in a video game.",
    "a photo of one {}.",
    "a doodle of a {}.",
    "a close-up photo of the {}.",
    "a photo of a {}.",
    "the origami {}.",
    "the {} in a video game.",
    "a sketch of a {}.",
    "a doodle of the {}.",
    "a origami {}.",
    "a low resolution photo of a {}.",
    "the toy {}.",
    "a rendition of the {}.",
    "a photo of the clean {}.",
    "a photo of a large {}.",
    "a rendition of a {}.",
    "a photo of a nice {}.",
    "a photo of a weird {}.",
    "a blurry photo of a {}.",
    "a cartoon {}.",
    "art of a {}.",
    "a sketch of the {}.",
    "a embroidered {}.",
    "a pixelated photo of a {}.",
    "itap of the {}.",
    "a jpeg corrupted photo of the {}.",
    "a good photo of a {}.",
    "a plushie {}.",
    "a photo of the nice {}.",
    "a photo of the small {}.",
    "a photo of the weird {}.",
    "the cartoon {}.",
    "art of the {}.",
    "a drawing of the {}.",
    "a photo of the large {}.",
    "a black and white photo of a {}.",
    "the plushie {}.",
    "a dark photo of a {}.",
    "itap of a {}.",
    "graffiti of the {}.",
    "a toy {}.",
    "itap of my {}.",
    "a photo of a cool {}.",
    "a photo of a small {}.",
    "a tattoo of the {}.",
)
"""The 80 prompts that CLIP's authors published for ImageNet, in their order (open_clip's
`OPENAI_IMAGENET_TEMPLATES`, copied as text; a test compares the two)."""

SCENE_TEMPLATES: tuple[str, ...] = (
    "there is a {} in the scene.",
    "there is the {} in the scene.",
    "this is a {} in the scene.",
    "this is the {} in the scene.",
    "this is one {} in the scene.",
)
"""The paper's five further prompts, with the full stops that MaskCLIP (Zhou et al., 2022) has."""

TEMPLATES: tuple[str, ...] = IMAGENET_TEMPLATES + SCENE_TEMPLATES
"""The paper's 85 prompts of a concept."""

BARE: tuple[str, ...] = ("{}",)
"""The name alone: for text models that were not trained on captions."""


def concept_prompts(names: str | Sequence[str], templates: Sequence[str] = TEMPLATES) -> list[str]:
    """Every template filled with every name, name by name.

    Args:
        names: one name, or a concept's name and its aliases.
        templates: sentences with one `{}` each; a backend states its own as `backend.templates`.

    Returns:
        `len(names) * len(templates)` sentences: all of the first name, then all of the second.
    """
    names = [names] if isinstance(names, str) else names
    # Not str.format: a name may hold braces, and a template only ever has the one hole.
    return [template.replace("{}", name) for name in names for template in templates]


def sentences(concept: Concept, templates: Sequence[str]) -> list[str]:
    """The texts to embed: a concept's own prompts, else every template filled with every name."""
    return list(concept.prompts) or concept_prompts((concept.name, *concept.aliases), templates)


def average(embeddings: np.ndarray) -> np.ndarray:
    """One unit vector for a concept: normalise each prompt's embedding, average, normalise.

    Args:
        embeddings: (n, d) floats, one row a prompt.

    Returns:
        (d,) float32 of unit length (zeros if the prompts cancel out).
    """
    return _unit(_unit(np.asarray(embeddings, np.float64)).mean(axis=0)).astype(np.float32)


def _unit(vectors: np.ndarray) -> np.ndarray:
    """Scale the last axis to length 1; a zero vector stays zero."""
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.where(length > 0, length, 1)
