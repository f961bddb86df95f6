"""Doubt: whether what was retrieved for a word shows it at all, judged without a label.

Every image is nearest to some word, and every word to some image, so an archive of nonsense looks
like any other. Two things give it away (docs/concepts.md has the measurements):

* *Other words fit better.* For the images that fit a word best, a thousand everyday names are
  ranked. Where more than a few of them fit these images better, the index does not show the word.
* *It fits everything alike.* A word that the model does not know is about as near to any image as
  to its best ones.
"""

from collections.abc import Sequence

import numpy as np

BEST = 5  # images that are looked at
BETTER = 4  # names that may fit them better, in the median: for other words of the same thing
FALL = 0.25  # share of its best similarity that a word must lose on the 10th percentile


def doubt(
    name: str,
    best: np.ndarray,
    similarities: np.ndarray,
    others: np.ndarray,
    names: Sequence[str],
    sample: np.ndarray,
) -> str:
    """What makes an archive doubtful, as a sentence for people; "" where nothing does.

    Args:
        name: of the concept.
        best: (n, d) embeddings of its nearest images, in order.
        similarities: (n,) their similarity to it.
        others, names: (m, d) unit text embeddings of the vocabulary, and its names.
        sample: similarity of the concept to images drawn from all of the index.
    """
    best, similarities = best[:BEST].astype(np.float32), similarities[:BEST]
    rivals = best @ others.T
    better = int(np.median((rivals > similarities[:, None] + 1e-6).sum(axis=1)))
    if better > BETTER:
        order = np.argsort(-rivals.mean(axis=0), kind="stable")[:3]
        nearest = ", ".join(repr(names[i]) for i in order)
        return (
            f"no image of this index looks like {name!r}; those nearest to it look more like "
            f"{nearest}"
        )
    top = float(similarities.mean())
    if top <= 0 or (top - float(np.quantile(sample, 0.1))) < FALL * top:
        return (
            f"{name!r} fits all images of this index about alike, so the model may not know the "
            "word: try a more common one, or a narrower one"
        )
    return ""
