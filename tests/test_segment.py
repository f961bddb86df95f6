"""Inference: against the definition, image sizes of every kind, and the pool that refines."""

import multiprocessing
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from reco.config import CRF
from reco.data.geometry import Geometry
from reco.errors import RecoError
from reco.method.cosegment import guidance
from reco.method.maps import normalise, resize, sigmoid, softmax
from reco.method.refine import refine, shrink
from reco.method.segment import Knowledge, least_salient, predict, saliency, similarity
from reco.method.variants import Method
from reco.workflow.masks import MaskWriter, mask_writer
from reco.workflow.segment import segment

SLOW = pytest.mark.slow
# MiB beyond the models and libraries; measured 274, 615 and 874. 2 GB are 1907 MiB.
ALIKE = {"rtol": 1.3e-6, "atol": 1e-5}  # as `torch.testing.assert_close` has it of float32
LIMITS = {"predict": 400, "saliency": 800, "segment": 1907}


@pytest.fixture
def parts():
    rng = np.random.default_rng(0)
    shapes = {"encoder": (2, 6, 3, 4), "references": (5, 6), "dense": (2, 7, 2, 3), "texts": (5, 7)}
    values = {name: rng.standard_normal(shape).astype("f4") for name, shape in shapes.items()}
    values["texts"] = normalise(values["texts"])
    return values


def test_saliency_is_the_product_of_two_squashed_and_resized_cosines(parts):
    size = (9, 11)
    cosine = np.einsum(
        "bchw,nc->bnhw", normalise(parts["encoder"], axis=1), normalise(parts["references"])
    )
    first = resize(sigmoid(cosine), size)
    second = guidance(parts["dense"], parts["texts"], size)
    both = saliency(parts["encoder"], parts["references"], parts["dense"], parts["texts"], size)
    np.testing.assert_allclose(both, first * second, atol=2e-5)
    alone = saliency(parts["encoder"], parts["references"], None, None, size)
    np.testing.assert_allclose(alone, first, atol=2e-5)


def test_saliency_is_what_pytorch_computes(parts):
    """Both factors by PyTorch's own functions: cosine, sigmoid, bilinear interpolation."""
    tensors = {name: torch.from_numpy(value) for name, value in parts.items()}

    def factor(features, vectors, temperature):
        similar = torch.nn.functional.cosine_similarity(
            features[:, None], vectors[None, :, :, None, None], dim=2
        )
        squashed = torch.sigmoid(temperature * similar)
        return torch.nn.functional.interpolate(squashed, (9, 11), mode="bilinear")

    first = factor(tensors["encoder"], tensors["references"], 1)
    second = factor(tensors["dense"], tensors["texts"], 10)
    both = saliency(parts["encoder"], parts["references"], parts["dense"], parts["texts"], (9, 11))
    np.testing.assert_allclose(both, (first * second).numpy(), atol=2e-5)


def test_methods_use_the_parts_they_name(parts):
    encoder, references, dense, texts = parts.values()
    other = references[::-1]
    knowledge = Knowledge({"lgc-ce-k20": references, "k5": other, "k20": other}, texts, 10.0)
    methods = [
        Method("denseclip", False, False, False, 0),
        Method("reference", False, False, False, 20),
        Method("reference", False, False, False, 5),
        Method("reco", True, True, False, 20),
        Method("reco", True, True, True, 20),
    ]
    found: dict[str, list[np.ndarray]] = {}
    predicted = predict(encoder, dense, knowledge, methods, (6, 8))
    for i, method, value in predicted:
        found.setdefault(method.slug, []).append(value)
        assert len(found[method.slug]) == i + 1
    maps = {slug: np.stack(values) for slug, values in found.items()}
    assert set(maps) == {method.slug for method in methods}
    second = similarity(dense, texts, (6, 8), 10.0)
    np.testing.assert_allclose(maps["denseclip"], second, **ALIKE)
    for k in (5, 20):
        wanted = saliency(encoder, other, None, None, (6, 8))
        np.testing.assert_allclose(maps[f"reference-k{k}"], wanted, **ALIKE)
    first = saliency(encoder, references, None, None, (6, 8))
    np.testing.assert_allclose(maps["reco-lgc-ce-k20"], first * maps["denseclip"], **ALIKE)
    assert found["reco-lgc-ce-k20"][1] is found["reco-lgc-ce-k20-crf"][1]
    with pytest.raises(ValueError, match="shorter"):
        list(predict(encoder, dense[:1], knowledge, methods, (6, 8)))
    with pytest.raises(ValueError, match="shorter"):
        saliency(encoder, other, dense[:1], texts, (6, 8))


def test_the_crf_gets_the_picture_as_read_and_a_softmax_of_the_saliency(parts):
    """The released code takes the softmax of a log-softmax, which is the softmax, and truncates."""
    features = parts["encoder"][:1], parts["dense"][:1]
    knowledge = Knowledge({"k20": parts["references"]}, parts["texts"], 10.0)
    picture = np.random.default_rng(0).integers(0, 256, (9, 11, 3), np.uint8)
    got = []

    class Recorder:
        def write_refined(self, method, name, image, probabilities, ignored):
            got.append((image, probabilities))

    methods = [Method("reco", False, False, True, 20)]
    list(segment([("a.png", picture, {9: features})], knowledge, methods, Recorder()))
    [(image, probabilities)] = got
    assert image is picture
    maps = saliency(features[0], parts["references"], features[1], parts["texts"], (9, 11))[0]
    released = torch.from_numpy(maps).log_softmax(0).softmax(0)
    np.testing.assert_allclose(probabilities, released.numpy(), rtol=0, atol=1e-6)
    # nearly flat: a map's values lie in (0, 1), so none is more than e times another
    assert (probabilities.max(0) / probabilities.min(0)).max() < np.e


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 6), st.integers(1, 5), st.integers(1, 5), st.integers(0, 999))
def test_of_equal_maps_the_first_concept_wins(concepts, height, width, seed):
    """Concepts that share an embedding have equal maps."""
    random = np.random.default_rng(seed)
    encoder, dense, references, texts = (
        random.standard_normal(shape, np.float32)
        for shape in ((1, 8, height, width), (1, 6, height, width), (concepts, 8), (concepts, 6))
    )
    knowledge = Knowledge({"k1": np.tile(references, (2, 1))}, np.tile(texts, (2, 1)), 10.0)
    methods = [Method(name, False, False, False, 1) for name in ("reference", "reco")]
    for _, _, maps in predict(encoder, dense, knowledge, methods, (7, 9)):
        twins = np.array_equal(maps[:concepts], maps[concepts:])
        assert not twins or maps.argmax(0).max() < concepts


@pytest.mark.parametrize("size", [None, 16])
def test_refine_follows_the_edges_of_the_image(size):
    """Two flat halves, probabilities that lean right but are noisy: the halves come out whole."""
    image = np.full((32, 48, 3), 40, np.uint8)
    image[:, 24:] = 200
    rng = np.random.default_rng(0)
    right = np.clip(0.6 + 0.2 * rng.standard_normal((32, 48)), 0.05, 0.95)
    right[:, :24] = 1 - right[:, :24]
    probabilities = shrink(np.stack([1 - right, right]).astype("f4"), size)
    labels = refine(image, probabilities, CRF(size=size))
    wanted = np.zeros((32, 48), int)
    wanted[:, 24:] = 1
    assert (labels == wanted).mean() > 0.98 > ((right > 0.5) == wanted).mean()


def test_refine_takes_the_tolerance_from_the_config():
    """With one so large nothing is ever sent, and so nothing changes."""
    rng = np.random.default_rng(0)
    image = np.full((24, 32, 3), 90, np.uint8)
    probabilities = softmax(rng.random((4, 24, 32), np.float32))
    before = probabilities.argmax(0)
    assert (refine(image, probabilities, CRF(tolerance=0.9)) == before).all()
    assert (refine(image, probabilities, CRF()) != before).mean() > 0.1


def test_shrinking_keeps_means_and_shape():
    maps = np.random.default_rng(0).random((3, 30, 40), np.float32)
    small = shrink(maps, 20)
    assert small.shape == (3, 15, 20)
    np.testing.assert_allclose(small.mean((1, 2)), maps.mean((1, 2)), **ALIKE)
    assert shrink(maps, None) is maps and shrink(maps, 40) is maps


def test_pixels_without_a_salient_concept_are_left_out(tmp_path):
    maps = np.zeros((2, 4, 5), np.float32)
    maps[1, 0] = np.arange(1, 6) / 10
    ignored = least_salient(maps, 0.75)
    assert ignored.tolist() == [[False] * 5] + [[True] * 5] * 3
    crf = Method("reco", False, False, True, 5)
    image = np.zeros((4, 5, 3), np.uint8)
    with mask_writer(tmp_path, np.array([3, 9]), CRF(iterations=1), 1) as writer:
        writer.write_refined(crf, "a.png", image, softmax(maps), ignored)
    labels = np.asarray(Image.open(tmp_path / crf.slug / "a.png"))
    assert (labels[1:] == 255).all() and set(labels[0].tolist()) <= {3, 9}


@pytest.mark.parametrize(
    ("given", "wanted"), [((640, 320), (64, 32)), ((20, 30), (32, 48)), ((32, 90), (32, 90))]
)
def test_pictures_keep_their_shape(given, wanted):
    assert Geometry(32).picture(Image.new("RGB", given)).size == wanted


def test_writer_maps_concepts_to_label_ids_and_finishes_its_queue(tmp_path):
    plain, crf = (Method("denseclip", False, False, crf, 0) for crf in (False, True))
    maps = softmax(np.random.default_rng(0).random((2, 8, 10), np.float32))
    image = np.zeros((8, 10, 3), np.uint8)
    with mask_writer(tmp_path, np.array([300, 7]), CRF(iterations=1), 1) as writer:
        writer.write(plain, "deep/a.png", maps)
        for i in range(6):
            writer.write_refined(crf, f"{i}.png", image, maps)
    labels = np.asarray(Image.open(tmp_path / "denseclip/deep/a.png"))
    np.testing.assert_array_equal(labels, np.array([300, 7])[maps.argmax(0)])
    assert len(list((tmp_path / "denseclip-crf").iterdir())) == 6


def test_a_killed_worker_is_explained(tmp_path):
    crf = Method("reco", False, False, True, 5)
    maps = softmax(np.random.default_rng(0).random((2, 64, 64), np.float32))
    image = np.zeros((64, 64, 3), np.uint8)

    def lose_a_worker() -> None:
        with mask_writer(tmp_path, np.arange(2), CRF(), 1) as writer:
            writer.write_refined(crf, "a.png", image, maps)
            for process in multiprocessing.active_children():
                process.kill()

    with pytest.raises(RecoError, match="lack of memory"):
        lose_a_worker()


MEMORY = """
import re
import resource
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from reco.config import CRF
from reco.method.maps import (softmax)
from reco.method.variants import (Method)
from reco.method.segment import (Knowledge, predict, saliency)
from reco.workflow.masks import (_begin, mask_writer)
from reco.workflow.segment import (segment)

def used(who):
    if who == resource.RUSAGE_SELF and sys.platform == "linux":
        # getrusage's value starts from that of the process which started this one: pytest's.
        [line] = re.findall(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())
        return int(line) / 2**10
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(who).ru_maxrss * unit / 2**20

def libraries():
    with ProcessPoolExecutor(1, get_context("spawn"), _begin) as pool:
        pool.submit(_begin).result()
    return used(resource.RUSAGE_CHILDREN)

if __name__ == "__main__":
    flags = [(True, True), (True, False), (False, True), (False, False)]
    methods = [Method("denseclip", False, False, False, 0)]
    methods += [Method(name, *f, False, 50) for name in ("reference", "reco") for f in flags]
    methods += [Method("reco", True, True, False, k) for k in (5, 10, 20)]
    methods += [Method("reco", True, True, True, 50)]
    random = np.random.default_rng(0)
    draw = lambda *shape: random.standard_normal(shape, np.float32)
    names = {method.reference_name for method in methods[1:]}
    knowledge = Knowledge({name: draw(171, 384) for name in names}, draw(171, 768), 10.0)
    encoder, dense = draw(8, 384, 20, 20), draw(8, 768, 10, 10)
    pictures = random.integers(0, 256, (8, 320, 320, 3), np.uint8)
    start, process = used(resource.RUSAGE_SELF), libraries()
    if sys.argv[1] == "predict":
        for _, method, maps in predict(encoder, dense, knowledge, methods, (320, 320)):
            if method.crf:  # the others need less, and time
                maps.argmax(0), softmax(maps)
    elif sys.argv[1] == "saliency":
        references = knowledge.references["lgc-ce-k50"]
        for maps in saliency(encoder, references, dense, knowledge.texts, (320, 320)):
            maps.argmax(0)  # of all images at once, NumPy would copy them
    else:
        images = (
            (f"{i}.png", picture, {320: (encoder[i : i + 1], dense[i : i + 1])})
            for i, picture in enumerate(pictures)
        )
        with mask_writer(Path(sys.argv[2]), np.arange(171), CRF(iterations=1), 2) as writer:
            list(segment(images, knowledge, methods, writer))
    # Two processes refine; the noise of these pictures is what costs a CRF the most.
    print(used(resource.RUSAGE_SELF) - start + 2 * (used(resource.RUSAGE_CHILDREN) - process))
"""


@pytest.mark.parametrize("what", ["predict", "saliency", pytest.param("segment", marks=SLOW)])
def test_171_concepts_need_less_than_2_gb(tmp_path, what):
    """COCO-Stuff: 8 images of 320 x 320, every method of the tables."""
    script = tmp_path / "memory.py"  # a file, for the processes that refine import it
    script.write_text(MEMORY)
    command = [sys.executable, str(script), what, str(tmp_path / "masks")]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    megabytes = float(done.stdout)
    print(f"{what}: {megabytes:.0f} MiB")
    assert megabytes < LIMITS[what]


def test_writer_stops_at_an_error(tmp_path):
    def fail() -> None:
        with mask_writer(tmp_path, np.arange(2), CRF(), 1) as writer:
            assert isinstance(writer, MaskWriter)
            raise KeyError("stop")

    with pytest.raises(KeyError, match="stop"):
        fail()
