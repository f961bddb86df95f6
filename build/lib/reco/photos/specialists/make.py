"""Make: a specialist of a word, with all of its folder."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from reco.files import write_json
from reco.photos.segmenter import Segmenter
from reco.photos.specialists.export import export_onnx
from reco.photos.specialists.lessons import ITERATIONS, learn_one, make_lessons, teach
from reco.photos.specialists.scores import evaluate, overview
from reco.photos.specialists.specialist import check_out
from reco.photos.specialists.trained import save_trained
from reco.progress import LOG
from reco.workflow.figures.style import write_figure

ONNX = "pip install onnx onnxruntime"


def make_specialist(
    segmenter: Segmenter,
    word: str,
    folder: Path,
    *,
    iterations: int = ITERATIONS,
    doubtful: bool = False,
    pairs: Sequence[tuple[Path, Path]] = (),
) -> dict[str, dict[str, float]]:
    """Learn a word, train a specialist, and write all of its folder.

    Args:
        pairs: photographs and masks to score it on, and ReCo beside it.

    Returns:
        the scores by method, also in evaluation.json; empty without `pairs`.

    Raises:
        RecoError: see `learn_one`, `teach`, `save_trained`, `evaluate`.
    """
    check_out(folder)
    learned = learn_one(segmenter, word, doubtful=doubtful)
    shown, others = make_lessons(segmenter, learned)
    trained, curve = teach(segmenter, learned, [*shown, *others], iterations)
    specialist = trained.specialist
    save_trained(trained, curve, folder)
    write_figure(overview(specialist, shown, others), folder / "overview.png")
    noise = np.random.default_rng(0).integers(0, 256, (97, 131, 3), dtype=np.uint8)
    try:
        worst = export_onnx(trained, folder, [shown[0].picture, noise])
        LOG.info("model.onnx: ONNX Runtime differs from PyTorch by %.1g at most", worst)
    except ImportError as error:
        LOG.warning("no model.onnx: %s; if you want one: %s", error, ONNX)
    if not pairs:
        return {}
    scores = {
        "specialist": evaluate(specialist.segment, pairs),
        "reco": evaluate(
            lambda photo: segmenter.segment(
                photo, [learned.concept], background=True, doubtful=True
            ),
            pairs,
        ),
    }
    write_json(folder / "evaluation.json", {"photographs": len(pairs), **scores})
    return scores
