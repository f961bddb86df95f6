"""Retrieval against the obvious full sort."""

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

import reco.method.retrieve
from reco.data.tables import read_table, write_table
from reco.errors import RecoError
from reco.files import write_digest, write_json
from reco.method.retrieve import retrieve
from reco.workflow.retrieve import retrieve_archives


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
        patch.setattr(reco.method.retrieve, "ROWS", rows)
        patch.setattr(reco.method.retrieve, "LOOKED_AT", data.draw(st.integers(1, 400)))
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


DESCRIBED = {"model": "packaged", "size": 256, "state": "x"}


@pytest.fixture
def index(tmp_path, monkeypatch):
    """Three images and two concepts: embeddings, images, texts, and what to write."""
    monkeypatch.chdir(tmp_path)
    np.save("index.npy", np.eye(3, dtype=np.float16))
    write_digest("index.npy")
    write_json("index.json", DESCRIBED)
    write_table("index.csv", ["path", "key"], [("a b.jpg", "x"), ("c,d.jpg", "y"), ("e", "z")])
    for slug, text in (("cat", [0.1, 0.9, 0.3]), ("dog", [0.5, 0.2, 0.4])):
        tensors = {"retrieval": np.array(text, "f4")}
        save_file(tensors, f"{slug}.safetensors", {"retrieval": "packaged"})
    texts, archives = ([Path(f"{s}.{e}") for s in ("cat", "dog")] for e in ("safetensors", "csv"))
    return Path("index.npy"), Path("index.csv"), texts, archives


def test_archives_of_concepts(index):
    embeddings, images, texts, archives = index
    retrieve_archives(embeddings, images, texts, 2, archives)
    found = [
        [(row["rank"], row["path"], row["key"], row["similarity"]) for row in read_table(archive)]
        for archive in archives
    ]
    assert found == [
        [("1", "c,d.jpg", "y", "0.900000"), ("2", "e", "z", "0.300000")],
        [("1", "a b.jpg", "x", "0.500000"), ("2", "e", "z", "0.400000")],
    ]


def test_too_small_an_index_is_named(index):
    embeddings, images, texts, archives = index
    with pytest.raises(RecoError, match="3 usable images, fewer than the archive size 4"):
        retrieve_archives(embeddings, images, texts, 4, archives)


@pytest.mark.parametrize("fault", ["flipped", "shorter", "nan", "no digest", "no description"])
def test_damaged_embeddings_are_refused(index, fault):
    embeddings, images, texts, archives = index
    if fault == "flipped":
        with open(embeddings, "r+b") as file:
            file.seek(-1, 2)
            file.write(b"\x01")
    elif fault == "shorter":
        embeddings.write_bytes(embeddings.read_bytes()[:-2])
    elif fault == "nan":
        np.save(embeddings, np.full((3, 3), np.nan, np.float16))
        write_digest(embeddings)
    elif fault == "no digest":
        embeddings.with_name("index.npy.sha256").unlink()
    else:
        Path("index.json").write_text("{}")
    with pytest.raises(RecoError, match=r"index\.(npy|json).*make.* again"):
        retrieve_archives(embeddings, images, texts, 2, archives)
    assert not any(archive.exists() for archive in archives)


def test_embeddings_are_read_twice_only_where_they_are_newer_than_their_description(
    index, monkeypatch
):
    embeddings, images, texts, archives = index
    checked = []
    monkeypatch.setattr("reco.workflow.retrieve.check_digest", checked.append)
    os.utime(embeddings, (1, 1))
    retrieve_archives(embeddings, images, texts, 2, archives)
    assert not checked
    os.utime(embeddings)
    os.utime("index.json", (1, 1))
    retrieve_archives(embeddings, images, texts, 2, archives)
    assert checked == [embeddings]


def test_embeddings_and_texts_of_two_models_are_refused(index):
    """ViT-L/14 and ViT-L/14@336 give as many numbers."""
    embeddings, images, texts, archives = index
    write_json("index.json", {**DESCRIBED, "model": "open_clip:ViT-L-14-336/openai"})
    with pytest.raises(RecoError, match=r"embedded by open_clip:ViT-L-14-336/openai, and cat\.saf"):
        retrieve_archives(embeddings, images, texts, 2, archives)


def test_an_archive_does_not_depend_on_the_other_concepts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    embeddings = rng.standard_normal((500, 64)).astype(np.float32)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    np.save("index.npy", embeddings.astype(np.float16))
    write_digest(Path("index.npy"))
    write_json("index.json", DESCRIBED)
    write_table("index.csv", ["path", "key"], [(f"{i}.jpg", f"k{i}") for i in range(500)])

    def archives(count: int) -> list[str]:
        texts = [Path(f"{i}.safetensors") for i in range(count)]
        for i, path in enumerate(texts):
            text = np.random.default_rng(i).standard_normal(64)
            unit = (text / np.linalg.norm(text)).astype(np.float32)
            save_file({"retrieval": unit}, path, {"retrieval": "packaged"})
        made = [Path(f"{i} of {count}.csv") for i in range(count)]
        retrieve_archives(Path("index.npy"), Path("index.csv"), texts, 20, made)
        return [path.read_text() for path in made]

    assert archives(40)[:2] == archives(2)
