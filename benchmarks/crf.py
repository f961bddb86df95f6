"""The dense CRF beside pydensecrf2, the released code's way, on real pictures, one thread each.

pydensecrf2 is no dependency; `pip install pydensecrf2` builds it (a C++ compiler is needed). Where
it is missing, the exact way, which gives its numbers, stands in its place.

The limit is what no way that sends any message can do without: the bare lattice products of one
update of all classes, on lattices that are there already.
"""

import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import yaml
from measure import Row, compare, report
from PIL import Image, ImageOps

from reco.config import CRF
from reco.data.folder import find_images
from reco.data.images import read_image
from reco.method import crf
from reco.method.crf import dense_crf
from reco.method.lattice import make_kernels
from reco.method.maps import softmax
from reco.method.refine import end_with_parent
from reco.method.segment import cosine, saliency
from reco.models import load

try:
    from pydensecrf.densecrf import DenseCRF2D
except ImportError:
    DenseCRF2D = None

SIZE = 320
PICTURES, CHOSEN = 24, (0, 7, 21)  # how many tell what concepts look like; which are refined
SCENES = Path("data/stamps/scenes/benchmark/images/train")
NAMES = Path("config/labels/coco_stuff.yaml")
TOLERANCE = CRF().tolerance
CONTRAST = 20  # of maps that are as sure as those of a trained segmenter

Way = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Case:
    """Pictures (SIZE, SIZE, 3) uint8 and their probabilities (classes, SIZE, SIZE) float32."""

    name: str
    pictures: list[np.ndarray]
    probabilities: list[np.ndarray]

    def run(self, way: Way) -> list[np.ndarray]:
        """The concept of every pixel of every picture."""
        pairs = zip(self.pictures, self.probabilities, strict=True)
        return [way(picture, values).argmax(0) for picture, values in pairs]


def read_pictures() -> tuple[list[np.ndarray], str]:
    """Scenes of the default experiment, or the photographs of scikit-learn; and which they are."""
    if SCENES.is_dir():
        images = [read_image(SCENES / name) for name in find_images(SCENES)[:PICTURES]]
        which = f"scenes of stamps' train split, {len(CHOSEN)} of them refined"
    else:
        from sklearn.datasets import load_sample_images

        images = [Image.fromarray(values) for values in load_sample_images().images]
        which = "the sample photographs of scikit-learn (data/stamps has no scenes)"
    return [np.array(ImageOps.fit(image, (SIZE, SIZE))) for image in images], which


def make_cases(pictures: list[np.ndarray]) -> list[Case]:
    """ReCo's maps of COCO-Stuff's 27 and 171 names from the packaged model.

    The reference embedding of a concept is the mean of the ten positions among all pictures at
    which dense saliency is highest.
    """
    model = load("packaged")
    names = yaml.safe_load(NAMES.read_text(encoding="utf-8"))
    chosen = [i for i in CHOSEN if i < len(pictures)]
    inputs = [model.preprocess(Image.fromarray(image), crop=False) for image in pictures]
    outputs = model.encode(np.stack(inputs), {"encoder", "dense"})
    encoder, dense = outputs["encoder"], outputs["dense"]
    positions = encoder.transpose(0, 2, 3, 1).reshape(-1, encoder.shape[1])
    cases = []
    for group in (names["classes"], names["predicted"]):
        texts = model.embed_texts(group, "dense")
        found = cosine(dense, texts).swapaxes(0, 1).reshape(len(group), -1)
        best = np.argpartition(-found, 10, axis=1)[:, :10]
        references = positions[best].mean(1)
        maps = saliency(encoder[chosen], references, dense[chosen], texts, (SIZE, SIZE))
        few = [pictures[i] for i in chosen]
        name = f"{len(group)} classes, {SIZE} x {SIZE}"
        cases.append(Case(name, few, _distributions(maps, 1)))
    name = f"{name}, contrast x {CONTRAST}"
    return [*cases, Case(name, few[:1], _distributions(maps[:1], CONTRAST))]


def _distributions(maps: np.ndarray, contrast: float) -> list[np.ndarray]:
    return [softmax(contrast * some) for some in maps]


def released_way(picture: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Posteriors (C, H, W) of pydensecrf2 with ReCo's settings."""
    classes, height, width = probabilities.shape
    model = DenseCRF2D(width, height, classes)
    unary = -np.log(probabilities.clip(crf.SMALLEST, 1)).reshape(classes, -1)
    model.setUnaryEnergy(np.ascontiguousarray(unary))
    model.addPairwiseGaussian(sxy=1, compat=3)
    model.addPairwiseBilateral(sxy=67, srgb=3, rgbim=picture, compat=4)
    return np.array(model.inference(10)).reshape(probabilities.shape)


def bare_products(case: Case) -> Callable[[], None]:
    """The lattice products of one update, in parts as `dense_crf` has, with nothing around them."""
    work = []
    for picture, values in zip(case.pictures, case.probabilities, strict=True):
        kernels = make_kernels(picture, 1, 3, 67, 3, 4)
        vertices = max(chain[0].shape[0] for chain in kernels)
        parts = -(-4 * vertices * len(values) // crf.TABLE_BYTES)
        rows = values.reshape(len(values), -1)
        columns = [np.ascontiguousarray(part.T) for part in np.array_split(rows, parts)]
        work.append((columns, kernels))

    def multiply() -> None:
        for columns, kernels in work:
            for table in columns:
                for chain in kernels:
                    product = table
                    for matrix in chain:
                        product = matrix @ product

    return multiply


def agreement(wanted: list[np.ndarray], found: list[np.ndarray], case: Case) -> str:
    """Share of equal argmaxes, of all pixels and of those that the CRF changes."""
    equal = np.array(wanted) == np.array(found)
    changed = np.array(wanted) != np.array([values.argmax(0) for values in case.probabilities])
    share = f"of the {changed.mean():.1%} that it changes {equal[changed].mean():.1%}"
    return f"argmax {equal.mean():.2%} equal, {share}"


def measure_case(case: Case) -> list[Row]:
    """The ways of one case; a run takes all of its pictures."""
    ways: dict[str, Way] = {
        "exact": dense_crf,
        f"tolerance {TOLERANCE}": partial(dense_crf, tolerance=TOLERANCE),
    }
    if DenseCRF2D:
        ways = {"pydensecrf2": released_way, **ways}
    first, *others = ways
    wanted = case.run(ways[first])
    agrees = {name: agreement(wanted, case.run(ways[name]), case) for name in others}
    runs = {name: partial(case.run, way) for name, way in ways.items()}
    return compare(case.name, runs, agrees, limit=bare_products(case), repeats=3)


def measure_cores(case: Case) -> list[Row]:
    """One process beside one on every core, as `reco segment-split` has them."""
    cores = os.cpu_count() or 1
    tasks = [*zip(case.pictures, case.probabilities, strict=True)] * cores
    pools = {n: ProcessPoolExecutor(n, get_context("spawn"), end_with_parent) for n in (1, cores)}

    def run(pool: ProcessPoolExecutor) -> None:
        for task in [pool.submit(dense_crf, *task, tolerance=TOLERANCE) for task in tasks]:
            task.result()

    ways = {f"{n} process{'es' * (n > 1)}": partial(run, pool) for n, pool in pools.items()}
    rows = compare(f"{case.name}, {len(tasks)} pictures", ways, repeats=3)
    for pool in pools.values():
        pool.shutdown()
    return rows


def main() -> None:
    """Measure and report."""
    pictures, which = read_pictures()
    cases = make_cases(pictures)
    rows = [row for case in cases for row in measure_case(case)] + measure_cores(cases[1])
    notes = [
        f"Pictures: {which}. Probabilities: softmax of ReCo's maps by the packaged model, which is "
        f"nearly flat; in the last case of maps {CONTRAST} times as large.",
        "One thread but for the last two rows; the memory of other processes is not counted.",
        "limit: the bare lattice products of one update of all classes.",
    ]
    if not DenseCRF2D:
        notes.append(
            "pydensecrf2 is left out, for it is not installed: pip install pydensecrf2 (a C++ "
            "compiler is needed)."
        )
    report("crf", "Dense CRF", rows, notes)


if __name__ == "__main__":
    main()
