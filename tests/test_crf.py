"""The fully connected CRF against `pydensecrf`, against exact mean field, and in its properties."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reco.config import CRF
from reco.method import crf
from reco.method.crf import dense_crf

TOLERANCE = CRF().tolerance

# Made with pydensecrf2 1.1 on x86-64, NumPy 2, Pillow. `image`: grace_hopper.jpg (public domain)
# from matplotlib's sample data, box (96, 60, 480, 316), resized to 96x64 with Resampling.BOX.
# `probabilities`: float16 softmax over 5 classes of default_rng(0).normal(size=(5, 8, 12)), each
# plane resized to 96x64 with Resampling.BICUBIC, plus 3 * normal(size=(5, 3)) @ colour / 255.
# Then, for `defaults` and for `others` (see OTHERS):
#     model = DenseCRF2D(96, 64, 5)
#     model.setUnaryEnergy(-log(clip(float32(probabilities), 1e-5, 1)).reshape(5, -1))
#     model.addPairwiseGaussian(sxy=gaussian_sxy, compat=gaussian_compat)
#     model.addPairwiseBilateral(sxy=bilateral_sxy, srgb=bilateral_srgb, rgbim=image,
#                                compat=bilateral_compat)
#     uint16(rint(65535 * array(model.inference(iterations)).reshape(5, 64, 96)))
FIXTURE = Path(__file__).parent / "fixtures" / "crf.npz"
OTHERS = {
    "gaussian_sxy": 2.5,
    "gaussian_compat": 1.5,
    "bilateral_sxy": 20.0,
    "bilateral_srgb": 12.0,
    "bilateral_compat": 6.0,
    "iterations": 3,
}


@pytest.fixture(scope="module")
def fixture():
    with np.load(FIXTURE) as file:
        return dict(file)


def exact_crf(image, probabilities, sxy=1, compat=3, bsxy=67, srgb=3, bcompat=4, iterations=10):
    """Mean field with the kernel between all pairs of pixels, in double precision."""
    classes, height, width = probabilities.shape
    position = np.indices((height, width)).reshape(2, -1).T
    colour = image.reshape(-1, 3)

    def kernel(features, weight):
        squares = ((features[:, None] - features[None]) ** 2).sum(-1)
        values = np.exp(-squares / 2)
        scale = 1 / np.sqrt(values.sum(1))
        return weight * scale[:, None] * values * scale

    pairwise = kernel(position / sxy, compat)
    pairwise += kernel(np.concatenate([position / bsxy, colour / srgb], 1), bcompat)
    unary = np.log(probabilities.reshape(classes, -1).astype(float).clip(1e-5, 1))
    q = np.exp(unary) / np.exp(unary).sum(0)
    for _ in range(iterations):
        q = np.exp(unary + q @ pairwise)
        q /= q.sum(0)
    return q.reshape(probabilities.shape)


def random_case(seed, classes, height, width):
    """A noisy picture and probabilities that range from nearly flat to nearly certain."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (height, width, 3), np.uint8)
    scores = rng.normal(scale=rng.uniform(0.1, 5), size=(classes, height, width))
    probabilities = np.exp(scores - scores.max(0))
    return image, (probabilities / probabilities.sum(0)).astype(np.float32)


@pytest.mark.parametrize(("key", "settings"), [("defaults", {}), ("others", OTHERS)])
def test_equals_pydensecrf(fixture, key, settings):
    expected = fixture[key] / 65535
    # The CRF has work to do here, so that agreement means something.
    assert (expected.argmax(0) != fixture["probabilities"].argmax(0)).mean() > 0.2
    got = dense_crf(fixture["image"], fixture["probabilities"], **settings)
    assert got.dtype == np.float32
    # Half a step of the stored 16 bits is 8e-6; measured 2e-6 on larger photographs.
    np.testing.assert_allclose(got, expected, atol=1e-4)
    assert (got.argmax(0) == expected.argmax(0)).mean() >= 0.999


@pytest.mark.parametrize(
    ("names", "values"),
    [
        ({}, {}),
        ({"iterations": 1}, {"iterations": 1}),
        ({"bilateral_sxy": 20.0, "bilateral_srgb": 12.0}, {"bsxy": 20, "srgb": 12}),
        ({"bilateral_compat": 0.0}, {"bcompat": 0}),
        ({"gaussian_compat": 0.0}, {"compat": 0}),
    ],
)
def test_close_to_all_pairs(fixture, names, values):
    image, probabilities = fixture["image"][:24, :32], fixture["probabilities"][:, :24, :32]
    expected = exact_crf(image, probabilities, **values)
    got = dense_crf(image, probabilities, **names)
    assert np.abs(got - expected).mean() < 0.01  # measured 0.002 to 0.007
    assert (got.argmax(0) == expected.argmax(0)).mean() >= 0.98  # measured 0.986 to 0.992
    # A third of what the CRF does would already be too far away.
    assert np.abs(probabilities - expected).mean() > 0.08


def test_channel_order_hardly_matters(fixture):
    """The released code hands over BGR."""
    rgb = dense_crf(fixture["image"], fixture["probabilities"])
    bgr = dense_crf(fixture["image"][:, :, ::-1], fixture["probabilities"])
    assert (rgb.argmax(0) == bgr.argmax(0)).mean() >= 0.98  # measured 0.987


def test_parts_and_blocks_change_nothing(fixture, monkeypatch):
    rng = np.random.default_rng(0)
    image = fixture["image"]
    probabilities = rng.dirichlet(np.ones(37), image.shape[:2]).transpose(2, 0, 1)
    whole = dense_crf(image, probabilities)
    rough = dense_crf(image, probabilities, tolerance=1e-3)
    monkeypatch.setattr(crf, "TABLE_BYTES", 0)  # 37 classes in parts of 13, 13 and 11
    monkeypatch.setattr(crf, "BLOCK_BYTES", 10_000)
    parts = dense_crf(image, probabilities)
    np.testing.assert_allclose(parts, whole, atol=1e-6)
    np.testing.assert_allclose(dense_crf(image, probabilities, tolerance=1e-3), rough, atol=1e-6)


def test_messages_are_the_products_of_the_kernels_matrices(fixture):
    """In float32, of any of the classes at once, beside dense matrices in double precision."""
    image, q = fixture["image"][:12, :16], fixture["probabilities"][:, :12, :16]
    q = q.reshape(5, -1).T.astype(np.float32)
    kernels = crf.make_kernels(image, 1.0, 3.0, 67.0, 3.0, 4.0)
    wanted = sum(np.linalg.multi_dot([m.toarray().astype(float) for m in k[::-1]]) for k in kernels)
    got = crf._messages(q, kernels)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, wanted @ q, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(crf._messages(q[:, [3, 1]], kernels), got[:, [3, 1]])


def test_inputs_are_left_alone(fixture):
    image, probabilities = fixture["image"].copy(), fixture["probabilities"].astype(np.float32)
    image.flags.writeable = probabilities.flags.writeable = False
    before = probabilities.copy()
    dense_crf(image, probabilities, iterations=2)
    np.testing.assert_array_equal(probabilities, before)


def flat_case(image, classes, contrast):
    """Smooth maps between 0.1 and 0.7, like ReCo's saliency, as probabilities."""
    coarse = torch.rand(1, classes, 8, 12, generator=torch.Generator().manual_seed(0))
    size = image.shape[:2]
    maps = torch.nn.functional.interpolate(coarse, size, mode="bilinear", align_corners=False)
    return (contrast * (0.1 + 0.6 * maps[0])).softmax(0).numpy()


@pytest.mark.parametrize("classes", [27, 73, 171])
@pytest.mark.parametrize("contrast", [1, 20, 60])
def test_a_tolerance_moves_hardly_any_pixel(fixture, classes, contrast):
    probabilities = flat_case(fixture["image"], classes, contrast)
    exact = dense_crf(fixture["image"], probabilities)
    got = dense_crf(fixture["image"], probabilities, tolerance=TOLERANCE)
    wanted = exact.argmax(0)
    changed = probabilities.argmax(0) != wanted
    assert changed.sum() > 20  # the CRF has work to do
    assert (got.argmax(0) == wanted).mean() >= 0.99
    assert (got.argmax(0) == wanted)[changed].mean() >= 0.9
    np.testing.assert_allclose(got.sum(0), 1, atol=1e-5)


def test_a_tolerance_keeps_what_pydensecrf_changes(fixture):
    wanted = fixture["defaults"].argmax(0)
    got = dense_crf(fixture["image"], fixture["probabilities"], tolerance=TOLERANCE)
    assert (got.argmax(0) == wanted).mean() >= 0.99


def test_updates_that_would_do_nothing_are_left_out(fixture):
    probabilities = flat_case(fixture["image"], 171, 1)
    few = dense_crf(fixture["image"], probabilities, iterations=3, tolerance=TOLERANCE)
    many = dense_crf(fixture["image"], probabilities, iterations=30, tolerance=TOLERANCE)
    np.testing.assert_array_equal(few, many)
    none = dense_crf(fixture["image"], probabilities, iterations=0)
    assert np.abs(many - none).max() > 1e-4


@pytest.mark.parametrize("tolerance", [0.0, 1e-3])
def test_classes_of_an_even_share_are_no_special_case(fixture, tolerance):
    """A way that starts from an even distribution takes them for ones that have not moved."""
    rest = fixture["probabilities"][:2].astype(np.float32)
    even = np.full((3, *rest.shape[1:]), 1 / 5, np.float32)
    got, near = (
        dense_crf(
            fixture["image"],
            np.concatenate([share, (1 - share.sum(0)) * rest / rest.sum(0)]),
            iterations=2,
            tolerance=tolerance,
        )
        for share in (even, even + 2e-3)
    )
    assert np.abs(got - near).mean() < 5e-3


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**32 - 1),
    classes=st.integers(1, 40),
    height=st.integers(1, 12),
    width=st.integers(1, 12),
    tolerance=st.sampled_from([1e-4, 1e-3, 1e-2]),
)
def test_any_tolerance_gives_distributions_near_the_exact_ones(
    seed, classes, height, width, tolerance
):
    image, probabilities = random_case(seed, classes, height, width)
    got = dense_crf(image, probabilities, tolerance=tolerance)
    assert got.shape == probabilities.shape and got.dtype == np.float32
    np.testing.assert_allclose(got.sum(0), 1, atol=1e-5)
    exact = dense_crf(image, probabilities)
    # Updates pass an error on, sometimes enlarged.
    assert np.abs(got - exact).mean() < 5 * tolerance


def test_a_large_even_picture_is_no_special_case():
    """All pixels meet in a few vertices: the largest sums that there can be."""
    image = np.full((400, 500, 3), 90, np.uint8)
    probabilities = np.full((2, 400, 500), 0.3, np.float32)
    probabilities[1] = 0.7
    got = dense_crf(image, probabilities, iterations=2, tolerance=TOLERANCE)
    exact = dense_crf(image, probabilities, iterations=2)
    np.testing.assert_allclose(got, exact, atol=1e-5)


def test_no_iteration_gives_clipped_probabilities():
    probabilities = np.zeros((3, 2, 2))
    probabilities[1] = 1
    got = dense_crf(np.zeros((2, 2, 3), np.uint8), probabilities, iterations=0)
    np.testing.assert_allclose(got[0], 1e-5, rtol=1e-3)
    np.testing.assert_allclose(got[1], 1 - 2e-5, rtol=1e-6)


@pytest.mark.parametrize("tolerance", [0.0, 1e-3])
def test_uniform_stays_uniform(tolerance):
    image = np.full((20, 30, 3), 77, np.uint8)
    got = dense_crf(image, np.full((4, 20, 30), 0.25, np.float32), tolerance=tolerance)
    np.testing.assert_allclose(got, 0.25, atol=1e-6)


@pytest.mark.parametrize("tolerance", [0.0, 1e-3])
def test_colour_edge_is_kept(tolerance):
    """Two flat halves, each with a weak and noisy majority, come out clean and apart."""
    image = np.zeros((24, 40, 3), np.uint8)
    image[:, 20:] = 200
    sure = np.random.default_rng(0).uniform(0.2, 0.95, (24, 40))
    probabilities = np.stack([sure, 1 - sure])
    probabilities[:, :, 20:] = probabilities[::-1, :, 20:]
    assert 0.1 < (probabilities.argmax(0) != np.indices((24, 40))[1] // 20).mean() < 0.5
    got = dense_crf(image, probabilities, tolerance=tolerance)
    np.testing.assert_array_equal(got.argmax(0), np.indices((24, 40))[1] // 20)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**32 - 1),
    classes=st.integers(1, 20),
    height=st.integers(1, 12),
    width=st.integers(1, 12),
)
def test_outputs_are_distributions_whatever_the_class_order(seed, classes, height, width):
    image, probabilities = random_case(seed, classes, height, width)
    got = dense_crf(image, probabilities)
    assert got.shape == probabilities.shape and got.dtype == np.float32
    assert got.flags.c_contiguous
    assert got.min() >= 0
    np.testing.assert_allclose(got.sum(0), 1, atol=1e-5)
    order = np.random.default_rng(seed).permutation(classes)
    np.testing.assert_allclose(dense_crf(image, probabilities[order]), got[order], atol=1e-4)


IMAGE = np.zeros((4, 5, 3), np.uint8)
HALVES = np.full((2, 4, 5), 0.5)


@pytest.mark.parametrize(
    ("image", "probabilities", "names", "message"),
    [
        (IMAGE.astype(float), HALVES, {}, "image must be"),
        (IMAGE[:, :, 0], HALVES, {}, "image must be"),
        (IMAGE[:, :, :2], HALVES, {}, "image must be"),
        (IMAGE[:0], HALVES[:, :0], {}, "image must be"),
        (IMAGE, HALVES.transpose(0, 2, 1), {}, r"\(C, 4, 5\) like the image"),
        (IMAGE, HALVES[0], {}, r"\(C, 4, 5\) like the image"),
        (IMAGE, HALVES[:0], {}, "at least one class"),
        (IMAGE, np.ones((1, 4, 5), int), {}, "must be floating"),
        (IMAGE, HALVES * 2, {}, "sum to 1"),
        (IMAGE, HALVES + np.array([1, -1]).reshape(2, 1, 1), {}, ">= 0"),
        (IMAGE, HALVES * np.nan, {}, "sum to 1"),
        (IMAGE, HALVES, {"iterations": -1}, "iterations"),
        (IMAGE, HALVES, {"tolerance": -0.1}, "tolerance"),
        (IMAGE, HALVES, {"tolerance": 1.0}, "tolerance"),
        (IMAGE, HALVES, {"tolerance": np.nan}, "tolerance"),
        (IMAGE, HALVES, {"gaussian_sxy": 0.0}, "gaussian_sxy"),
        (IMAGE, HALVES, {"bilateral_sxy": -1.0}, "bilateral_sxy"),
        (IMAGE, HALVES, {"bilateral_srgb": np.nan}, "bilateral_srgb"),
        (IMAGE, HALVES, {"bilateral_sxy": 1e-7}, "too small"),
    ],
)
def test_bad_arguments_are_named(image, probabilities, names, message):
    with pytest.raises(ValueError, match=message):
        dense_crf(image, probabilities, **names)
