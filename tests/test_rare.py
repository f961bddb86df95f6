"""One concept against background: IoU at every threshold, and the one that reads no label."""

import json

import miniatures
import numpy as np
import pytest
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from test_paper import SMALL, Paper

from reco.config import load
from reco.data.tables import read_table
from reco.errors import RecoError
from reco.experiment import Experiment
from reco.workflow.rare import BINS, THRESHOLDS, Histogram, rare, summarise

COUNTS = st.lists(st.integers(0, 50), min_size=BINS, max_size=BINS).map(np.array)


def histogram(saliency, truth):
    bins = (saliency * BINS).astype(int)
    return Histogram(*(np.bincount(bins[truth == label], minlength=BINS) for label in (1, 0)))


def test_iou_is_that_of_the_thresholded_maps():
    rng = np.random.default_rng(0)
    saliency, truth = rng.random(2000), rng.integers(-1, 2, 2000)
    found = histogram(saliency, truth)
    for place in (0, 1, 250, 999):
        guess, scored = saliency >= THRESHOLDS[place], truth >= 0
        both = (guess & (truth == 1)).sum()
        either = ((guess & scored) | (truth == 1)).sum()
        assert found.iou[place] == both / either


def test_otsu_parts_two_heaps_and_is_the_best_by_variance():
    rng = np.random.default_rng(1)
    saliency = np.concatenate([rng.normal(0.2, 0.03, 900), rng.normal(0.7, 0.03, 100)])
    truth = np.repeat([0, 1], [900, 100])
    found = histogram(saliency, truth)
    assert 0.28 < THRESHOLDS[found.otsu] < 0.62 and found.iou[found.otsu] == 1
    values, counts = (np.arange(BINS) + 0.5) / BINS, found.concept + found.background

    def within(place):
        parts = [(values[:place], counts[:place]), (values[place:], counts[place:])]
        return sum((c * (v - np.average(v, weights=c)) ** 2).sum() for v, c in parts if c.sum())

    assert within(found.otsu) == pytest.approx(min(map(within, range(1, BINS))))


@settings(deadline=None)
@given(COUNTS, COUNTS)
def test_any_counts_give_a_number(concept, background):
    found = Histogram(concept, background)
    assert 0 <= found.otsu < BINS
    known = found.iou[~np.isnan(found.iou)]
    assert ((known >= 0) & (known <= 1)).all()


def test_one_concept_is_asked_for(monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    config = load("config/config.yaml", "config/paper/rare.yaml")
    two = load("config/config.yaml").model_copy(update={"concepts": None})
    assert len(Experiment(config).targets) == 1
    with pytest.raises(RecoError, match="name one"):
        rare(Experiment(two), tmp_path / "val.csv")


def test_summary_names_both_thresholds():
    found = histogram(np.array([0.1, 0.9, 0.9]), np.array([0, 1, 0]))
    both = summarise({"reco": found})["reco"]
    assert both["best_by_labels"]["iou"] == both["otsu"]["iou"] == 0.5


@pytest.mark.slow
def test_the_study_runs_to_its_figure(tmp_path, converted):
    project = Paper(tmp_path).use("rare", **{**SMALL, "train": None}).take(converted)
    project.config["sizes"]["benchmark"] = 64
    miniatures.make_firenet(project.folder / "data/downloads/firenet")
    plan = project.plan()
    assert (
        plan["retrieve"] == plan["cosegment"] == 6
        and plan["rare"] == 1
        and not {"segment", "train"} & set(plan)
    )
    project.run()
    assert project.plan() == {}
    results = project.folder / "results/paper-rare"
    assert {row["method"] for row in read_table(results / "rare.csv")} == {
        *("denseclip", "reference", "reco")
    }
    for scores in json.loads((results / "rare.json").read_text()).values():
        assert 0 <= scores["otsu"]["iou"] <= scores["best_by_labels"]["iou"] <= 1
    assert (results / "figures/rare.png").stat().st_size > 5000
