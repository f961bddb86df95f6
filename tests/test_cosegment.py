"""Co-segmentation against the released code's numbers and against a slow, obvious restatement."""

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reco.method import cosegment as module
from reco.method import maps
from reco.method.cosegment import context_weights, cosegment, guidance
from reco.method.maps import normalise

FIXTURES = Path(__file__).parent / "fixtures"
MERGES = {"mean": "avg", "weighted": "weighted", "winner": "winner"}
KINDS = [
    "numpy",
    "torch",
    "on an accelerator",
    pytest.param("cuda", marks=pytest.mark.gpu),
]


@pytest.fixture(params=KINDS)
def kind(request, monkeypatch):
    """Makes arrays of one kind, and takes results of that kind, and no other, back to NumPy."""
    if request.param == "on an accelerator":  # by the CPU, with the code that one would run
        monkeypatch.setattr(maps, "MAIN_MEMORY", ())
    return Kind(request.param)


@pytest.fixture(params=["on an accelerator", pytest.param("cuda", marks=pytest.mark.gpu)])
def accelerator(request, monkeypatch):
    """The device of tensors that are not computed on by NumPy."""
    if request.param == "cuda":
        return "cuda"
    monkeypatch.setattr(maps, "MAIN_MEMORY", ())
    return "cpu"


class Kind:
    def __init__(self, name):
        self.numpy, self.device = name == "numpy", "cuda" if name == "cuda" else "cpu"

    def make(self, values):
        return values if self.numpy else torch.from_numpy(values).to(self.device)

    def back(self, values):
        if self.numpy:
            assert type(values) is np.ndarray
            return values
        assert type(values) is torch.Tensor and values.device.type == self.device
        return values.cpu().numpy()


def slow_cosegment(features, weights, released=False):
    """The paper's rule with the whole adjacency matrix, loop by loop."""
    n, c, h, w = features.shape
    pixels = features.transpose(0, 2, 3, 1).reshape(n * h * w, c).astype(np.float64)
    unit = pixels / np.linalg.norm(pixels, axis=1, keepdims=True)
    adjacency = (unit @ unit.T) * weights.reshape(1, -1)
    hw = h * w
    ends = [(2 * j * hw + hw if released else (j + 1) * hw) for j in range(n)]
    best = np.stack([adjacency[:, j * hw : ends[j]].max(1) for j in range(n)], 1)
    support = best.mean(1).reshape(n, hw)
    seeds = support.argmax(1)
    mean = np.stack([pixels[i * hw + seeds[i]] for i in range(n)]).mean(0)
    return mean / np.linalg.norm(mean), np.stack(np.divmod(seeds, w), 1), support.reshape(n, h, w)


def paper_size_inputs():
    """The recipe of the fixture: random features with a planted object and near-duplicates."""
    rng = np.random.default_rng(20221128)
    n, c, h, w = 50, 384, 14, 14
    x = rng.standard_normal((n, c, h * w))
    u = rng.standard_normal(c)
    u /= np.linalg.norm(u)
    planted = rng.integers(0, h * w, n)
    x[np.arange(n), :, planted] += np.sqrt(c) * u
    for p, q in [(7, 40), (9, 43), (10, 48), (12, 46), (16, 49)]:
        duplicate = rng.standard_normal(c)
        for i in (p, q):
            k = int(rng.integers(0, h * w - 1))
            k += k >= planted[i]
            x[i, :, k] = duplicate + 0.1 * rng.standard_normal(c)
    x *= rng.uniform(0.5, 1.5, (n, 1, h * w))
    features = (np.clip(np.rint(x * 16), -127, 127) / 16).reshape(n, c, h, w).astype(np.float16)
    wt = np.rint(256 * rng.uniform(0.2, 1.0, (n, h * w)))
    wt[np.arange(n), planted] = np.maximum(wt[np.arange(n), planted], 205)
    return features, (wt / 256).reshape(n, h, w).astype(np.float16)


@pytest.mark.parametrize("weighted", ["noweights", "weights"])
@pytest.mark.parametrize("variant", ["paper", "released"])
@pytest.mark.parametrize("merge", MERGES)
def test_small_fixture(kind, merge, variant, weighted):
    data = np.load(FIXTURES / "coseg_small.npz")
    weights = kind.make(data["weights"]) if weighted == "weights" else None
    result = cosegment(kind.make(data["features"]), weights, merge=merge, variant=variant)
    name = f"{variant}__{weighted}"
    seeds = kind.back(result.seeds)
    np.testing.assert_array_equal(seeds, data[f"seed_locs__{name}"])
    support = kind.back(result.support)
    np.testing.assert_allclose(support, data[f"support__{name}"], rtol=0, atol=2e-5)
    wanted = data[f"embedding__{name}__{MERGES[merge]}"]
    np.testing.assert_allclose(kind.back(result.reference), wanted, rtol=0, atol=2e-5)
    raw = data["features"][np.arange(6), :, seeds[:, 0], seeds[:, 1]]
    np.testing.assert_array_equal(raw, data[f"seed_features__{name}"])
    if merge == "winner":
        winner = raw[data[f"winner_index__{name}"]]
        np.testing.assert_allclose(kind.back(result.reference), normalise(winner), atol=1e-6)


@pytest.mark.parametrize("weighted", ["noweights", "weights"])
@pytest.mark.parametrize("variant", ["paper", "released"])
def test_paper_size_fixture(kind, variant, weighted):
    data = np.load(FIXTURES / "coseg_paper_size.npz")
    features, weights = paper_size_inputs()
    assert hashlib.sha256(features.tobytes()).hexdigest() == str(data["features_sha256"])
    assert hashlib.sha256(weights.tobytes()).hexdigest() == str(data["weights_sha256"])
    weights = kind.make(weights) if weighted == "weights" else None
    result = cosegment(kind.make(features.astype("f4")), weights, variant=variant)
    name = f"{variant}__{weighted}"
    seeds = kind.back(result.seeds)
    np.testing.assert_array_equal(seeds, data[f"seed_locs__{name}"])
    support = kind.back(result.support)
    np.testing.assert_allclose(support, data[f"support__{name}"], rtol=0, atol=2e-5)
    wanted = data[f"embedding__{name}__avg"]
    np.testing.assert_allclose(kind.back(result.reference), wanted, rtol=0, atol=2e-5)
    raw = kind.make(features.astype("f4")[np.arange(50), :, seeds[:, 0], seeds[:, 1]])
    for merge, released in MERGES.items():
        merged = kind.back(module.merge_seeds(raw, merge))
        wanted = data[f"embedding__{name}__{released}"]
        np.testing.assert_allclose(merged, wanted, rtol=0, atol=2e-5)
    missed = np.flatnonzero((seeds != data["planted_locs"]).any(1)).tolist()
    if variant == "paper":
        assert not missed
    else:  # led away by near-duplicates
        assert missed == ([9, 10, 48] if weighted == "weights" else [9, 10, 12, 16])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("variant", ["paper", "released"])
def test_half_precision_on_an_accelerator_moves_no_seed(accelerator, variant, weighted, dtype):
    """The seeds that float32 finds in the same (rounded) features, near-duplicates among them."""
    features, weights = (torch.from_numpy(values[5:20]) for values in paper_size_inputs())
    half = features.to(getattr(torch, dtype))
    weights = weights.to(accelerator) if weighted else None
    got = cosegment(half.to(accelerator), weights, variant=variant)
    wanted = cosegment(half.to(accelerator).float(), weights, variant=variant)
    assert torch.equal(got.seeds, wanted.seeds) and torch.equal(got.reference, wanted.reference)
    off = (got.support - wanted.support).abs().max()
    assert 0 < off < module.HALF_ERROR


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("weighted", ["noweights", "weights"])
@pytest.mark.parametrize("variant", ["paper", "released"])
def test_half_precision_keeps_the_seeds_of_the_fixture(accelerator, variant, weighted, dtype):
    data = np.load(FIXTURES / "coseg_small.npz")
    values = torch.from_numpy(data["features"]).to(accelerator, getattr(torch, dtype))
    weights = torch.from_numpy(data["weights"]).to(accelerator) if weighted == "weights" else None
    seeds = cosegment(values, weights, variant=variant).seeds.cpu().numpy()
    np.testing.assert_array_equal(seeds, data[f"seed_locs__{variant}__{weighted}"])


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 6), st.integers(1, 4), st.integers(0, 999), st.integers(1, 9))
def test_blocks_of_any_size_and_weights_that_vanish_change_nothing(n, h, seed, block):
    rng = np.random.default_rng(seed)
    features, weights = random_archive(n, h, 3, seed)
    weights *= rng.choice([0, 1e-30, 1e-13, 1e-6, 1], weights.shape)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BLOCK", block)
        result = cosegment(features, weights)
    _, _, support = slow_cosegment(features, weights)
    np.testing.assert_allclose(result.support, support, rtol=1e-4, atol=1e-30)


def random_archive(n, h, w, seed):
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((n, 7, h, w)).astype(np.float32)
    return features, rng.uniform(0, 1, (n, h, w)).astype(np.float32)


ARCHIVES = (st.integers(1, 6), st.integers(1, 4), st.integers(1, 4), st.integers(0, 999))
VARIANTS = st.sampled_from(["paper", "released"])


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 6), st.integers(1, 4), st.integers(1, 4), st.booleans(), st.integers(0, 999))
def test_equals_whole_adjacency_matrix(n, h, w, released, seed):
    features, weights = random_archive(n, h, w, seed)
    result = cosegment(features, weights, variant="released" if released else "paper")
    reference, seeds, support = slow_cosegment(features, weights, released)
    np.testing.assert_allclose(result.support, support, rtol=0, atol=2e-5)
    np.testing.assert_array_equal(result.seeds, seeds)
    np.testing.assert_allclose(result.reference, reference, rtol=0, atol=2e-5)


@settings(max_examples=50, deadline=None)
@given(*ARCHIVES, VARIANTS, st.sampled_from(list(MERGES)), st.booleans())
def test_tensors_in_main_memory_give_the_bits_of_numpy(n, h, w, seed, variant, merge, weighted):
    """Also where all supports tie but for rounding, as in an archive of one image."""
    features, weights = random_archive(n, h, w, seed)
    weights = weights if weighted else None
    wanted = cosegment(features, weights, merge=merge, variant=variant)
    tensors = [None if a is None else torch.from_numpy(a) for a in (features, weights)]
    last = tensors[0].contiguous(memory_format=torch.channels_last)
    for given_ in (tensors[0], last, tensors[0].requires_grad_()):
        got = cosegment(given_, tensors[1], merge=merge, variant=variant)
        for name in ("reference", "seeds", "support"):
            np.testing.assert_array_equal(getattr(got, name).numpy(), getattr(wanted, name))


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16"])
def test_other_precisions_are_brought_to_float32(kind, dtype):
    data = np.load(FIXTURES / "coseg_small.npz")
    if kind.numpy:
        if dtype == "bfloat16":
            pytest.skip("NumPy has none")
        given_ = [data[name].astype(dtype) for name in ("features", "weights")]
        widened = [values.astype(np.float32) for values in given_]
    else:
        tensors = [kind.make(data[name]) for name in ("features", "weights")]
        given_ = [values.to(getattr(torch, dtype)) for values in tensors]
        widened = [values.float() for values in given_]
    got, wanted = cosegment(*given_), cosegment(*widened)
    np.testing.assert_array_equal(kind.back(got.seeds), kind.back(wanted.seeds))
    assert kind.back(got.reference).dtype == np.float32
    np.testing.assert_array_equal(kind.back(got.reference), kind.back(wanted.reference))
    if dtype == "float64":
        seeds = data["seed_locs__paper__weights"]
        np.testing.assert_array_equal(kind.back(got.seeds), seeds)


@settings(max_examples=50, deadline=None)
@given(*ARCHIVES, VARIANTS)
def test_the_length_of_a_feature_does_not_move_seeds(n, h, w, seed, variant):
    features, weights = random_archive(n, h, w, seed)
    scale = 2.0 ** np.random.default_rng(seed).integers(-3, 4, (n, 1, h, w))
    plain = cosegment(features, weights, variant=variant)
    scaled = cosegment(features * scale, weights, variant=variant)
    np.testing.assert_array_equal(scaled.seeds, plain.seeds)
    np.testing.assert_array_equal(scaled.support, plain.support)


@settings(max_examples=50, deadline=None)
@given(*ARCHIVES)
def test_the_order_of_images_does_not_matter_to_the_paper(n, h, w, seed):
    features, weights = random_archive(n, h, w, seed)
    order = np.random.default_rng(seed).permutation(n)
    plain = cosegment(features, weights)
    turned = cosegment(features[order], weights[order])
    np.testing.assert_array_equal(turned.seeds, plain.seeds[order])
    np.testing.assert_allclose(turned.reference, plain.reference, atol=1e-5)


def test_the_order_of_images_matters_to_the_released_code():
    features, weights = (values.astype(np.float32) for values in paper_size_inputs())
    plain = cosegment(features, weights, variant="released").seeds
    turned = cosegment(features[::-1], weights[::-1], variant="released").seeds
    assert (plain != turned[::-1]).any()


@settings(max_examples=50, deadline=None)
@given(*ARCHIVES, VARIANTS)
def test_nothing_matches_to_a_pixel_of_weight_0(n, h, w, seed, variant):
    """What such a pixel shows is no matter to the support of the others."""
    features, weights = random_archive(n, h, w, seed)
    rng = np.random.default_rng(seed)
    image, row, column = (int(rng.integers(size)) for size in (n, h, w))
    weights[image, row, column] = 0
    others = np.ones((n, h, w), bool)
    others[image, row, column] = False
    before = cosegment(features, weights, variant=variant).support
    features[image, :, row, column] = rng.standard_normal(7)
    after = cosegment(features, weights, variant=variant).support
    np.testing.assert_allclose(after[others], before[others], rtol=0, atol=1e-6)


def test_weights_of_0_everywhere_give_the_first_pixel(kind):
    features, weights = random_archive(3, 4, 5, 0)
    result = cosegment(kind.make(features), kind.make(weights * 0))
    assert not kind.back(result.seeds).any() and not kind.back(result.support).any()


@pytest.mark.parametrize("merge", MERGES)
def test_every_merge_works_at_every_size(merge):
    """`weighted` of the released code crashes for some, among them 49, 98 and 103."""
    for n in range(1, 201):
        features = np.random.default_rng(n).standard_normal((n, 4, 1, 1)).astype(np.float32)
        result = cosegment(features, merge=merge)
        seeds = features[:, :, 0, 0].astype(float)
        if merge == "winner":
            unit = normalise(seeds)
            wanted = seeds[(unit @ unit.T).sum(1).argmax()]
        else:
            falling = 1 - np.arange(n) / n if merge == "weighted" else np.ones(n)
            wanted = (falling[:, None] * seeds).sum(0)
        np.testing.assert_allclose(result.reference, normalise(wanted), atol=1e-5)


def test_bad_inputs_are_named(kind):
    good = kind.make(np.ones((2, 3, 4, 4), dtype=np.float32))
    weights = kind.make(np.ones((2, 4, 4), dtype=np.float32))
    with pytest.raises(ValueError, match=r"features must be .* not \(3, 4, 4\)"):
        cosegment(good[0])
    for wrong in (weights[:1], weights[:, :2], weights[None]):
        with pytest.raises(ValueError, match=r"weights must be \(2, 4, 4\), not \("):
            cosegment(good, wrong)
    for value in (-0.01, 1.01, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=r"weights must be in \[0, 1\]"):
            cosegment(good, weights * value)
    for value in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="nan or infinity"):
            cosegment(good * value)
    with pytest.raises(ValueError, match="merge"):
        cosegment(good, merge="median")
    with pytest.raises(ValueError, match="variant"):
        cosegment(good, variant="published")
    with pytest.raises(ValueError, match="empty"):
        cosegment(good[:0])


def test_jobs_of_a_concept_load_no_deep_learning_framework():
    code = """
import sys
import numpy as np
import reco.method.references
from reco.method.cosegment import context_weights, cosegment, guidance
features = np.ones((2, 3, 4, 4), np.float32)
weights = guidance(features, features[0, :, 0, 0], (4, 4)) * context_weights(features, np.eye(3))
cosegment(features, weights)
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("which", ["single", "multi"])
@pytest.mark.parametrize(("way", "size"), [("native", (5, 7)), ("up", (10, 9)), ("down", (3, 4))])
def test_guidance_fixture(kind, which, way, size):
    data = np.load(FIXTURES / "text_attention.npz")
    text = kind.make(data[f"text_{which}"])
    found = kind.back(guidance(kind.make(data["features"]), text, size))
    np.testing.assert_allclose(found, data[f"attention_{which}_{way}"], rtol=0, atol=2e-5)
    if (which, way) == ("multi", "up"):  # the other order is another result
        other = data["attention_multi_up_resize_before_sigmoid"]
        assert np.abs(found - other).max() > 1e-3


@pytest.mark.parametrize("way", ["none", "text", "context", "both"])
@pytest.mark.parametrize("variant", ["paper", "released"])
def test_context_fixture(kind, variant, way):
    data = np.load(FIXTURES / "context_weights.npz")
    features, dense, text, contexts = (
        kind.make(data[name])
        for name in ("features", "dense_clip_features", "text_feature", "context_features")
    )
    weights = kind.make(np.ones((6, 7, 5), dtype=np.float32))
    if way in ("text", "both"):
        weights = weights * guidance(dense, text, (7, 5))
    if way in ("context", "both"):
        weights = weights * context_weights(features, contexts)
    np.testing.assert_allclose(kind.back(weights), data[f"weights__{way}"], rtol=0, atol=2e-5)
    result = cosegment(features, weights, variant=variant)
    np.testing.assert_array_equal(kind.back(result.seeds), data[f"seed_locs__{variant}__{way}"])
    wanted = data[f"embedding__{variant}__{way}"]
    np.testing.assert_allclose(kind.back(result.reference), wanted, rtol=0, atol=2e-5)


def test_context_similarity_fixture():
    data = np.load(FIXTURES / "context_weights.npz")
    for i in range(3):
        one = context_weights(data["features"], data["context_features"][i : i + 1])
        wanted = 1 - data["context_similarity_weights"][:, i]
        np.testing.assert_allclose(one, wanted, rtol=0, atol=2e-5)


@settings(max_examples=50, deadline=None)
@given(*[st.integers(1, 9)] * 4, st.floats(0, 1000), st.integers(0, 999))
def test_guidance_is_a_weight_at_every_temperature(h, w, tall, wide, temperature, seed):
    rng = np.random.default_rng(seed)
    dense, text = rng.standard_normal((2, 3, h, w)), normalise(rng.standard_normal(3))
    weights = guidance(dense.astype("f4"), text.astype("f4"), (tall, wide), temperature)
    cosegment(rng.standard_normal((2, 3, tall, wide)), weights)  # or it would be refused
