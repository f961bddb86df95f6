"""Use: photographs in, masks of a specialist's concept out."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from reco.data.images import read_image
from reco.errors import RecoError
from reco.files import atomic
from reco.photos.folder import find_photos, prepare_out
from reco.photos.specialists.specialist import Specialist
from reco.progress import track


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
