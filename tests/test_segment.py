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
from reco.method.cosegment import guidance, normalise, resize, sigmoid
from reco.method.refine import refine, shrink
from reco.method.segment import Knowledge, least_salient, predict, saliency, similarity
from reco.method.variants import Method
from reco.workflow.masks import MaskWriter, mask_writer
from reco.workflow.segment import segment

SLOW = pytest.mark.slow
# MiB beyond the models and libraries; measured 212, 547 and 1463. 2 GB are 1907 MiB.
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
    tensors = {name: torch.from_numpy(value) for name, value in parts.items()}
    both = saliency(
        tensors["encoder"], tensors["references"], tensors["dense"], tensors["texts"], size
    )
    np.testing.assert_allclose(both.numpy(), first * second, atol=2e-5)
    alone = saliency(tensors["encoder"], tensors["references"], None, None, size)
    np.testing.assert_allclose(alone.numpy(), first, atol=2e-5)


def test_methods_use_the_parts_they_name(parts):
    tensors = {name: torch.from_numpy(value) for name, value in parts.items()}
    other = tensors["references"].flip(0)
    knowledge = Knowledge(
        {"lgc-ce-k20": tensors["references"], "k5": other, "k20": other}, tensors["texts"], 10.0
    )
    methods = [
        Method("denseclip", False, False, False, 0),
        Method("reference", False, False, False, 20),
        Method("reference", False, False, False, 5),
        Method("reco", True, True, False, 20),
        Method("reco", True, True, True, 20),
    ]
    found: dict[str, list[torch.Tensor]] = {}
    predicted = predict(tensors["encoder"], tensors["dense"], knowledge, methods, (6, 8))
    for i, method, value in predicted:
        found.setdefault(method.slug, []).append(value)
        assert len(found[method.slug]) == i + 1
    maps = {slug: torch.stack(values) for slug, values in found.items()}
    assert set(maps) == {method.slug for method in methods}
    dense = similarity(tensors["dense"], tensors["texts"], (6, 8), 10.0)
    torch.testing.assert_close(maps["denseclip"], dense)
    for k in (5, 20):
        wanted = saliency(tensors["encoder"], other, None, None, (6, 8))
        torch.testing.assert_close(maps[f"reference-k{k}"], wanted)
    first = saliency(tensors["encoder"], tensors["references"], None, None, (6, 8))
    torch.testing.assert_close(maps["reco-lgc-ce-k20"], first * maps["denseclip"])
    assert found["reco-lgc-ce-k20"][1] is found["reco-lgc-ce-k20-crf"][1]
    with pytest.raises(ValueError, match="shorter"):
        list(predict(tensors["encoder"], tensors["dense"][:1], knowledge, methods, (6, 8)))
    with pytest.raises(ValueError, match="shorter"):
        saliency(tensors["encoder"], other, tensors["dense"][:1], tensors["texts"], (6, 8))


def test_the_crf_gets_the_picture_as_read_and_a_softmax_of_the_saliency(parts):
    """The released code takes the softmax of a log-softmax, which is the softmax, and truncates."""
    tensors = {name: torch.from_numpy(value) for name, value in parts.items()}
    features = tensors["encoder"][:1], tensors["dense"][:1]
    knowledge = Knowledge({"k20": tensors["references"]}, tensors["texts"], 10.0)
    picture = np.random.default_rng(0).integers(0, 256, (9, 11, 3), np.uint8)
    got = []

    class Recorder:
        def write_refined(self, method, name, image, probabilities, ignored):
            got.append((image, probabilities))

    methods = [Method("reco", False, False, True, 20)]
    list(segment([("a.png", picture, {9: features})], knowledge, methods, Recorder()))
    [(image, probabilities)] = got
    assert image is picture
    maps = saliency(features[0], tensors["references"], features[1], tensors["texts"], (9, 11))[0]
    released = maps.log_softmax(0).softmax(0)
    torch.testing.assert_close(probabilities, released, rtol=0, atol=1e-6)
    # nearly flat: a map's values lie in (0, 1), so none is more than e times another
    assert (probabilities.amax(0) / probabilities.amin(0)).max() < np.e


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 6), st.integers(1, 5), st.integers(1, 5), st.integers(0, 999))
def test_of_equal_maps_the_first_concept_wins(concepts, height, width, seed):
    """Concepts that share an embedding have equal maps."""
    random = torch.Generator().manual_seed(seed)
    encoder = torch.randn(1, 8, height, width, generator=random)
    dense = torch.randn(1, 6, height, width, generator=random)
    references = torch.randn(concepts, 8, generator=random)
    texts = torch.randn(concepts, 6, generator=random)
    knowledge = Knowledge({"k1": references.repeat(2, 1)}, texts.repeat(2, 1), 10.0)
    methods = [Method(name, False, False, False, 1) for name in ("reference", "reco")]
    for _, _, maps in predict(encoder, dense, knowledge, methods, (7, 9)):
        twins = torch.equal(maps[:concepts], maps[concepts:])
        assert not twins or maps.argmax(0).max() < concepts


@pytest.mark.parametrize("size", [None, 16])
def test_refine_follows_the_edges_of_the_image(size):
    """Two flat halves, probabilities that lean right but are noisy: the halves come out whole."""
    image = np.full((32, 48, 3), 40, np.uint8)
    image[:, 24:] = 200
    rng = np.random.default_rng(0)
    right = np.clip(0.6 + 0.2 * rng.standard_normal((32, 48)), 0.05, 0.95)
    right[:, :24] = 1 - right[:, :24]
    probabilities = shrink(torch.from_numpy(np.stack([1 - right, right]).astype("f4")), size)
    labels = refine(image, probabilities.numpy(), CRF(size=size))
    wanted = np.zeros((32, 48), int)
    wanted[:, 24:] = 1
    assert (labels == wanted).mean() > 0.98 > ((right > 0.5) == wanted).mean()


def test_refine_takes_the_tolerance_from_the_config():
    """With one so large nothing is ever sent, and so nothing changes."""
    rng = np.random.default_rng(0)
    image = np.full((24, 32, 3), 90, np.uint8)
    probabilities = torch.from_numpy(rng.random((4, 24, 32), np.float32)).softmax(0).numpy()
    before = probabilities.argmax(0)
    assert (refine(image, probabilities, CRF(tolerance=0.9)) == before).all()
    assert (refine(image, probabilities, CRF()) != before).mean() > 0.1


def test_shrinking_keeps_means_and_shape():
    maps = torch.rand(3, 30, 40)
    small = shrink(maps, 20)
    assert small.shape == (3, 15, 20)
    torch.testing.assert_close(small.mean((1, 2)), maps.mean((1, 2)))
    assert shrink(maps, None) is maps and shrink(maps, 40) is maps


def test_pixels_without_a_salient_concept_are_left_out(tmp_path):
    maps = torch.zeros(2, 4, 5)
    maps[1, 0] = torch.arange(1, 6) / 10
    ignored = least_salient(maps, 0.75)
    assert ignored.tolist() == [[False] * 5] + [[True] * 5] * 3
    crf = Method("reco", False, False, True, 5)
    image = np.zeros((4, 5, 3), np.uint8)
    with mask_writer(tmp_path, np.array([3, 9]), CRF(iterations=1), 1) as writer:
        writer.write_refined(crf, "a.png", image, maps.softmax(0), ignored)
    labels = np.asarray(Image.open(tmp_path / crf.slug / "a.png"))
    assert (labels[1:] == 255).all() and set(labels[0].tolist()) <= {3, 9}


@pytest.mark.parametrize(
    ("given", "wanted"), [((640, 320), (64, 32)), ((20, 30), (32, 48)), ((32, 90), (32, 90))]
)
def test_pictures_keep_their_shape(given, wanted):
    assert Geometry(32).picture(Image.new("RGB", given)).size == wanted


def test_writer_maps_concepts_to_label_ids_and_finishes_its_queue(tmp_path):
    plain, crf = (Method("denseclip", False, False, crf, 0) for crf in (False, True))
    maps = torch.rand(2, 8, 10).softmax(0)
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
    maps, image = torch.rand(2, 64, 64).softmax(0), np.zeros((64, 64, 3), np.uint8)

    def lose_a_worker() -> None:
        with mask_writer(tmp_path, np.arange(2), CRF(), 1) as writer:
            writer.write_refined(crf, "a.png", image, maps)
            for process in multiprocessing.active_children():
                process.kill()

    with pytest.raises(RecoError, match="lack of memory"):
        lose_a_worker()


MEMORY = """
import resource
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

from reco.config import CRF
from reco.method.variants import (Method)
from reco.method.refine import use_one_thread
from reco.method.segment import (Knowledge, predict, saliency)
from reco.workflow.masks import (mask_writer)
from reco.workflow.segment import (segment)

def used(who):
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(who).ru_maxrss * unit / 2**20

def libraries():
    with ProcessPoolExecutor(1, get_context("spawn"), use_one_thread) as pool:
        pool.submit(use_one_thread).result()
    return used(resource.RUSAGE_CHILDREN)

if __name__ == "__main__":
    flags = [(True, True), (True, False), (False, True), (False, False)]
    methods = [Method("denseclip", False, False, False, 0)]
    methods += [Method(name, *f, False, 50) for name in ("reference", "reco") for f in flags]
    methods += [Method("reco", True, True, False, k) for k in (5, 10, 20)]
    methods += [Method("reco", True, True, True, 50)]
    random = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(shape, generator=random)
    names = {method.reference_name for method in methods[1:]}
    knowledge = Knowledge({name: draw(171, 384) for name in names}, draw(171, 768), 10.0)
    encoder, dense = draw(8, 384, 20, 20), draw(8, 768, 10, 10)
    pictures = np.random.default_rng(0).integers(0, 256, (8, 320, 320, 3), np.uint8)
    start, process = used(resource.RUSAGE_SELF), libraries()
    with torch.inference_mode():
        if sys.argv[1] == "predict":
            for _, method, maps in predict(encoder, dense, knowledge, methods, (320, 320)):
                if method.crf:  # the others need less, and time
                    maps.argmax(0), maps.softmax(0)
        elif sys.argv[1] == "saliency":
            references = knowledge.references["lgc-ce-k50"]
            saliency(encoder, references, dense, knowledge.texts, (320, 320)).argmax(1)
        else:
            features = zip(encoder.split(1), dense.split(1))
            named = enumerate(pictures)
            images = ((f"{i}.png", picture, {320: next(features)}) for i, picture in named)
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
