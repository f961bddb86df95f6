"""Resources: what a job asks a cluster for, where that depends on the experiment."""

MB = 1_000_000
BASE = 1800  # MB: the process that runs the networks, with its libraries
LIBRARIES = 350  # MB: a further process with its libraries, before its first image
MAPS = 8  # (labels, side, side) float32: of a CRF at its peak, and two on the way to it
LATTICE = 1700  # bytes a pixel that a CRF needs besides, for a picture of noise, which has most


def memory_mb(workers: int, labels: int, side: int, attempt: int = 1) -> int:
    """MB of memory of a job with networks and further processes: for the CRF, or that read images.

    Args:
        workers: processes beside the one that runs the networks.
        labels: maps of an image.
        side: of an image in pixels, were it a square; 0 where the processes only read images.
        attempt: from 1; a job that was killed asks for twice as much, then for three times.
    """
    image = (4 * MAPS * labels + LATTICE) * side**2 / MB
    return attempt * round(BASE + image + workers * (LIBRARIES + image))
