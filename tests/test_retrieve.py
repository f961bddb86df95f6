"""Retrieval against the obvious full sort."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

import reco.retrieve
from reco.config import check_config
from reco.errors import RecoError
from reco.experiment import Experiment
from reco.files import write_digest
from reco.folder import read_table, write_table
from reco.retrieve import retrieve, retrieve_archives


def slow_retrieve(scores, k):
    """Rows by a stable sort of (images, texts) scores: ties by index order."""
    return [sorted(range(len(scores)), key=lambda i: (-column[i], i))[:k] for column in scores.T]


@settings(deadline=None)
@given(st.integers(1, 60), st.integers(1, 5), st.integers(1, 9), st.data())
def test_equals_a_stable_sort_with_ties_by_index_order(n, texts, rows, data):
    k = data.draw(st.integers(1, n))
    rng = np.random.default_rng(data.draw(st.integers(0, 999)))
    embeddings = rng.integers(0, 3, (n, 2)).astype("f4")  # few distinct values: many ties
    queries = rng.integers(0, 3, (texts, 2)).astype("f4")
    cuts = sorted(data.draw(st.lists(st.integers(0, n), max_size=3)))
    with pytest.MonkeyPatch.context() as patch:  # products and passes of any length
        patch.setattr(reco.retrieve, "ROWS", rows)
        patch.setattr(reco.retrieve, "SCORES", data.draw(st.integers(1, 400)))
        found, scores = retrieve(np.split(embeddings, cuts), queries, k)
    wanted = slow_retrieve(embeddings @ queries.T, k)
    assert found.tolist() == wanted
    for text, order in enumerate(wanted):
        assert scores[text].tolist() == (embeddings[order] @ queries[text]).tolist()


def test_equal_images_have_equal_scores_wherever_they_are():
    """Or rounding would decide between them, not the order of the index."""
    rng = np.random.default_rng(0)
    embeddings = rng.standard_normal((7000, 33)).astype(np.float16)
    twins = [5, 2047, 2048, 4000, 6143, 6144, 6999]
    embeddings[twins] = embeddings[twins[0]]
    rows, scores = retrieve([embeddings[:3000], embeddings[3000:]], embeddings[twins[:1]] * 1.0, 9)
    assert rows[0, : len(twins)].tolist() == twins
    assert len(set(scores[0, : len(twins)].tolist())) == 1


def test_passes_over_many_images_equal_one_product():
    rng = np.random.default_rng(0)
    embeddings = rng.standard_normal((9000, 16)).astype(np.float16)
    texts = rng.standard_normal((40, 16)).astype(np.float32)
    rows, scores = retrieve([embeddings], texts, 50)
    product = embeddings.astype(np.float32) @ texts.T
    assert rows.tolist() == slow_retrieve(product, 50)
    np.testing.assert_allclose(scores, np.sort(product, 0)[::-1][:50].T, rtol=1e-5)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="cannot take 3 of 2"):
        retrieve([np.ones((2, 4))], np.ones((1, 4)), 3)
    with pytest.raises(ValueError, match="do not fit"):
        retrieve([np.ones((2, 4))], np.ones((1, 5)), 1)
    for bad in (np.nan, np.inf):
        embeddings = np.ones((5000, 4), np.float16)
        embeddings[4321, 2] = bad
        with pytest.raises(ValueError, match="of rows 4096 to 4999 is nan or infinite"):
            retrieve([embeddings], np.eye(2, 4), 1)


@pytest.fixture
def index(tmp_path, monkeypatch):
    """An experiment with an index of three images and two concepts; its embeddings and images."""
    monkeypatch.chdir(tmp_path)
    settings = {"concepts": ["cat", "dog"], "context": [], "benchmark": None}
    settings |= {"index": {"kind": "folder", "root": "photos"}, "recipe": "paper"}
    experiment = Experiment(check_config({**settings, "archive_size": 2, "archive_sizes": []}))
    np.save("index.npy", np.eye(3, dtype=np.float16))
    write_digest("index.npy")
    write_table("index.csv", ["path", "key"], [("a b.jpg", "x"), ("c,d.jpg", "y"), ("e", "z")])
    for slug, text in (("cat", [0.1, 0.9, 0.3]), ("dog", [0.5, 0.2, 0.4])):
        path = tmp_path / experiment.text(slug)
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({"retrieval": np.array(text, "f4")}, path)
    return experiment, tmp_path / "index.npy", tmp_path / "index.csv"


def test_archives_of_all_concepts(index):
    experiment, *_ = index
    retrieve_archives(*index)
    archives = {slug: read_table(experiment.archive(slug)) for slug in ("cat", "dog")}
    found = {
        slug: [(row["rank"], row["path"], row["key"], row["similarity"]) for row in rows]
        for slug, rows in archives.items()
    }
    assert found == {
        "cat": [("1", "c,d.jpg", "y", "0.900000"), ("2", "e", "z", "0.300000")],
        "dog": [("1", "a b.jpg", "x", "0.500000"), ("2", "e", "z", "0.400000")],
    }


def test_too_small_an_index_is_named(index):
    experiment, *files = index
    values = json.loads(experiment.config.model_dump_json())
    larger = Experiment(check_config({**values, "archive_size": 4}))
    for slug in ("cat", "dog"):
        (files[0].parent / experiment.text(slug)).rename(files[0].parent / larger.text(slug))
    with pytest.raises(RecoError, match="3 usable images, fewer than the archive size 4"):
        retrieve_archives(larger, *files)


@pytest.mark.parametrize("fault", ["flipped", "shorter", "nan", "no digest"])
def test_damaged_embeddings_are_refused(index, fault):
    experiment, embeddings, images = index
    if fault == "flipped":
        with open(embeddings, "r+b") as file:
            file.seek(-1, 2)
            file.write(b"\x01")
    elif fault == "shorter":
        embeddings.write_bytes(embeddings.read_bytes()[:-2])
    elif fault == "nan":
        np.save(embeddings, np.full((3, 3), np.nan, np.float16))
        write_digest(embeddings)
    else:
        embeddings.with_name("index.npy.sha256").unlink()
    with pytest.raises(RecoError, match=r"index\.npy.*make.* again"):
        retrieve_archives(experiment, embeddings, images)
    assert not list(embeddings.parent.rglob("archives/*.csv"))


def test_an_archive_does_not_depend_on_the_other_concepts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    embeddings = rng.standard_normal((500, 64)).astype(np.float32)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    np.save("index.npy", embeddings.astype(np.float16))
    write_digest(Path("index.npy"))
    write_table("index.csv", ["path", "key"], [(f"{i}.jpg", f"k{i}") for i in range(500)])
    names = [f"word {i}" for i in range(40)]

    def archives(names: list[str]) -> dict[str, str]:
        config = {"recipe": "paper", "benchmark": None, "concepts": names, "context": []}
        plan = Experiment(check_config({**config, "archive_size": 20, "archive_sizes": []}))
        for slug in plan.sources:
            text = np.random.default_rng(len(slug) * 1000 + int(slug[5:])).standard_normal(64)
            Path(plan.text(slug)).parent.mkdir(parents=True, exist_ok=True)
            unit = (text / np.linalg.norm(text)).astype(np.float32)
            save_file({"retrieval": unit}, plan.text(slug))
        retrieve_archives(plan, Path("index.npy"), Path("index.csv"))
        return {slug: Path(plan.archive(slug)).read_text() for slug in plan.sources}

    alone, together = archives(names[:2]), archives(names)
    assert alone == {slug: together[slug] for slug in alone}
