"""Inference: against the definition, image sizes of every kind, and the pool that refines."""

import multiprocessing

import numpy as np
import pytest
import torch
from PIL import Image

from reco.config import CRF
from reco.cosegment import guidance, normalise, resize, sigmoid
from reco.errors import RecoError
from reco.experiment import Method
from reco.geometry import Geometry
from reco.refine import refine, shrink
from reco.segment import (
    Knowledge,
    MaskWriter,
    least_salient,
    mask_writer,
    predict,
    saliency,
)


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
        {"lgc-ce-k20": tensors["references"], "k20": other}, tensors["texts"], 10.0
    )
    methods = [
        Method("denseclip", False, False, False, 0),
        Method("reference", False, False, False, 20),
        Method("reco", True, True, False, 20),
    ]
    maps = {
        method.slug: value
        for method, value in predict(
            tensors["encoder"], tensors["dense"], knowledge, methods, (6, 8)
        )
    }
    assert list(maps) == ["denseclip", "reference-k20", "reco-lgc-ce-k20"]
    wanted = saliency(tensors["encoder"], other, None, None, (6, 8))
    torch.testing.assert_close(maps["reference-k20"], wanted)
    first = saliency(tensors["encoder"], tensors["references"], None, None, (6, 8))
    torch.testing.assert_close(maps["reco-lgc-ce-k20"], first * maps["denseclip"])


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


def test_writer_stops_at_an_error(tmp_path):
    def fail() -> None:
        with mask_writer(tmp_path, np.arange(2), CRF(), 1) as writer:
            assert isinstance(writer, MaskWriter)
            raise KeyError("stop")

    with pytest.raises(KeyError, match="stop"):
        fail()
