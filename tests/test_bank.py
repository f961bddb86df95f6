"""Bank of seeds: every part beside a slow restatement; and the recipe from words to masks."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from colours import Colours
from conftest import SHAPES, make_folder
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from safetensors.numpy import save_file

from reco import models
from reco.config import Config, check_config
from reco.data.store import Store
from reco.data.tables import read_table, write_table
from reco.errors import RecoError
from reco.experiment import Experiment
from reco.files import read_tensors
from reco.method.background import EXTENT, RANGE, bounds, extent
from reco.method.bank import CONTRAST, SHARE, SHRINK, find_seeds, measure, pool
from reco.method.maps import normalise
from reco.method.segment import (
    NEIGHBOURS,
    WEIGHT,
    Knowledge,
    Scale,
    bank_scores,
    nearest,
    predict_bank,
)
from reco.method.variants import STEPS, Method
from reco.photos.segmenter import load
from reco.workflow.bank import bank_archive, pack_spaces, read_spaces


def draws(*shape, seed=0):
    """Features whose channels differ in mean and spread and hang together."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=shape).astype(np.float32)
    values[:, 1] = 5 * values[:, 0] + 0.1 * values[:, 1]
    return values * np.linspace(1, 9, shape[1], dtype=np.float32)[:, None, None] + 3


def cosine(a, b):
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


# ---- the parts, restated ----------------------------------------------------------------------


def test_whitening_is_the_root_of_the_shrunk_covariance():
    features = draws(5, 6, 4, 3)
    space = measure(features)
    positions = [features[i, :, y, x] for i in range(5) for y in range(4) for x in range(3)]
    mean = sum(positions) / len(positions)
    covariance = sum(np.outer(p - mean, p - mean) for p in positions) / len(positions)
    shrunk = (1 - SHRINK) * covariance + SHRINK * np.trace(covariance) / 6 * np.eye(6)
    np.testing.assert_allclose(space.mean, mean, rtol=1e-5)
    # M S M = 1 and M = M' leave one way: S^(-1/2)
    np.testing.assert_allclose(space.matrix @ shrunk @ space.matrix, np.eye(6), atol=1e-3)
    np.testing.assert_allclose(space.matrix, space.matrix.T, atol=1e-6)
    assert np.linalg.eigvalsh(space.matrix).min() > 0
    white = space.whiten(features)
    wanted = space.matrix @ (features[2, :, 1, 2] - mean)
    np.testing.assert_allclose(
        white[2, :, 1, 2], wanted / np.linalg.norm(wanted), rtol=1e-3, atol=1e-5
    )


@given(arrays(np.float32, (2, 3, 7, 5), elements=st.floats(-8, 8, width=32)), st.integers(1, 9))
@settings(max_examples=30, deadline=None)
def test_pooling_is_torch_s(maps, most):
    wanted = torch.nn.functional.adaptive_avg_pool2d(
        torch.from_numpy(maps), (min(7, most), min(5, most))
    )
    np.testing.assert_allclose(pool(maps, most), wanted.numpy(), atol=1e-4)


def slow_seeds(features, space):
    """Support, best position and prototype of every image, a pair of positions at a time."""
    n, _, h, w = features.shape
    positions = [
        [space.matrix @ (features[i, :, y, x] - space.mean) for y in range(h) for x in range(w)]
        for i in range(n)
    ]
    count = max(1, round(SHARE * h * w))

    def common(p, images):
        return np.mean([max(cosine(p, q) for q in image) for image in images])

    support = np.array(
        [
            [common(p, positions) - CONTRAST * common(p, space.others) for p in image]
            for image in positions
        ]
    )
    prototypes, seeds = [], []
    for image, values in zip(positions, support, strict=True):
        best = sorted(range(h * w), key=lambda p, values=values: (-values[p], p))[:count]
        mean = np.mean([image[p] / np.linalg.norm(image[p]) for p in best], axis=0)
        prototypes.append(mean / np.linalg.norm(mean))
        seeds.append(divmod(best[0], w))
    return support.reshape(n, h, w), np.array(seeds), np.array(prototypes)


@pytest.mark.parametrize("shape", [(4, 6, 5, 6), (2, 4, 3, 3), (3, 5, 7, 10)])
def test_seeds_are_those_of_the_slow_way(shape):
    features = draws(*shape, seed=1)
    space = measure(draws(30, shape[1], 4, 4, seed=2))
    found = find_seeds(features, space)
    support, seeds, prototypes = slow_seeds(features, space)
    np.testing.assert_allclose(found.support, support, atol=2e-5)
    np.testing.assert_array_equal(found.seeds, seeds)
    np.testing.assert_allclose(found.prototypes, prototypes, atol=1e-4)


def test_ground_that_all_images_share_is_no_seed():
    rng = np.random.default_rng(8)
    ground, thing = 3 * rng.normal(size=(2, 16))
    index = rng.normal(size=(40, 16, 6, 6)) + 0.0
    index[:, :, :4] += ground[:, None, None]
    archive = index[:8].copy()
    archive[:, :, 5, 2] = thing + 0.3 * rng.normal(size=(8, 16))
    found = find_seeds(archive.astype(np.float32), measure(index))
    assert found.seeds.tolist() == [[5, 2]] * 8


def test_seeds_find_what_images_share():
    rng = np.random.default_rng(3)
    features = rng.normal(size=(6, 16, 8, 8)).astype(np.float32)
    places = [(i, 7 - i) for i in range(6)]
    thing = 4 * rng.normal(size=16)
    for image, (y, x) in zip(features, places, strict=True):
        image[:, y, x] = thing + 0.1 * rng.normal(size=16)
    found = find_seeds(features, measure(rng.normal(size=(40, 16, 4, 4))))
    assert found.seeds.tolist() == [list(place) for place in places]


def knowledge_of(seed=4, concepts=3, count=5, channels=6, dense=4):
    rng = np.random.default_rng(seed)
    scales = {}
    for side in (64, 96):
        space = measure(draws(10, channels, 4, 4, seed=side))
        own = rng.normal(size=(concepts, count, channels)).astype(np.float32)
        scales[side] = Scale(space, normalise(own))
    texts = rng.normal(size=(concepts, dense)).astype(np.float32)
    return Knowledge({}, normalise(texts), 10.0, scales)


def views_of(seed=5, channels=6, dense=4):
    return {
        side: (
            draws(1, channels, rows, rows, seed=seed),
            draws(1, dense, rows, rows, seed=seed + 1),
        )
        for side, rows in ((64, 2), (96, 3))
    }


def step(recipe):
    return Method("reco", False, False, False, 5, recipe)


def test_every_step_is_what_its_formula_says():
    knowledge, views = knowledge_of(), views_of()
    scale, (encoder, dense) = knowledge.scales[64], views[64]

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    def scores(side):
        """(positions, concepts): cosine with the mean, mean of the nearest 3, cosine of text."""
        scale, (encoder, dense) = knowledge.scales[side], views[side]
        table = []
        for y in range(encoder.shape[2]):
            for x in range(encoder.shape[3]):
                z = scale.space.matrix @ (encoder[0, :, y, x] - scale.space.mean)
                for own, text in zip(scale.prototypes, knowledge.texts, strict=True):
                    near = sorted((cosine(z, p) for p in own), reverse=True)[:3]
                    text_ = cosine(dense[0, :, y, x], text)
                    table.append((cosine(z, own.mean(0)), np.mean(near), text_))
        rows = encoder.shape[2]
        return np.array(table).reshape(rows, rows, 3, 3).transpose(2, 0, 1, 3)  # concept, y, x

    size = encoder.shape[2:]  # nothing is enlarged
    found = {
        method.recipe: maps
        for method, maps in predict_bank(views, knowledge, [step(name) for name in STEPS], size)
    }
    mean, near, text = np.moveaxis(scores(64), -1, 0)
    whitened = sigmoid(mean) * sigmoid(10 * text)
    np.testing.assert_allclose(found["whitened"], whitened, atol=1e-4)
    np.testing.assert_allclose(found["summed"], WEIGHT * mean + text, atol=1e-4)
    np.testing.assert_allclose(found["kept"], WEIGHT * near + text, atol=1e-4)
    _, near, text = np.moveaxis(scores(96), -1, 0)
    larger = torch.nn.functional.interpolate(
        torch.from_numpy(WEIGHT * near + text)[None], size=tuple(size), mode="bilinear"
    )[0]
    np.testing.assert_allclose(found["seedbank"], (found["kept"] + larger.numpy()) / 2, atol=1e-4)
    assert bank_scores(encoder, dense, scale, knowledge.texts).shape == (1, 3, 2, 2)


def test_fewer_prototypes_than_are_compared_all_count():
    rng = np.random.default_rng(0)
    z = normalise(rng.standard_normal((1, 6, 2, 2), np.float32), axis=1)
    own = normalise(rng.standard_normal((1, 2, 6), np.float32))
    wanted = np.einsum("bchw,nc->bnhw", z, own[0]).mean(1)
    np.testing.assert_allclose(nearest(z, own)[:, 0], wanted, rtol=1.3e-6, atol=1e-5)


def test_the_nearest_prototypes_are_those_of_a_full_sort(monkeypatch):
    """By PyTorch's topk; also where concepts go in several parts, for the memory."""
    rng = np.random.default_rng(1)
    z = normalise(rng.standard_normal((2, 6, 3, 4), np.float32), axis=1)
    own = normalise(rng.standard_normal((5, 7, 6), np.float32))
    cosines = torch.einsum("bchw,nkc->bnkhw", torch.from_numpy(z), torch.from_numpy(own))
    wanted = cosines.topk(NEIGHBOURS, dim=2).values.mean(2)
    found = nearest(z, own)
    np.testing.assert_allclose(found, wanted.numpy(), rtol=1.3e-6, atol=1e-5)
    monkeypatch.setattr("reco.method.segment.COSINES", 2 * 7 * 12)  # two concepts at a time
    np.testing.assert_allclose(nearest(z, own), found, rtol=1.3e-6, atol=1e-6)


def test_a_concept_ends_below_its_peak_in_each_picture():
    maps = np.zeros((2, 10, 10), np.float32)
    maps[0, :2, :5] = 2.0  # plain to see: a threshold for all pictures would flood it
    maps[1, :2, :5] = 0.4
    ends = extent(maps, np.array([0.0, 0.0]), np.array([0.3, 0.3]))
    np.testing.assert_allclose(ends, [EXTENT * 2.0, 0.3], atol=1e-6)
    low, high = bounds(np.array([[0.1, 0.9], [0.2, 0.7]]), np.arange(101) / 1000)
    assert (low, high) == (pytest.approx(0.095), pytest.approx(0.8))


# ---- what is given amiss ----------------------------------------------------------------------


def test_an_index_smaller_than_its_channels_has_a_space_all_the_same():
    few = draws(1, 40, 2, 2)
    space = measure(few)
    assert np.isfinite(space.matrix).all()
    np.testing.assert_allclose(np.linalg.norm(space.whiten(few), axis=1), 1, atol=1e-5)


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (np.ones((3, 4, 2, 2)), "do not vary"),
        (np.full((2, 4, 2, 2), np.nan), "nan or infinity"),
    ],
)
def test_features_that_tell_nothing_are_one_line(features, message):
    with pytest.raises(RecoError, match=message):
        measure(features)


def test_one_image_has_nothing_in_common():
    space = measure(draws(4, 6, 3, 3))
    with pytest.raises(RecoError, match="at least 2 archive images"):
        find_seeds(draws(1, 6, 3, 3), space)
    with pytest.raises(RecoError, match="of another encoder"):
        find_seeds(draws(3, 5, 3, 3), space)


def test_the_file_of_an_archive(tmp_path):
    features = {side: draws(4, 6, rows, rows, seed=side) for side, rows in ((64, 3), (96, 4))}
    space = measure(draws(9, 6, 3, 3))
    spaces, rows = {}, [{"rank": i + 1, "path": f"{i}.png", "key": f"k{i}"} for i in range(4)]
    for side, values in features.items():
        store = Store(tmp_path / f"store-{side}")
        store.append([f"k{i}" for i in range(4)], values)
        for row in rows:
            place = store.places()[row["key"]]
            row |= {f"encoder_{side}_shard": place.shard, f"encoder_{side}_row": place.row}
        spaces |= pack_spaces({side: space})
    table, whitening, bank = (
        tmp_path / name for name in ("f.csv", "w.safetensors", "b.safetensors")
    )
    write_table(table, list(rows[0]), [list(row.values()) for row in rows])
    save_file(spaces, whitening)
    bank_archive(table, whitening, [64, 96], 3, bank)
    stored = read_tensors(bank)
    for side, values in features.items():
        wanted = find_seeds(values[:3].astype(np.float16), space)
        np.testing.assert_array_equal(stored[f"{side}.seeds"], wanted.seeds)
        np.testing.assert_allclose(stored[f"{side}.prototypes"], wanted.prototypes, atol=1e-6)
        assert stored[f"{side}.support"].shape == wanted.support.shape
    with pytest.raises(RecoError, match=r"has no '128.mean'.*run the stage"):
        read_spaces(whitening, [64, 128])
    with pytest.raises(RecoError, match=r"f\.csv: a bank of seeds needs at least 2"):
        bank_archive(table, whitening, [64], 1, bank)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"recipe": "seed bank"}, "recipe: "),
        ({"bank": {"size": 1}}, "bank.size: "),
        ({"bank": {"scales": []}}, "bank.scales: "),
        ({"bank": {"scales": [320, 320]}}, "given twice"),
        ({"recipe": "seedbank", "geometry": "released"}, "recipe: seedbank has no released code"),
    ],
)
def test_settings_that_cannot_be(values, message):
    with pytest.raises(RecoError, match=re.escape(message)):
        check_config(values)


# ---- the plan ---------------------------------------------------------------------------------


def test_names_of_a_bank_follow_its_settings_and_the_paper_s_do_not():
    plain = Config(concepts=["cat", "dog"], recipe="seedbank", context=["sky"])
    one, other = (
        Experiment(plain.model_copy(update={"bank": plain.bank.model_copy(update=change)}), "x")
        for change in ({}, {"scales": [320]})
    )
    assert one.bank("cat") != other.bank("cat") and one.bank("cat") != one.bank("dog")
    assert one.whitening != other.whitening
    assert one.reference("cat") == other.reference("cat")
    assert one.config.deepest_archive == 30


def test_the_paper_s_files_are_made_where_tables_show_them():
    scored = Experiment(Config(concepts=["cat"], recipe="seedbank"), "x")
    assert {method.recipe for method in scored.zero_shot} == {"paper", *STEPS}
    assert scored.best == replace(scored.steps[-1], crf=True)
    assert scored.plus[0].recipe == "seedbank" and scored.paper.recipe == "paper"
    alone = Experiment(Config(concepts=["cat"], recipe="seedbank", benchmark=None, train=None), "x")
    assert alone.learned_by([alone.best]) == [alone.bank("cat"), alone.whitening]
    assert alone.context == [] and alone.sources == ["cat"]
    train, val = (scored.learned_by(scored.methods(split)) for split in ("train", "val"))
    assert train == alone.learned_by([alone.best]), "the paper's references teach nobody"
    assert val == [scored.reference("cat"), *train]
    paper = Experiment(Config(concepts=["cat"], recipe="paper"), "x")
    assert paper.learned_by(paper.methods("train")) == [paper.reference("cat")]
    assert paper.banked == [] and paper.steps == [] and paper.best == paper.paper


# ---- words to masks ---------------------------------------------------------------------------

CONFIG = {
    "experiment": "colours",
    "device": "cpu",
    "benchmark": None,
    "recipe": "seedbank",
    "bank": {"size": 3, "scales": [96, 128]},
    "sizes": {"retrieval": 96, "archive": 96, "benchmark": 96},
    "models": {role: "colours:discs" for role in ("retrieval", "dense", "encoder")},
    "crf": {"iterations": 2},
}


@pytest.fixture
def model(monkeypatch, tmp_path):
    colours = Colours()
    monkeypatch.setattr(models, "load", lambda spec, **options: colours)
    monkeypatch.chdir(tmp_path)
    make_folder(tmp_path / "mine", index=16)
    return colours


def learner():
    return load(index="mine/photos", config=check_config(CONFIG))


def test_words_are_found_where_they_are(model):
    segmenter = learner()
    for number in range(4):
        truth = np.array(Image.open(f"mine/bench/masks/val/{number}.png"))
        photo = f"mine/bench/images/val/{number}.jpg"
        found = segmenter.segment(photo, list(SHAPES), background=True, crf=False)
        assert (found.labels == np.where(truth == 255, -1, truth.astype(int))).mean() > 0.9
        assert found.maps.min() >= 0 and found.maps.max() <= 1
        everything = segmenter.segment(photo, list(SHAPES), crf=False)
        assert everything.labels.min() >= 0


def test_beside_none_the_crf_sees_wider_ranges_of_colour(model, monkeypatch):
    seen = []

    def mean_field(image, shares, settings):
        seen.append((len(shares), settings.bilateral_srgb))
        return shares

    monkeypatch.setattr("reco.photos.segmenter.mean_field", mean_field)
    segmenter = learner()
    for background in (True, False):
        segmenter.segment("mine/bench/images/val/0.jpg", list(SHAPES), background=background)
    own = segmenter.config.crf.bilateral_srgb
    assert seen == [(4, RANGE * own), (3, own)]


def test_nothing_is_made_twice_and_what_is_lost_is_made_again(model):
    (old,) = learner().learn("orange")
    images = model.images
    (again,) = learner().learn("orange")
    assert again.mark == old.mark and model.images == images
    for part in ("whitening", "bank_features", "banks", "archives", "text"):
        (file,) = [
            f
            for f in Path("data").glob(f"*/{part}/*.*")
            if "orange" in f.name or part == "whitening"
        ]
        file.write_bytes(b"")
        (new,) = learner().learn("orange")
        assert new.mark == old.mark, part
        for side, prototypes in old.references.items():
            np.testing.assert_allclose(new.references[side], prototypes, rtol=1.3e-6, atol=1e-5)
    assert not list(Path("data").glob("*/references/*")), "the paper's recipe was not asked for"


def test_a_changed_index_has_new_statistics(model):
    (old,) = learner().learn("orange")
    (before,) = Path("data").glob("*/whitening/*")
    rng = np.random.default_rng(7)
    for number in range(20):
        noise = rng.integers(0, 255, (96, 96, 3), dtype=np.uint8)
        Image.fromarray(noise).save(f"mine/photos/new {number}.png")
    (new,) = learner().learn("orange")
    assert new.mark != old.mark
    (after,) = set(Path("data").glob("*/whitening/*")) - {before}
    assert (read_tensors(after)["96.mean"] != read_tensors(before)["96.mean"]).any()


def test_an_index_smaller_than_the_bank_gives_all_it_has(model):
    for photo in sorted(Path("mine/photos").glob("*"))[2:]:
        photo.unlink()
    (learned,) = learner().learn("orange")
    assert len(learned.archive) == 2
    assert all(len(prototypes) == 2 for prototypes in learned.references.values())
    assert len(read_table(next(Path("data").glob("*/bank_features/*")))) == 2


def test_an_index_of_one_image_is_one_line(model):
    for photo in sorted(Path("mine/photos").glob("*"))[1:]:
        photo.unlink()
    with pytest.raises(RecoError, match=r"at least 2 archive images.*recipe: paper"):
        learner().learn("orange")


def test_an_index_of_one_even_surface_is_one_line(model):
    for number, photo in enumerate(sorted(Path("mine/photos").glob("*"))):
        # files that differ in no pixel
        Image.new("RGB", (96, 96), (90, 90, 90)).save(
            photo, pnginfo=None, compress_level=number % 9
        )
    with pytest.raises(RecoError, match="do not vary"):
        learner().learn("orange")


def test_what_photographs_do_not_need_still_has_a_name():
    """The workflow names the references of all concepts, also where no rule asks for them."""
    plan = Experiment(Config(concepts=["cat"], recipe="seedbank", benchmark=None, train=None), "x")
    assert plan.context_before("cat") == [] and plan.reference("cat")
