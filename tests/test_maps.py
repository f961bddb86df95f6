"""Maps: resizing, area means and the functions around them, beside PyTorch's own."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import interpolate

from reco.method import maps as module
from reco.method.maps import area_means, normalise, resize, sigmoid, softmax

SIDES = st.integers(1, 40)
SEEDS = st.integers(0, 999)


def draws(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


@settings(max_examples=100, deadline=None)
@given(SIDES, SIDES, SIDES, SIDES, SEEDS)
def test_resize_is_bilinear_interpolation(h, w, tall, wide, seed):
    """Up and down, also one side up and the other down; corners not aligned."""
    maps = np.random.default_rng(seed).random((2, 3, h, w), np.float32)
    wanted = interpolate(
        torch.from_numpy(maps), size=(tall, wide), mode="bilinear", align_corners=False
    )
    found = resize(maps, (tall, wide))
    assert found.dtype == np.float32 and found.shape == (2, 3, tall, wide)
    np.testing.assert_allclose(found, wanted.numpy(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("leading", [(), (4,), (2, 3), (0,)])
def test_resize_takes_any_leading_axes(leading):
    maps = draws(*leading, 5, 6)
    found = resize(maps, (7, 4))
    assert found.shape == (*leading, 7, 4)
    for index in np.ndindex(leading):
        np.testing.assert_allclose(found[index], resize(maps[index], (7, 4)), rtol=0, atol=1e-6)


def test_resize_leaves_a_size_that_is_right():
    maps = draws(3, 5, 6)
    np.testing.assert_array_equal(resize(maps, (5, 6)), maps)


def test_resize_of_tensors_is_that_of_arrays(monkeypatch):
    monkeypatch.setattr(module, "MAIN_MEMORY", ())  # by the CPU, with an accelerator's code
    maps = draws(2, 3, 5, 6)
    found = resize(torch.from_numpy(maps), (11, 4))
    assert isinstance(found, torch.Tensor)
    np.testing.assert_allclose(found.numpy(), resize(maps, (11, 4)), rtol=0, atol=1e-6)


@settings(max_examples=100, deadline=None)
@given(SIDES, SIDES, SIDES, SIDES, SEEDS)
def test_area_means_are_area_interpolation(h, w, tall, wide, seed):
    """Also to more cells than there are positions, where a cell is one of them."""
    maps = draws(2, 3, h, w, seed=seed)
    wanted = interpolate(torch.from_numpy(maps), size=(tall, wide), mode="area")
    found = area_means(maps, (tall, wide))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, wanted.numpy(), rtol=0, atol=1e-5)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 5), st.integers(1, 9), st.floats(0, 80, width=32), SEEDS)
def test_shares_and_squashing_are_pytorch_s(rows, columns, spread, seed):
    values = np.float32(spread) * draws(rows, columns, seed=seed)
    tensor = torch.from_numpy(values)
    for axis in (0, 1, -1):
        shares = softmax(values, axis=axis)
        assert shares.dtype == np.float32
        np.testing.assert_allclose(shares, tensor.softmax(axis).numpy(), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(sigmoid(values), tensor.sigmoid().numpy(), rtol=0, atol=1e-6)


def test_extreme_values_overflow_nowhere():
    least = np.finfo(np.float32).min / 4  # the bias of a label that a probe never finds
    values = np.array([least, -1e4, 0, 1e4, -least], np.float32)
    with np.errstate(over="raise", invalid="raise"):
        assert sigmoid(values).tolist() == [0, 0, 0.5, 1, 1]
        assert softmax(values).tolist() == [0, 0, 0, 0, 1]


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), SEEDS)
def test_unit_vectors_are_pytorch_s(rows, columns, seed):
    values = draws(rows, columns, seed=seed)
    values[0] = 0  # stays zero
    for axis in (0, 1):
        wanted = torch.nn.functional.normalize(torch.from_numpy(values), dim=axis, eps=1e-30)
        np.testing.assert_allclose(normalise(values, axis), wanted.numpy(), rtol=0, atol=1e-6)
