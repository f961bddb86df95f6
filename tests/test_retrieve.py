"""Retrieval against the obvious full sort."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

import reco.retrieve
from reco.errors import RecoError
from reco.folder import read_table, write_table
from reco.retrieve import retrieve, retrieve_archive


@settings(deadline=None)
@given(st.integers(1, 60), st.data())
def test_equals_a_stable_sort_with_ties_by_index_order(n, data):
    k = data.draw(st.integers(1, n))
    # few distinct values: many ties
    embeddings = np.array(data.draw(st.lists(st.integers(0, 3), min_size=n, max_size=n)), "f4")
    rows, scores = retrieve(embeddings[:, None], np.ones(1, "f4"), k)
    wanted = sorted(range(n), key=lambda i: (-embeddings[i], i))[:k]
    assert rows.tolist() == wanted
    assert scores.tolist() == [embeddings[i] for i in wanted]


def test_chunks_change_nothing(monkeypatch):
    rng = np.random.default_rng(0)
    embeddings = rng.standard_normal((1000, 16)).astype(np.float16)
    text = rng.standard_normal(16)
    whole = retrieve(embeddings, text, 50)
    monkeypatch.setattr(reco.retrieve, "CHUNK", 7)
    np.testing.assert_array_equal(retrieve(embeddings, text, 50)[0], whole[0])


def test_bad_sizes_are_named():
    with pytest.raises(ValueError, match="cannot take 3 of 2"):
        retrieve(np.ones((2, 4)), np.ones(4), 3)
    with pytest.raises(ValueError, match="do not fit"):
        retrieve(np.ones((2, 4)), np.ones(5), 1)


def test_archive_file(tmp_path):
    np.save(tmp_path / "e.npy", np.eye(3, dtype=np.float16))
    write_table(
        tmp_path / "i.csv", ["path", "key"], [("a b.jpg", "x"), ("c,d.jpg", "y"), ("e", "z")]
    )
    save_file({"retrieval": np.array([0.1, 0.9, 0.3], "f4")}, tmp_path / "t.safetensors")
    files = [tmp_path / name for name in ("e.npy", "i.csv", "t.safetensors")]
    retrieve_archive(*files, 2, tmp_path / "archive.csv")
    rows = read_table(tmp_path / "archive.csv")
    assert [(row["rank"], row["path"], row["key"]) for row in rows] == [
        ("1", "c,d.jpg", "y"),
        ("2", "e", "z"),
    ]
    with pytest.raises(RecoError, match="3 usable images, fewer than the archive size 4"):
        retrieve_archive(*files, 4, tmp_path / "none.csv")
    assert not (tmp_path / "none.csv").exists()
