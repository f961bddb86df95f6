"""Retrieval beyond what a laptop holds: an approximate index beside the exact pass, and a model.

Recall is measured on real vectors (the dense features of the default experiment's scenes, searched
with texts in the same space) and, for larger numbers, on synthetic ones that are drawn to look like
them. The seconds of exact passes give a model of two numbers, which says what other sizes cost.
docs/scale.md reads the results.
"""

import logging
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import faiss
import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from measure import RESULTS, alternate, describe_machine, gemm_rate, read_rate
from scipy.optimize import nnls

from reco.config import load as load_config
from reco.data.colours import GREY, VERMILION
from reco.data.folder import find_images
from reco.errors import RecoError
from reco.experiment import Experiment
from reco.files import write_json, write_text
from reco.method.retrieve import LANES, retrieve
from reco.models import load
from reco.models.packaged import imagenet_names
from reco.workflow.embed import encode, load_images
from reco.workflow.figures.style import LINES, STYLE, write_figure

CONFIG, INDEX = Path("config/config.yaml"), Path("data/stamps/scenes/index")
SIZE = 320  # pixels of a scene: a map of 10 x 10 real vectors
QUERIES = 200  # the concepts of the default experiment, then names of ImageNet
K, ARCHIVES = 50, (5, 20, 50)  # best vectors that are searched; k at which recall is looked at

LENGTH, SHARD, SHARDS = 768, 160_000, 8  # synthetic: 1,280,000 vectors of CLIP ViT-L/14's length
SHAPES = 512  # clusters of the real vectors, whose means and covariances the synthetic ones get
GROWTH = (1, 2, 4, 8)  # shards at which recall is measured

CELLS, SAMPLES = 1024, 40  # inverted lists, and vectors a list to train on
PROBES = (4, 16, 64, 256)  # lists that a query looks into
CODES = {"SQ8": "SQ8", "PQ64": "PQ64np"}  # np: without polysemous training, which takes minutes
CANDIDATES = 1000  # of an index of codes, whose scores are then computed from the originals

PASSES = [(1, 1), (1, 27), (1, 300), (1, 1000), (4, 1), (4, 27), (4, 100), (8, 27), (8, 100)]
"""(shards, concepts) of the exact passes that are timed; the model is fitted to those of fewer
than all shards, and has to foretell the others."""

TARGETS = {"400 M": 400e6, "5 B": 5e9}  # images
A100_RATE = 312  # images/s, CLIP ViT-L/14 at 224 pixels (LAION-5B's announcement, March 2022)
DISK_RATE = 2e9  # bytes/s, assumed: one NVMe disk, read from start to end
LINKS = 64 * 4 + 8  # bytes of HNSW32 a vector: 64 links of its lowest layer, an id


# ---- recall -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Trial:
    """One index, searched in one way.

    Attributes:
        vectors: real or synthetic.
        images: number of vectors.
        index: such as "IVF1024,PQ64, re-ranked".
        probes: lists that a query looks into.
        recall: share of the exact best k that are among the index's best k, for k of ARCHIVES.
        bytes: of a vector in the index's memory, its id included.
        cost: time of all queries as a share of the exact pass' for them, both in alternation; None
            where it was not timed.
    """

    vectors: str
    images: int
    index: str
    probes: int
    recall: dict[int, float]
    bytes: float
    cost: float | None


def recall(exact: np.ndarray, found: np.ndarray, k: int) -> float:
    """Share of the exact best k (m, >= k) that are among the found best k (m, >= k).

    Places that a search could not fill hold -1.
    """
    hits = [
        len(np.intersect1d(a, b[b >= 0])) for a, b in zip(exact[:, :k], found[:, :k], strict=True)
    ]
    return sum(hits) / (k * len(exact))


def merge(parts: Sequence[tuple[np.ndarray, np.ndarray]], k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k best of all shards out of the k best of each: what `retrieve` finds in all at once.

    Args:
        parts: rows (m, k) counted through all shards and scores (m, k), in the order of the shards.
    """
    rows, scores = (np.concatenate(values, axis=1) for values in zip(*parts, strict=True))
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(rows, order, 1), np.take_along_axis(scores, order, 1)


def rerank(matrix: np.ndarray, queries: np.ndarray, found: np.ndarray, k: int) -> np.ndarray:
    """Rows (m, k) of the best among the candidates `found` (m, c), scored by the originals."""
    best = np.full((len(queries), k), -1, np.int64)
    for place, (query, rows) in enumerate(zip(queries, found, strict=True)):
        rows = np.sort(rows[rows >= 0])
        order = np.argsort(-(matrix[rows].astype(np.float32) @ query), kind="stable")[:k]
        best[place, : len(order)] = rows[order]
    return best


def make_index(code: str, sample: np.ndarray) -> faiss.IndexIVF:
    """An empty index of CELLS inverted lists by inner product, trained on `sample` (n, d)."""
    index = faiss.index_factory(
        sample.shape[1], f"IVF{CELLS},{CODES[code]}", faiss.METRIC_INNER_PRODUCT
    )
    index.cp.niter, index.cp.max_points_per_centroid = 8, SAMPLES
    if isinstance(index, faiss.IndexIVFPQ):
        index.pq.cp.niter = 10
    index.train(sample)
    return index


def search(
    index: faiss.IndexIVF, matrix: np.ndarray, queries: np.ndarray, probes: int, again: bool
) -> np.ndarray:
    """Rows (m, K) that an index finds; `again`: CANDIDATES of them, re-ranked by the originals."""
    index.nprobe = probes
    found = index.search(queries, CANDIDATES if again else K)[1]
    return rerank(matrix, queries, found, K) if again else found


def try_index(
    vectors: str,
    code: str,
    index: faiss.IndexIVF,
    matrix: np.ndarray,
    queries: np.ndarray,
    exact: np.ndarray,
    *,
    timed: bool,
) -> list[Trial]:
    """All ways of searching one index.

    Args:
        vectors: real or synthetic.
        exact: rows (m, K) that the exact pass finds.
        timed: in alternation with the exact pass, too.
    """
    cases = [(probes, again) for probes in PROBES for again in (False, True)[: 1 + (code != "SQ8")]]
    found: dict[tuple[int, bool], np.ndarray] = {}

    def find(case: tuple[int, bool]) -> None:
        found[case] = search(index, matrix, queries, *case)

    costs: dict[tuple[int, bool], float] = {}
    if timed:
        ways = {str(case): lambda case=case: find(case) for case in cases}
        ways["exact"] = lambda: retrieve([matrix], queries, K)
        seconds = alternate(ways, repeats=1)
        costs = {case: seconds[str(case)] / seconds["exact"] for case in cases}
    else:
        for case in cases:
            find(case)
    return [
        Trial(
            vectors,
            len(matrix),
            f"IVF{CELLS},{code}" + ", re-ranked" * again,
            probes,
            {k: recall(exact, found[probes, again], k) for k in ARCHIVES},
            index.code_size + 8,
            costs.get((probes, again)),
        )
        for probes, again in cases
    ]


# ---- vectors ----------------------------------------------------------------------------------


def real_vectors() -> tuple[np.ndarray, np.ndarray, float]:
    """Dense features of all scenes, texts in their space, and images embedded a second.

    Returns:
        (n, 1280) float16 unit vectors, 100 a scene; (QUERIES, 1280) float32 unit vectors.
    """
    if not INDEX.is_dir():
        raise RecoError(f"{INDEX}: missing: run 'snakemake --cores all compose weights' first")
    model = load("packaged")
    items = [(name, INDEX / name) for name in find_images(INDEX)]
    start = time.perf_counter()
    maps = [
        found["dense"].reshape(1280, -1).T
        for _, found in encode(model, load_images(items, model, SIZE, {}), {"dense"})
    ]
    rate = len(items) / (time.perf_counter() - start)
    concepts = Experiment(load_config(CONFIG)).concepts.values()
    names = [concept.name for concept in concepts] + [group[0] for group in imagenet_names()[::7]]
    texts = model.embed_texts(list(dict.fromkeys(names))[:QUERIES], "dense")
    return unit(np.concatenate(maps)).astype(np.float16), texts.astype(np.float32), rate


def unit(vectors: np.ndarray) -> np.ndarray:
    """Each row scaled to length 1."""
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def leading_directions(vectors: np.ndarray, count: int) -> np.ndarray:
    """(d, count) orthonormal: the directions that hold most of the vectors' length."""
    moments = vectors.T @ vectors
    return np.linalg.eigh(moments)[1][:, ::-1][:, :count]


def clusters(vectors: np.ndarray, count: int) -> list[np.ndarray]:
    """Vectors (n, d) by the nearest of `count` centres, without clusters of one vector."""
    kmeans = faiss.Kmeans(vectors.shape[1], count, niter=8, spherical=True, seed=0)
    kmeans.train(vectors)
    labels = kmeans.index.search(vectors, 1)[1][:, 0]
    order = np.argsort(labels, kind="stable")
    parts = np.split(vectors[order], np.flatnonzero(np.diff(labels[order])) + 1)
    return [part for part in parts if len(part) > 1]


def synthesise(rng: np.random.Generator, shapes: Sequence[np.ndarray], size: int) -> np.ndarray:
    """(size, d) float32 unit vectors, normally distributed within each cluster of real ones.

    A cluster is drawn as often as it is large; its vectors have its mean and its covariance.
    """
    shares = np.array([len(shape) for shape in shapes], float)
    chosen = rng.choice(len(shapes), size, p=shares / shares.sum())
    vectors = np.empty((size, shapes[0].shape[1]), np.float32)
    for number, shape in enumerate(shapes):
        places = np.flatnonzero(chosen == number)
        mean = shape.mean(axis=0)
        weights = rng.standard_normal((len(places), len(shape)), dtype=np.float32)
        vectors[places] = mean + weights @ (shape - mean) / np.sqrt(len(shape))
    return unit(vectors)


# ---- exact passes -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Pass:
    """One exact pass over all images for some concepts at once, and its median seconds."""

    images: int
    concepts: int
    seconds: float


@dataclass(frozen=True)
class Model:
    """Seconds of an exact pass: images * (image + concepts * product).

    Attributes:
        image: to read an image's vector and widen it.
        product: to score it with one concept; concepts count in whole lanes of LANES.
    """

    image: float
    product: float

    def seconds(self, images: float, concepts: int) -> float:
        """Of one pass."""
        return images * (self.image + in_lanes(concepts) * self.product)


def in_lanes(concepts: int) -> int:
    """Concepts that a pass computes for `concepts` that are asked for."""
    return -(-concepts // LANES) * LANES


def fit(passes: Sequence[Pass]) -> Model:
    """The model, both numbers >= 0, with the least squares of relative errors."""
    terms = [
        (one.images / one.seconds, one.images * in_lanes(one.concepts) / one.seconds)
        for one in passes
    ]
    image, product = nnls(np.array(terms), np.ones(len(terms)))[0]
    return Model(float(image), float(product))


def time_passes(matrix: np.ndarray) -> list[Pass]:
    """The PASSES over a matrix in the page cache, in alternation."""
    texts = unit(np.random.default_rng(2).standard_normal((1000, LENGTH), dtype=np.float32))
    shards = np.split(matrix, SHARDS)
    seconds = alternate(
        {
            str(case): lambda case=case: retrieve(shards[: case[0]], texts[: case[1]], K)
            for case in PASSES
        },
        repeats=3,
    )
    return [Pass(count * SHARD, texts, seconds[str((count, texts))]) for count, texts in PASSES]


def time_cold(path: Path) -> tuple[float, float] | None:
    """Bytes a second of a bare read and of an exact pass for 27 concepts, out of no cache.

    None where a file's pages cannot be dropped from the page cache.
    """
    if not hasattr(os, "posix_fadvise"):
        return None
    texts = unit(np.random.default_rng(2).standard_normal((27, LENGTH), dtype=np.float32))

    def read() -> None:
        drop(path)
        with open(path, "rb", buffering=0) as file:
            while file.read(1 << 24):
                pass

    def retrieve_cold() -> None:
        drop(path)
        retrieve([np.load(path, mmap_mode="c")], texts, K)

    seconds = alternate({"read": read, "retrieve": retrieve_cold}, repeats=2)
    size = path.stat().st_size
    return size / seconds["read"], size / seconds["retrieve"]


def drop(path: Path) -> None:
    """Take a file's pages out of the page cache; nothing may have it mapped."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


# ---- what other sizes cost --------------------------------------------------------------------


def until_it_pays(model: Model, build: float, concepts: int) -> float:
    """Exact passes that take as long as building an index whose queries cost nothing.

    Args:
        build: the same for 27 concepts.
        concepts: of a pass.
    """
    return build * model.seconds(1, 27) / model.seconds(1, concepts)


def extrapolate(
    model: Model, builds: Mapping[str, float], sizes: Mapping[str, float], rate: float
) -> pd.DataFrame:
    """What TARGETS cost: storage, embedding, exact passes and indexes.

    Args:
        builds: index -> how many exact passes for 27 concepts building it takes.
        sizes: index -> bytes a vector.
        rate: images embedded a second on this machine.
    """
    lines: list[tuple[str, str, list[str]]] = []

    def add(what: str, how: str, values: list[str]) -> None:
        lines.append((what, how, values))

    counts = list(TARGETS.values())
    add("embeddings, float16", "computed", [storage(n * LENGTH * 2) for n in counts])
    add(
        f"embedding, CLIP ViT-L/14 at 224 pixels, one A100 at {A100_RATE} images/s",
        "published rate",
        [duration(n / A100_RATE) for n in counts],
    )
    add(
        f"embedding, packaged model at {SIZE} pixels, this machine at {rate:.1f} images/s",
        "measured rate",
        [duration(n / rate) for n in counts],
    )
    add(
        f"reading all embeddings once at {DISK_RATE / 1e9:.0f} GB/s",
        "assumed rate",
        [duration(n * LENGTH * 2 / DISK_RATE) for n in counts],
    )
    for concepts in (27, 171, 1000):
        add(
            f"exact pass, {concepts} concepts, this machine, the disk keeping up",
            "model",
            [duration(model.seconds(n, concepts)) for n in counts],
        )
    for name, passes in builds.items():
        add(
            f"building {name}, this machine, at least",
            "model",
            [duration(passes * model.seconds(n, 27)) for n in counts],
        )
        add(f"memory of {name}", "computed", [storage(n * sizes[name]) for n in counts])
    add("memory of HNSW32,SQ8", "computed", [storage(n * (LENGTH + LINKS)) for n in counts])
    return pd.DataFrame(
        [(what, how, *values) for what, how, values in lines], columns=["", "is", *TARGETS]
    )


def duration(seconds: float) -> str:
    """Such as "9.1 h"."""
    for name, length in (("years", 365 * 86400), ("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.3g} {name}"
    return f"{seconds:.3g} s"


def storage(size: float) -> str:
    """Such as "7.7 TB"."""
    return f"{size / 1e12:.2g} TB" if size >= 1e12 else f"{size / 1e9:.3g} GB"


# ---- report -----------------------------------------------------------------------------------


def try_real(vectors: np.ndarray, queries: np.ndarray) -> list[Trial]:
    """Every index over the real vectors."""
    exact = retrieve([vectors], queries, K)[0]
    values = vectors.astype(np.float32)
    sample = draw(values, np.random.default_rng(0))
    trials = []
    for code in CODES:
        index = make_index(code, sample)
        index.add(values)
        trials += try_index("real", code, index, vectors, queries, exact, timed=True)
    return trials


def draw(vectors: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Vectors to train an index on."""
    return vectors[rng.choice(len(vectors), CELLS * SAMPLES, replace=False)].astype(np.float32)


def try_synthetic(matrix: np.ndarray, queries: np.ndarray) -> tuple[list[Trial], dict[str, float]]:
    """Every index over the first GROWTH shards of a matrix.

    Returns:
        The trials, and how many times as long as an exact pass for 27 concepts filling each index
        takes: both shard by shard, in alternation. Training, once on a sample, does not count.
    """
    shards = np.split(matrix, SHARDS)
    parts = []
    for number, shard in enumerate(shards):
        rows, scores = retrieve([shard], queries, K)
        parts.append((rows + number * SHARD, scores))
    sample = draw(matrix, np.random.default_rng(1))
    trials, builds = [], {}
    for code in CODES:
        index = make_index(code, sample)
        fill, passes = [], []
        for count, shard in enumerate(shards, 1):
            start = time.perf_counter()
            index.add(shard.astype(np.float32))
            fill.append(time.perf_counter() - start)
            start = time.perf_counter()
            retrieve([shard], queries[:27], K)
            passes.append(time.perf_counter() - start)
            if count in GROWTH:
                exact, held = merge(parts[:count], K)[0], matrix[: count * SHARD]
                timed = count == SHARDS
                trials += try_index("synthetic", code, index, held, queries, exact, timed=timed)
        builds[f"IVF{CELLS},{code}"] = float(np.median(np.divide(fill, passes)))
    return trials, builds


def write_synthetic(
    path: Path, vectors: np.ndarray, queries: np.ndarray
) -> tuple[np.ndarray, float]:
    """Write SHARDS shards of synthetic vectors as one .npy of float16.

    Returns:
        The queries in the space of the synthetic vectors, and the share of the real vectors'
        squared length that this space holds.
    """
    values = vectors.astype(np.float32)
    basis = leading_directions(values, LENGTH)
    values = values @ basis
    held = float((values**2).sum() / len(values))
    shapes = clusters(unit(values), SHAPES)
    matrix = np.lib.format.open_memmap(path, "w+", np.float16, (SHARDS * SHARD, LENGTH))
    for number, rng in enumerate(np.random.default_rng(0).spawn(SHARDS)):
        matrix[number * SHARD : (number + 1) * SHARD] = synthesise(rng, shapes, SHARD)
    matrix.flush()
    return unit(queries @ basis), held


def table(frame: pd.DataFrame) -> str:
    """As Markdown."""
    return frame.to_markdown(index=False, disable_numparse=True)


def trial_table(trials: Sequence[Trial]) -> pd.DataFrame:
    """The trials that were timed."""
    return pd.DataFrame(
        [
            {
                "vectors": f"{one.images:,} {one.vectors}",
                "index": one.index,
                "bytes a vector": f"{one.bytes:.0f}",
                "lists looked into": f"{one.probes} of {CELLS}",
                **{f"recall@{k}": f"{value:.3f}" for k, value in one.recall.items()},
                "time, of the exact pass": f"{one.cost:.0%}",
            }
            for one in trials
            if one.cost is not None
        ]
    )


def growth_table(trials: Sequence[Trial], probes: int) -> pd.DataFrame:
    """Recall@K by the number of vectors, with `probes` lists looked into."""
    chosen = [one for one in trials if one.probes == probes]
    frame = pd.DataFrame(
        {
            "index": [one.index for one in chosen],
            "vectors": [f"{one.images:,} {one.vectors}" for one in chosen],
            "recall": [f"{one.recall[K]:.3f}" for one in chosen],
        }
    )
    order = frame["vectors"].drop_duplicates()
    return frame.pivot(index="index", columns="vectors", values="recall")[order].reset_index()


def pass_table(passes: Sequence[Pass], model: Model) -> pd.DataFrame:
    """Measured and modelled seconds."""
    whole = SHARDS * SHARD
    return pd.DataFrame(
        [
            {
                "images": f"{one.images:,}",
                "concepts": one.concepts,
                "median, s": f"{one.seconds:.3g}",
                "model, s": f"{model.seconds(one.images, one.concepts):.3g}",
                "off": f"{model.seconds(one.images, one.concepts) / one.seconds - 1:+.0%}",
                "used for the fit": "no" if one.images == whole else "yes",
            }
            for one in passes
        ]
    )


def draw_figure(trials: Sequence[Trial], model: Model, builds: Mapping[str, float]) -> Figure:
    """Recall against time, recall against size, cost against the number of concepts."""
    names = list(dict.fromkeys(one.index for one in trials))
    colours = dict(zip(names, LINES, strict=False))
    dashes = {"real": "--", "synthetic": "-"}
    with rc_context(STYLE):
        figure = Figure(figsize=(10, 3.8), layout="constrained")
        by_time, by_size, by_use = figure.subplots(1, 3)
        for name in names:
            for vectors, dash in dashes.items():
                chosen = [one for one in trials if (one.index, one.vectors) == (name, vectors)]
                timed = [one for one in chosen if one.cost is not None]
                points = [one.cost for one in timed], [one.recall[K] for one in timed]
                by_time.plot(*points, color=colours[name], linestyle=dash, marker="o", markersize=3)
            for probes, width in zip(PROBES, (0.5, 1, 1.5, 2), strict=True):
                chosen = [one for one in trials if (one.index, one.probes) == (name, probes)]
                grown = [one for one in chosen if one.vectors == "synthetic"]
                points = [one.images for one in grown], [one.recall[K] for one in grown]
                by_size.plot(
                    *points, color=colours[name], linewidth=width, marker="o", markersize=3
                )
        by_time.axvline(1, color=VERMILION)
        by_time.set(xscale="log", ylabel=f"recall@{K}", title="More lists looked into")
        by_time.set_xlabel(f"time of {QUERIES} queries, of the exact pass")
        by_time.set_xticks([0.01, 0.1, 1], ["1 %", "10 %", "100 %"])
        by_size.set(xscale="log", xlabel="synthetic vectors", ylabel=f"recall@{K}")
        by_size.set(title=f"More vectors; thin to thick: {PROBES[0]} to {PROBES[-1]} lists")
        sizes = [count * SHARD for count in GROWTH]
        by_size.set_xticks(sizes, [f"{size / 1e6:.2f} M" for size in sizes])
        by_size.minorticks_off()
        uses = np.geomspace(27, 1e5)
        for concepts, dash in ((27, ":"), (1000, "-")):
            cost = uses / concepts * model.seconds(1, concepts)
            label = f"exact, {concepts} concepts a pass"
            by_use.plot(uses, cost * 1e6, color=VERMILION, linestyle=dash, label=label)
        for name, passes in builds.items():
            by_use.axhline(
                passes * model.seconds(1, 27) * 1e6, color=colours[name], label=f"building {name}"
            )
        by_use.set(xscale="log", yscale="log", title="Exact passes, or an index with free queries")
        by_use.set(xlabel="concepts in all", ylabel="µs an image, this machine")
        by_use.set_xticks([1e2, 1e3, 1e4, 1e5], ["100", "1,000", "10,000", "100,000"])
        by_use.set_yticks([1, 10, 100, 1000], ["1", "10", "100", "1,000"])
        by_use.legend(fontsize=6.5)
        marks = [Line2D([], [], color=colours[name], label=name) for name in names]
        marks += [
            Line2D([], [], color=GREY, linestyle=dash, marker="o", markersize=3, label=vectors)
            for vectors, dash in dashes.items()
        ]
        marks.append(Line2D([], [], color=VERMILION, label="exact pass"))
        figure.legend(handles=marks, loc="outside lower center", ncols=6)
    return figure


def main() -> None:
    """Measure, and write `results/benchmarks/scale.{md,json,png}`."""
    logging.getLogger("reco").setLevel(logging.WARNING)
    faiss.omp_set_num_threads(os.cpu_count() or 1)
    vectors, queries, rate = real_vectors()
    trials = try_real(vectors, queries)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "synthetic.npy"
        projected, held = write_synthetic(path, vectors, queries)
        del vectors
        cold = time_cold(path)
        matrix = np.load(path, mmap_mode="c")
        found, builds = try_synthetic(matrix, projected)
        passes = time_passes(matrix)
    trials += found
    model = fit([one for one in passes if one.images < SHARDS * SHARD])
    sizes = {one.index: one.bytes for one in trials}
    costs = extrapolate(model, builds, sizes, rate)
    limits = {
        "product": 2 * LENGTH / gemm_rate(2048, LENGTH, 112),
        "image": 2 * LENGTH / read_rate(),
    }
    pays = {
        name: {concepts: until_it_pays(model, build, concepts) for concepts in (27, 171, 1000)}
        for name, build in builds.items()
    }
    notes = [
        f"real: dense features of {len(find_images(INDEX)):,} scenes at {SIZE} pixels, 100 a "
        "scene, 1,280 numbers each; the positions of a scene are correlated. synthetic: normally "
        f"distributed within each of {SHAPES} clusters of the real ones, in the {LENGTH} "
        f"directions that hold {held:.1%} of their squared length.",
        f"{QUERIES} queries: the concepts of the default experiment and names of ImageNet, as "
        "texts. exact: `reco.method.retrieve.retrieve`, all queries in one pass.",
        f"re-ranked: the index gives {CANDIDATES} candidates, scored again by the float16 vectors.",
        f"model: seconds = images x ({model.image * 1e6:.3g} µs + concepts x "
        f"{model.product * 1e9:.3g} ns), concepts in whole lanes of {LANES}. Bare limits in the "
        f"same run: {limits['image'] * 1e6:.3g} µs to read an image's vector from memory, "
        f"{limits['product'] * 1e9:.3g} ns for a product.",
        *[
            f"building {name} takes as long as "
            + ", ".join(f"{n:.3g} exact passes for {c} concepts" for c, n in passes.items())
            for name, passes in pays.items()
        ],
        "at least: training is not counted, and with more vectors an index wants more lists, which "
        "take longer to fill.",
        "HNSW32,SQ8 was not built: computed from the size of its links.",
    ]
    if cold:
        notes.append(
            f"out of no cache: a bare read {cold[0] / 1e9:.2g} GB/s, an exact pass for 27 concepts "
            f"{cold[1] / 1e9:.2g} GB/s; in the page cache a pass takes "
            f"{2 * LENGTH / model.seconds(1, 27) / 1e9:.2g} GB/s."
        )
    title = "Retrieval at scale"
    text = "\n\n".join(
        [
            f"# {title}",
            "## An approximate index beside the exact pass",
            table(trial_table(trials)),
            f"## Recall@{K} as the index grows, 64 of {CELLS} lists looked into",
            table(growth_table(trials, 64)),
            f"## Exact passes over {LENGTH} numbers of float16",
            table(pass_table(passes, model)),
            "## What other sizes cost: extrapolated, not run",
            table(costs),
            "\n".join(f"* {note}" for note in [*notes, describe_machine()]) + "\n",
        ]
    )
    print(text)
    write_text(RESULTS / "scale.md", text)
    record = {
        "title": title,
        "machine": describe_machine(),
        "notes": notes,
        "trials": [asdict(one) for one in trials],
        "passes": [asdict(one) for one in passes],
        "model": asdict(model),
        "limits": limits,
        "builds": builds,
        "embedded_per_second": rate,
        "cold_bytes_per_second": cold,
        "extrapolated": costs.to_dict("records"),
    }
    write_json(RESULTS / "scale.json", record)
    write_figure(draw_figure(trials, model, builds), RESULTS / "scale.png")


if __name__ == "__main__":
    main()
