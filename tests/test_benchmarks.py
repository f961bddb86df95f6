"""The benchmarks: what they measure is right, and the ways that they compare agree, in small."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT

from reco.cosegment import cosegment
from reco.retrieve import retrieve

sys.path.insert(0, str(ROOT / "benchmarks"))
import cosegment as bench_cosegment
import crf as bench_crf
import measure
import retrieve as bench_retrieve


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
    """Each lattice once for each picture: splat, blurs, slice."""
    calls = []
    products = bench_crf.crf.products

    def count(blocks, values):
        calls.append(len(blocks))
        return products(blocks, values)

    monkeypatch.setattr(bench_crf.crf, "products", count)
    bench_crf.bare_products(small_case())()
    assert len(calls) == 2 * (5 + 5)


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
