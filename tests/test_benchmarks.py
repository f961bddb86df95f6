"""The benchmarks: what they measure is right, and the ways that they compare agree, in small."""

import re
import subprocess
import sys
import textwrap
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT

from reco.method.cosegment import cosegment
from reco.method.retrieve import retrieve

sys.path.insert(0, str(ROOT / "benchmarks"))
import cosegment as bench_cosegment
import crf as bench_crf
import measure
import retrieve as bench_retrieve
import scale


@pytest.mark.parametrize("variant", ["paper", "released"])
def test_the_whole_matrix_and_ours_agree(variant):
    features, weights = bench_cosegment.make_archive(7, 16, 4, 5)
    seeds, support = bench_cosegment.whole_matrix(features, weights, variant)
    result = cosegment(features, weights, variant=variant)
    assert (result.seeds @ [5, 1] == seeds).all()
    np.testing.assert_allclose(result.support.reshape(7, -1), support, atol=1e-6)


def test_the_released_retrieval_and_ours_agree():
    rng = np.random.default_rng(0)
    embeddings = bench_retrieve.unit_rows(rng, 5000).astype(np.float16)
    texts = bench_retrieve.unit_rows(rng, 3)
    names = [str(i) for i in range(5000)]
    wanted = bench_retrieve.released_way(embeddings.astype(np.float32), texts, names)
    found = retrieve(np.split(embeddings, [1000, 1700]), texts, bench_retrieve.K)[0]
    assert [[str(row) for row in rows] for rows in found] == wanted


def small_case():
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (20, 30, 3), np.uint8) for _ in range(2)]
    shares = rng.dirichlet(np.ones(9), (2, 20, 30)).transpose(0, 3, 1, 2)
    return bench_crf.Case("small", pictures, [*np.ascontiguousarray(shares, np.float32)])


@pytest.mark.skipif(bench_crf.DenseCRF2D is None, reason="pydensecrf2 is not installed")
def test_pydensecrf2_and_ours_agree():
    case = small_case()
    wanted, found = case.run(bench_crf.released_way), case.run(bench_crf.dense_crf)
    assert (np.array(wanted) == np.array(found)).mean() > 0.999


def test_agreement_counts_what_the_crf_changes():
    case = small_case()
    before = [values.argmax(0) for values in case.probabilities]
    wanted = [labels.copy() for labels in before]
    wanted[0][0, :] = (wanted[0][0, :] + 1) % 9  # 30 of 1,200 pixels
    found = [labels.copy() for labels in wanted]
    found[0][0, :3] = before[0][0, :3]
    said = bench_crf.agreement(wanted, found, case)
    assert said == "argmax 99.75% equal, of the 2.5% that it changes 90.0%"


def test_the_bare_products_are_those_of_one_update(monkeypatch):
    """Each lattice once for each picture and class: splat, blurs, slice."""
    widths = []

    class Counted:
        def __init__(self, matrix):
            self.matrix, self.shape = matrix, matrix.shape

        def __matmul__(self, values):
            widths.append(values.shape[1])
            return self.matrix @ values

    make = bench_crf.make_kernels
    monkeypatch.setattr(
        bench_crf,
        "make_kernels",
        lambda *arguments: [[Counted(matrix) for matrix in chain] for chain in make(*arguments)],
    )
    bench_crf.bare_products(small_case())()
    assert widths == [9] * 2 * (5 + 5)
    widths.clear()
    monkeypatch.setattr(bench_crf.crf, "TABLE_BYTES", 100_000)  # not all classes at once
    bench_crf.bare_products(small_case())()
    assert sum(widths) == 9 * 2 * (5 + 5) and max(widths) < 9


def test_without_scenes_the_photographs_are_scikit_learns(monkeypatch, tmp_path):
    monkeypatch.setattr(bench_crf, "SCENES", tmp_path / "none")
    pictures, which = bench_crf.read_pictures()
    assert "scikit-learn" in which and {picture.shape for picture in pictures} == {(320, 320, 3)}


def test_ways_take_turns_and_the_first_turn_does_not_count():
    turns = []
    medians = measure.alternate({name: lambda name=name: turns.append(name) for name in "ab"}, 2)
    assert turns == ["a", "b"] * 3 and set(medians) == {"a", "b"}


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_peak_of_memory():
    assert 190 < measure.peak_mib(lambda: np.ones(50 << 20, np.float32).sum()) < 230
    assert measure.peak_mib(lambda: None) < 20


def test_a_row_says_how_it_compares(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(measure, "RESULTS", tmp_path)
    ways = {"old": lambda: sum(range(300_000)), "new": lambda: sum(range(1000))}
    rows = measure.compare("sum", ways, {"new": "equal"}, limit=1e-9, repeats=3)
    assert [row.way for row in rows] == ["old", "new"]
    assert rows[0].ratio == 1 < rows[1].ratio and rows[1].agrees == "equal"
    measure.report("sums", "Sums", rows, ["a note"])
    assert measure.read_rows(tmp_path / "sums.json") == rows
    assert (tmp_path / "sums.md").read_text() in capsys.readouterr().out


def test_make_bench_runs_every_benchmark():
    done = subprocess.run(
        ["make", "--dry-run", "bench"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    files = {path.stem for path in (ROOT / "benchmarks").glob("*.py")} - {"measure"}
    listed = done.stdout.split("for name in", 1)[1].split(";")[0].split()
    assert set(listed) == files and listed[-1] == "figure"


# ---- scale ------------------------------------------------------------------------------------


def test_recall_counts_the_exact_best_among_the_found_best():
    exact = np.array([[1, 2, 3, 4], [5, 6, 7, 8]])
    found = np.array([[2, 1, 9, 3], [8, -1, -1, -1]])
    assert scale.recall(exact, found, 1) == 0
    assert scale.recall(exact, found, 2) == 2 / 4
    assert scale.recall(exact, found, 4) == (3 + 1) / 8
    assert scale.recall(exact, exact, 4) == 1


def test_the_best_of_every_shard_merge_to_the_best_of_all():
    rng = np.random.default_rng(0)
    matrix = scale.unit(rng.standard_normal((5000, 16))).astype(np.float16)
    matrix[4000:4100] = matrix[:100]  # equal scores in several shards: the first row wins
    texts = scale.unit(rng.standard_normal((3, 16))).astype(np.float32)
    texts[0] = matrix[7]
    cuts = [0, 900, 2500, 4050, 5000]
    parts = []
    for start, end in pairwise(cuts):
        rows, scores = retrieve([matrix[start:end]], texts, 20)
        parts.append((rows + start, scores))
    rows, scores = scale.merge(parts, 20)
    whole_rows, whole_scores = retrieve([matrix], texts, 20)
    assert {7, 4007} <= set(rows[0])
    np.testing.assert_array_equal(rows, whole_rows)
    np.testing.assert_array_equal(scores, whole_scores)


def test_originals_put_candidates_in_exact_order():
    rng = np.random.default_rng(0)
    matrix = scale.unit(rng.standard_normal((300, 16))).astype(np.float16)
    texts = scale.unit(rng.standard_normal((2, 16))).astype(np.float32)
    every = np.stack([rng.permutation(300), rng.permutation(300)])
    np.testing.assert_array_equal(
        scale.rerank(matrix, texts, every, 10), retrieve([matrix], texts, 10)[0]
    )
    assert scale.rerank(matrix, texts[:1], np.array([[5, -1, -1]]), 2).tolist() == [[5, -1]]


def test_the_model_is_found_in_the_seconds_that_it_says():
    model = scale.Model(image=3e-7, product=2e-9)
    sizes = [(100, 1), (100, 27), (400, 100), (1600, 300)]
    passes = [scale.Pass(n, m, model.seconds(n, m)) for n, m in sizes]
    found = scale.fit(passes)
    assert found.image == pytest.approx(3e-7) and found.product == pytest.approx(2e-9)
    assert model.seconds(1e6, 27) == pytest.approx(1e6 * (3e-7 + 32 * 2e-9))
    assert scale.until_it_pays(model, 10, 27) == 10
    assert scale.until_it_pays(model, 10, 1000) == pytest.approx(10 * (300 + 64) / (300 + 2016))


def test_synthetic_vectors_have_the_clusters_of_the_real_ones():
    rng = np.random.default_rng(0)
    spreads = np.array([[0.2, 0, 0, 0], [0, 0, 0.2, 0]])
    real = [
        scale.unit(3 * np.eye(4)[i] + rng.standard_normal((size, 4)) @ np.diag(spread))
        for i, (size, spread) in enumerate(zip([300, 100], spreads, strict=True))
    ]
    made = scale.synthesise(rng, [part.astype(np.float32) for part in real], 4000)
    first = made[:, 0] > made[:, 1]
    np.testing.assert_allclose(np.linalg.norm(made, axis=1), 1, atol=1e-5)
    assert first.mean() == pytest.approx(0.75, abs=0.03)
    np.testing.assert_allclose(np.cov(made[~first].T), np.cov(real[1].T), atol=1e-3)
    assert made[~first].std(axis=0)[2] > 0.05 > 10 * made[~first].std(axis=0)[3]


def test_what_other_sizes_cost_is_what_they_hold():
    model = scale.Model(image=0, product=1e-9)
    costs = scale.extrapolate(model, {"IVF": 150}, {"IVF": 72}, rate=10).set_index("")
    assert costs.loc["embeddings, float16", "5 B"] == "7.7 TB"
    assert costs.loc["memory of IVF", "5 B"] == "360 GB"
    assert costs.loc["building IVF, this machine, at least", "5 B"] == "6.67 h"
    exact = costs.loc["exact pass, 1000 concepts, this machine, the disk keeping up", "400 M"]
    assert exact == scale.duration(400e6 * 1008e-9) == "6.72 min"
    assert [scale.duration(value) for value in (90, 3 * 3600, 1e6)] == ["90 s", "3 h", "11.6 days"]


def test_the_page_finds_candidates_in_published_shards(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "img_emb").mkdir()
    matrix = scale.unit(rng.standard_normal((1200, 8))).astype(np.float16)
    for number, part in {2: matrix[:500], 10: matrix[500:]}.items():  # by number, not by letter
        np.save(tmp_path / f"img_emb/img_emb_{number}.npy", part)
    texts = scale.unit(rng.standard_normal((3, 8))).astype(np.float32)
    np.save(tmp_path / "texts.npy", texts)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/scale.md").read_text(), re.DOTALL)
    [script] = [textwrap.dedent(block) for block in blocks if "# candidates.py" in block]
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True)
    found = pd.read_csv(tmp_path / "candidates.csv")
    wanted = retrieve([matrix], texts, 200)[0].ravel()
    assert (found["concept"] == np.repeat(range(3), 200)).all()
    assert (found["file"] == np.where(wanted < 500, "img_emb_2.npy", "img_emb_10.npy")).all()
    assert (found["row"] == np.where(wanted < 500, wanted, wanted - 500)).all()
