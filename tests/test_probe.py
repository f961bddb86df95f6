"""The probe: agreement and pseudo-labels restated; that it learns; from scenes to masks."""

import csv
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from colours import Colours
from conftest import SHAPES, make_folder
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from reco import models
from reco.config import Config, check_config
from reco.data.tables import read_table
from reco.errors import RecoError
from reco.experiment import Experiment
from reco.files import read_json, read_tensors
from reco.method import probe as constants
from reco.method.bank import Space
from reco.method.maps import normalise, resize
from reco.method.metrics import ConfusionMatrix
from reco.method.probe import Probe, agree, fit, pseudo_labels, say, surest
from reco.method.segment import Knowledge, Scale, bank_scores
from reco.workflow import probe
from reco.workflow.bank import bank_archive
from reco.workflow.catalog import catalog_index, catalog_split
from reco.workflow.embed import embed_archives, embed_part, gather
from reco.workflow.probe import pack_probe, unpack_probe
from reco.workflow.retrieve import retrieve_archives
from reco.workflow.text import embed_concepts
from reco.workflow.train import segment_plus, train_plus
from reco.workflow.whiten import whiten_index

CLOSE = {"rtol": 1.3e-6, "atol": 1e-5}  # as `torch.testing.assert_close` has it of float32


def draws(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def unit(*shape, seed=0, axis=1):
    return normalise(draws(*shape, seed=seed), axis)


def space(c, seed=0):
    values = draws(c, c, seed=seed)
    return Space(np.zeros(c, np.float32), values @ values.T / c, np.empty((0, 0, 0), np.float32))


def scale(c, n, seed=0):
    return Scale(space(c, seed), unit(n, 4, c, seed=seed, axis=2))


def test_agreement_is_mean_field_over_alike_positions():
    scores, features = draws(3, 2, 4) / 5, unit(6, 2, 4, axis=0)
    z, start = features.reshape(6, -1).T, scores.reshape(3, -1).T / constants.SOFTNESS

    def softmax(row):
        powers = np.exp(row - row.max())
        return powers / powers.sum()

    now = start
    for _ in range(constants.PASSES + 1):
        shares = [softmax(row) for row in now]
        now = np.stack(
            [
                start[p]
                + constants.AGREEMENT
                * sum(
                    weight * share
                    for weight, share in zip(
                        softmax(np.array([z[p] @ other for other in z]) / constants.ALIKE),
                        shares,
                        strict=True,
                    )
                )
                for p in range(8)
            ]
        )
    np.testing.assert_allclose(agree(scores, features).reshape(3, -1).T, now, rtol=1e-4, atol=1e-4)


def test_a_position_among_others_that_look_like_it_is_outvoted():
    scores = np.zeros((2, 1, 10), np.float32)
    scores[0], scores[1, 0, 4] = 0.1, 0.15  # one position says otherwise
    features = np.zeros((3, 1, 10), np.float32)
    features[0] = 1
    assert surest(scores, 1).tolist() == [[0, 0, 0, 0, 1, 0, 0, 0, 0, 0]]
    assert surest(agree(scores, features), 1).tolist() == [[0] * 10]
    features[:, 0, 4] = [0, 1, 0]  # now it looks like no other
    assert surest(agree(scores, features), 1)[0, 4] == 1


def test_the_surest_share_is_labelled():
    scores = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    scores[0, 0, 0] = 99
    chosen = surest(scores, 0.25)
    assert (chosen >= 0).sum() == 3
    assert chosen[0, 0] == 0 and (chosen[2, 2:] == 1).all()
    assert (surest(scores, 1e-9) >= 0).sum() == 1


def test_coarser_maps_take_the_label_of_the_nearest_position():
    scales = {64: scale(5, 3, seed=1), 96: scale(5, 3, seed=2)}
    views = {
        64: (draws(1, 5, 4, 6), draws(1, 7, 4, 6, seed=1)),
        96: (draws(1, 5, 8, 12, seed=2), draws(1, 7, 8, 12, seed=3)),
    }
    knowledge = Knowledge({}, unit(3, 7), 10.0, scales)
    features, labels = pseudo_labels(views, knowledge, 0.5)
    whitened = {side: own.space.whiten(views[side][0])[0] for side, own in scales.items()}
    scores = sum(
        resize(bank_scores(*views[side], own, knowledge.texts), (8, 12))[0] / 2
        for side, own in scales.items()
    )
    fine = surest(agree(scores, whitened[96]), 0.5)
    wanted = []
    for side, step in ((64, 2), (96, 1)):
        height, width = whitened[side].shape[1:]
        for y in range(height):
            for x in range(width):
                label = int(fine[y * step + step // 2, x * step + step // 2])
                if label >= 0:
                    wanted.append((whitened[side][:, y, x].astype(np.float16), label))
    assert labels.tolist() == [label for _, label in wanted]
    np.testing.assert_array_equal(features, np.stack([values for values, _ in wanted]))
    assert (fine >= 0).sum() == 48
    assert features.dtype == np.float16 and labels.dtype == np.int64


@given(st.integers(1, 40), st.integers(1, 40))
def test_the_nearest_position_is_pytorch_s(old, new):
    row = torch.arange(old, dtype=torch.float32)[None, None]
    wanted = torch.nn.functional.interpolate(row, size=new, mode="nearest-exact")[0, 0]
    found = constants._nearest(old, new)
    # Half way between two positions both are the nearest; PyTorch's float32 takes either.
    half_way = (2 * np.arange(new) + 1) * old % (2 * new) == 0
    np.testing.assert_array_equal(found[~half_way], wanted.numpy()[~half_way])
    assert np.abs(found - wanted.numpy()).max() <= 1


def test_it_learns_what_most_positions_say():
    """A third of the labels are wrong at random; what it says itself is nearly always right."""
    generator = torch.Generator().manual_seed(0)
    truth = torch.randint(4, (4000,), generator=generator)
    centres = torch.from_numpy(unit(4, 32, seed=3))
    noise = torch.randn(4000, 32, generator=generator) / 12
    features = torch.nn.functional.normalize(centres[truth] + noise, dim=1)
    wrong = torch.rand(4000, generator=generator) < 1 / 3
    labels = torch.where(wrong, torch.randint(4, (4000,), generator=generator), truth)
    layer = nn.Linear(32, 4)
    curve = list(fit(layer, features.half(), labels, seed=0))
    assert len(curve) == constants.ROUND_STEPS and curve[-1][1] < curve[0][1] == constants.RATE
    assert np.isfinite(curve).all() and curve[-1][0] < curve[0][0]
    assert (say(layer, features) == truth).float().mean() > 0.99
    again = nn.Linear(32, 4)
    assert list(fit(again, features.half(), labels, seed=0)) == curve
    assert torch.equal(again.weight, layer.weight)


def test_a_picture_is_the_mean_over_scales_and_survives_a_file():
    own = Probe({64: space(5), 96: space(5, seed=4)}, draws(3, 5), draws(3, seed=1))
    views = {64: draws(1, 5, 2, 3, seed=2), 96: draws(1, 5, 4, 6, seed=3)}
    found = own.predict(views, (20, 30))
    assert found.shape == (3, 20, 30) and found.dtype == np.float32
    np.testing.assert_allclose(found.sum(0), 1, **CLOSE)
    maps = [
        torch.nn.functional.interpolate(
            torch.einsum(
                "bchw,nc->bnhw",
                torch.from_numpy(space.whiten(views[side])),
                torch.from_numpy(own.weight),
            )
            + torch.from_numpy(own.bias)[:, None, None],
            (20, 30),
            mode="bilinear",
        )[0]
        for side, space in own.spaces.items()
    ]
    np.testing.assert_allclose(found, (sum(maps) / 2).softmax(0).numpy(), **CLOSE)
    read = unpack_probe(pack_probe(own))
    np.testing.assert_array_equal(read.predict(views, (20, 30)), found)


# ---- from scenes to masks ---------------------------------------------------------------------

CONFIG = {
    "experiment": "colours",
    "device": "cpu",
    "index": {"kind": "folder", "root": "mine/photos"},
    "benchmark": {"kind": "folder", "root": "mine/bench"},
    "context": [],
    "archive_size": 3,
    "archive_sizes": [],
    "recipe": "seedbank",
    "bank": {"size": 3, "scales": [96, 128]},
    "sizes": {"retrieval": 96, "archive": 96, "benchmark": 96},
    "models": {role: "colours:discs" for role in ("retrieval", "dense", "encoder")},
    "crf": {"iterations": 2},
    "train": {"index": 10, "keep": 0.35},
}


@pytest.fixture
def learned(monkeypatch, tmp_path):
    """An experiment on discs of three colours, up to its banks."""
    colours = Colours()
    monkeypatch.setattr(models, "load", lambda spec, **options: colours)
    monkeypatch.chdir(tmp_path)
    make_folder(tmp_path / "mine", index=16)
    experiment = Experiment(check_config(CONFIG), images="x")
    loader = models.keeping_loader()
    images = Path(experiment.data, "images")
    catalog_index(experiment.index_root, images / "index.csv", 1)
    for split in ("train", "val"):
        table = images / f"{split}.csv"
        catalog_split(experiment.split(split), table, need_masks=split == "val")
    part = Path("part.csv")
    model = experiment.config.models.retrieval
    embed_part(experiment, images / "index.csv", model, 96, "1-of-1", part, loader)
    embeddings = Path(experiment.embeddings)
    gather([part], embeddings, Path(experiment.usable), Path("skipped.csv"), experiment.index)
    embed_concepts(experiment, loader)
    sources = experiment.sources
    texts, archives = (
        [Path(name(slug)) for slug in sources] for name in (experiment.text, experiment.archive)
    )
    size = experiment.config.deepest_archive
    retrieve_archives(embeddings, Path(experiment.usable), texts, size, archives)
    whiten_index(experiment, embeddings, loader)
    embed_archives(experiment, loader)
    bank = experiment.config.bank
    for slug in experiment.banked:
        bank_archive(
            Path(experiment.bank_features(slug)),
            Path(experiment.whitening),
            bank.scales,
            bank.size,
            Path(experiment.bank(slug)),
        )
    return experiment


def train_all(experiment, images="train"):
    table = Path(experiment.data, "images", f"{images}.csv")
    files = [Path(name) for name in ("model.safetensors", "model.json", "curve.csv")]
    train_plus(experiment, table, None, *files)
    return files


def test_it_learns_from_train_and_index_and_finds_what_is_there(learned):
    weights, model, curve = train_all(learned)
    described = read_json(model)
    assert described["student"] == "probe" and described["images"] == 6 + 10
    assert described["pseudo_masks"] == learned.best.slug
    assert set(read_tensors(weights)) == {
        "weight",
        "bias",
        *(f"{side}.{name}" for side in (96, 128) for name in ("mean", "matrix")),
    }
    with open(curve, newline="") as file:
        assert len(list(csv.DictReader(file))) == constants.ROUNDS * constants.ROUND_STEPS
    table = Path(learned.data, "images/val.csv")
    segment_plus(learned, table, weights, model, Path("masks"), 1)
    split = learned.split("val")
    for method in learned.plus:
        matrix = ConfusionMatrix(3)
        for row in read_table(table):
            found = np.array(Image.open(Path("masks", method.slug, row["prediction"])))
            matrix.update(split.truth(row), found)
        assert matrix.mean_iou > 0.8, method
    before = weights.read_bytes()
    train_all(learned)
    assert weights.read_bytes() == before


def test_the_index_is_drawn_by_the_seed_and_can_be_left_out(learned):
    loader = models.keeping_loader()
    first, other = (
        probe.embed_lessons(Experiment(check_config({**CONFIG, "seed": seed})), loader)
        for seed in (0, 0)
    )
    assert first == other and {len(rows) for rows in first.values()} == {10}
    assert all("dense" in row for row in first[96])
    assert not any("dense" in row for row in first[128])
    alone = Experiment(check_config({**CONFIG, "train": {"index": 0}}))
    assert list(probe.read_lessons(probe.embed_lessons(alone, loader))) == []
    _, _, count = probe.train_probe(alone, Path(alone.data, "images/train.csv"), load=loader)
    assert count == 6
    views = list(probe.read_lessons(first))
    assert len(views) == 10
    assert np.shares_memory(views[0][128][1], views[0][96][1])
    assert views[0][128][0].shape[0] == 1


def test_a_word_that_is_no_target_is_never_found(learned):
    some = Experiment(check_config({**CONFIG, "concepts": ["orange", "lemon"]}))
    trained, _, _ = probe.train_probe(
        some, Path(some.data, "images/train.csv"), load=models.keeping_loader()
    )
    views = {side: draws(1, trained.weight.shape[1], 3, 3, seed=side) for side in trained.spaces}
    maps = trained.predict(views, (9, 9))
    names = [some.labels[label] for label in np.unique(maps.argmax(0))]
    assert set(names) <= {"orange", "lemon"} and np.isfinite(maps).all()
    assert set(SHAPES) - set(names)


@pytest.mark.parametrize(
    ("values", "student"),
    [
        ({"recipe": "seedbank"}, "probe"),
        ({"recipe": "seedbank", "train": {"student": "deeplab"}}, "deeplab"),
        ({"recipe": "paper"}, "deeplab"),
        ({"recipe": "seedbank", "train": None}, None),
        ({"recipe": "seedbank", "benchmark": None}, None),
    ],
)
def test_the_student_is_that_of_the_recipe(values, student):
    assert Config(**values).student == student


def test_a_probe_of_the_paper_s_recipe_is_one_line():
    with pytest.raises(RecoError, match=re.escape("train.student: probe learns in the space")):
        check_config({"recipe": "paper", "train": {"student": "probe"}})
