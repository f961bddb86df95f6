"""Make a specialist of a word, and segment photographs with one."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from reco.data.images import read_image
from reco.errors import RecoError
from reco.files import atomic, write_json
from reco.photos.folder import find_photos, prepare_out
from reco.photos.segmenter import Segmenter
from reco.photos.specialists.lessons import ITERATIONS, learn_one, make_lessons, teach
from reco.photos.specialists.portable import export_onnx
from reco.photos.specialists.scores import evaluate, overview
from reco.photos.specialists.specialist import Specialist, check_out, save_specialist
from reco.progress import LOG, track
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
        RecoError: see `learn_one`, `teach`, `save_specialist`, `evaluate`.
    """
    check_out(folder)
    learned = learn_one(segmenter, word, doubtful=doubtful)
    shown, others = make_lessons(segmenter, learned)
    specialist, curve = teach(segmenter, learned, [*shown, *others], iterations)
    save_specialist(specialist, curve, folder)
    write_figure(overview(specialist, shown, others), folder / "overview.png")
    noise = np.random.default_rng(0).integers(0, 256, (97, 131, 3), dtype=np.uint8)
    try:
        worst = export_onnx(specialist, folder / "model.onnx", [shown[0].picture, noise])
        LOG.info("model.onnx: ONNX Runtime differs from torch by %.1g at most", worst)
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


def segment_photographs(
    specialist: Specialist,
    photos: Sequence[Path],
    out: Path,
    *,
    crf: bool = True,
    threshold: float | None = None,
) -> int:
    """Write masks (255 = the concept, 0 = not) and overlays of photographs, one after the other.

    Args:
        photos: files, and folders that are searched for images.
        out: gets masks/<name>.png and overlays/<name>.jpg.

    Returns:
        how many there were.

    Raises:
        RecoError: no photographs, or two of one name; a place for results that will not do, see
            `reco.photos.folder.prepare_out`; and at the end, if some files could not be read:
            which. The others are done.
    """
    named = find_photos(photos)
    prepare_out(out, photos)
    bad = []
    for photo in track(named, "segment"):
        try:
            picture = read_image(photo.path)
        except RecoError as error:
            bad.append(str(error))
            continue
        found = specialist.segment(picture, crf=crf, threshold=threshold)
        with atomic(out / "masks" / f"{photo.stem}.png") as temporary:
            mask = np.where(found.labels == 0, 255, 0).astype(np.uint8)
            Image.fromarray(mask).save(temporary, format="PNG")
        with atomic(out / "overlays" / f"{photo.stem}.jpg") as temporary:
            found.overlay().save(temporary, format="JPEG", quality=90)
    if bad:
        raise RecoError("\n".join([f"{len(bad)} of {len(named)} files were left out:", *bad]))
    return len(named)
