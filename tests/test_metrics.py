"""Scores against the released code's numbers."""

from pathlib import Path

import numpy as np
import pytest

from reco.data.tables import write_table
from reco.method.metrics import ConfusionMatrix
from reco.workflow.evaluate import precision

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


def test_iou_of_a_class_that_is_only_predicted_is_0():
    """As in the released evaluation: the mean over the classes of the ground truth is another."""
    data = np.load(FIXTURE)
    matrix = ConfusionMatrix(7)
    matrix.update(data["gt"], data["pred"])
    assert matrix.iou[5] == 0 and np.isnan(matrix.iou[6]) and not np.isnan(matrix.iou[:6]).any()
    elsewhere = np.delete(matrix.iou, [5, 6]).mean()
    assert elsewhere == pytest.approx(float(data["mean_iou_gt_classes_only"]))
    frequency = matrix.counts.sum(1) / matrix.counts.sum()
    weighted = np.nansum(frequency * matrix.iou)
    assert weighted == pytest.approx(float(data["freq_weighted"]))


def test_first_image_fixture():
    data = np.load(FIXTURE)
    matrix = ConfusionMatrix(7)
    matrix.update(data["gt"][0], data["pred"][0])
    np.testing.assert_allclose(matrix.iou, data["first_image_iou"])
    assert matrix.mean_iou == pytest.approx(float(data["first_image_mean_iou"]))


@pytest.mark.parametrize("ignored", [-1, -2, 7, 255, 65535])
def test_pixels_without_a_label_drop_out(ignored):
    rng = np.random.default_rng(0)
    labels, predictions = rng.integers(0, 7, (2, 30, 40))
    some, all_ = ConfusionMatrix(7), ConfusionMatrix(7)
    all_.update(labels[:, :20], predictions[:, :20])
    labels[:, 20:] = ignored
    some.update(labels, predictions)
    np.testing.assert_array_equal(some.counts, all_.counts)


def test_precision_counts_what_the_labels_say_in_any_case(tmp_path):
    write_table(tmp_path / "labels.csv", ["path", "concepts"], [("a", "Cat;dog"), ("b", "DOG")])
    write_table(tmp_path / "archive.csv", ["rank", "path"], [(1, "a"), (2, "b"), (3, "c")])
    archives = [(name, tmp_path / "archive.csv") for name in ("cat", "Dog", "owl")]
    assert precision(archives, tmp_path / "labels.csv", [1, 2]) == [
        ("cat", 1, "1.0000", 1),
        ("cat", 2, "0.5000", 1),
        ("Dog", 1, "1.0000", 2),
        ("Dog", 2, "1.0000", 2),
    ]
