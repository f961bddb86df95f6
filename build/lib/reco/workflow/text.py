"""Text: the embedding of every concept in the spaces of both language-image models."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from reco.data.store import Store, read_places
from reco.device import resolve_device
from reco.experiment import Experiment
from reco.files import atomic
from reco.method.prompts import average, sentences
from reco.models import Backend, Loader, Role, load
from reco.progress import LOG


def embed_concepts(
    experiment: Experiment, load: Loader = load, slugs: Sequence[str] | None = None
) -> None:
    """Write `Experiment.text` of concepts: `retrieval` (d,) and `dense` (d',), unit float32.

    Each is the normalised mean of the normalised embeddings of the concept's sentences
    (paper, section 3.1). The header names the model of `retrieval`. Sentences that were
    embedded before come from the store.

    Args:
        slugs: of the concepts; None = all.
    """
    named = experiment.concepts
    concepts = named if slugs is None else {slug: named[slug] for slug in slugs}
    config = experiment.config
    device = resolve_device(config.device)
    roles: dict[Role, str] = {"retrieval": config.models.retrieval, "dense": config.models.dense}
    models = {spec: load(spec, device=device) for spec in set(roles.values())}
    vectors: dict[Role, dict[str, np.ndarray]] = {}
    for role, spec in roles.items():
        model = models[spec]
        by_concept = {
            slug: sentences(concept, model.templates) for slug, concept in concepts.items()
        }
        store = Store(experiment.store(f"text-{role}", spec, model.version))
        vectors[role] = _embed(model, role, by_concept, store)
    for slug in concepts:
        with atomic(Path(experiment.text(slug))) as temporary:
            tensors = {str(role): vectors[role][slug] for role in roles}
            temporary.write_bytes(save(tensors, {"retrieval": roles["retrieval"]}))


def embed_names(experiment: Experiment, names: Sequence[str], load: Loader = load) -> np.ndarray:
    """(n, d) unit float32: names in the space of the retrieval model, a sentence each."""
    config = experiment.config
    model = load(config.models.retrieval, device=resolve_device(config.device))
    plain = "a photo of a {}."
    template = plain if plain in model.templates else model.templates[0]
    by_name = {name: [template.replace("{}", name)] for name in names}
    store = Store(experiment.store("text-retrieval", config.models.retrieval, model.version))
    vectors = _embed(model, "retrieval", by_name, store)
    return np.stack([vectors[name] for name in names])


def _embed(
    model: Backend, role: Role, sentences: dict[str, list[str]], store: Store
) -> dict[str, np.ndarray]:
    """Average the embeddings of each concept's sentences; embed what the store lacks."""
    unique = dict.fromkeys(sentence for group in sentences.values() for sentence in group)
    known = store.places()
    missing = [sentence for sentence in unique if _key(sentence) not in known]
    LOG.info("text for %s: %d of %d sentences to embed", role, len(missing), len(unique))
    if missing:
        store.append([_key(sentence) for sentence in missing], model.embed_texts(missing, role))
        known = store.places()
    return {
        slug: average(read_places([known[_key(sentence)] for sentence in group]))
        for slug, group in sentences.items()
    }


def _key(sentence: str) -> str:
    return hashlib.sha256(sentence.encode()).hexdigest()
