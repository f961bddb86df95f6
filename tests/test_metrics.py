"""Scores against the released code's numbers."""

from pathlib import Path

import numpy as np
import pytest

from reco.metrics import ConfusionMatrix

FIXTURE = Path(__file__).parent / "fixtures" / "metrics.npz"


def test_fixture():
    data = np.load(FIXTURE)
    matrix = ConfusionMatrix(7)
    for i, (labels, predictions) in enumerate(zip(data["gt"], data["pred"], strict=True)):
        matrix.update(labels, predictions)
        np.testing.assert_array_equal(matrix.counts, data["confusion_after_each"][i])
    assert matrix.pixel_accuracy == pytest.approx(float(data["pixel_accuracy"]))
    assert matrix.mean_accuracy == pytest.approx(float(data["mean_accuracy"]))
    assert matrix.mean_iou == pytest.approx(float(data["mean_iou"]))
    np.testing.assert_allclose(matrix.iou, data["iou"])


def test_nothing_seen_is_nan_without_a_warning(recwarn):
    matrix = ConfusionMatrix(3)
    assert np.isnan([matrix.pixel_accuracy, matrix.mean_accuracy, matrix.mean_iou]).all()
    assert not recwarn.list


def test_bad_inputs_are_named():
    matrix = ConfusionMatrix(3)
    with pytest.raises(ValueError, match="differ"):
        matrix.update(np.zeros((2, 2), int), np.zeros((2, 3), int))
    with pytest.raises(ValueError, match=r"0\.\.2"):
        matrix.update(np.zeros(4, int), np.full(4, 3))
